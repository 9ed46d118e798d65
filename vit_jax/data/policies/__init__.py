"""What the host does to the pixels of training crops, as functions of given draws.

Each augmentation is a `Step`: uint8 [h, w, 3] and a few uniform numbers in, uint8 out.
`augmented` chains them behind the crop, so that a row of a batch stays a pure function
of the seed and of its position.
"""
