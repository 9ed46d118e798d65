"""What is inside a Vision Transformer, as numbers and as pictures.

`looking` runs a model; what it finds is numpy arrays. `attention`, `rollout`,
`distance`, `posemb`, `filters`, `similarity` and `curves` are arithmetic on arrays
alone, for notebooks too. `drawing` and `plots` draw with matplotlib, an extra,
`writing` puts all into a folder; `payload` is all of it in small arrays, for a page.
"""
