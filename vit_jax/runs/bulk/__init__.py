"""A model over many images: what is read, computed ahead, written and gone on with."""
