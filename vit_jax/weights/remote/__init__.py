"""Files by URL: https, Google's and Hugging Face's storage, kept in a local cache.

    remote.fetch("gs://vit_models/augreg/index.csv")
    remote.fetch("https://example.org/model.safetensors#sha256=3f0a...")
    remote.fetch("hf://google/vit-base-patch16-224@main/model.safetensors")

The cache is `$VIT_JAX_CACHE`, else `$XDG_CACHE_HOME/vit_jax`, else
`~/.cache/vit_jax`: a folder for each URL, named by the URL's hash, so that what a URL
says never decides where something is written. What is there is used without asking
the network; deleting the folder fetches it anew. Models of Hugging Face's hub are in
its own cache, `$HF_HUB_CACHE`, where other programs find them too.
"""

from vit_jax.weights.remote.fetching import fetch, is_remote

__all__ = ["fetch", "is_remote"]
