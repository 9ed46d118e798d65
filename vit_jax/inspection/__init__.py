"""What is inside a Vision Transformer, as numbers and as pictures.

`looking` runs a model; what it finds is numpy arrays. `attention`, `rollout`,
`distance`, `posemb`, `filters` and `similarity` are arithmetic on arrays alone, for
notebooks too; `payload` is all of it in small arrays, for a page.
"""
