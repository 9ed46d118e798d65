"""From a URL to a local file: what is cached, and who gets the rest."""

import hashlib
from pathlib import Path

from vit_jax import errors
from vit_jax.weights.remote import address, cache, hub, hubcache, server

HUB = "hf"
# Who brings other files: `(url, root of the cache, path, expected sha256) -> path`.
GETTERS = {
    "https": server.get,
    "http": server.get,
    "gs": server.get,
}


def is_remote(path: str | Path) -> bool:
    """Returns whether a path is a URL, of a kind that `fetch` knows or not."""
    return isinstance(path, str) and address.scheme(path) != ""


def fetch(
    url: str, *, sha256: str | None = None, cache_dir: Path | None = None
) -> Path:
    """Returns the local copy of a remote file, downloading it if it is not there.

    Beside a `.safetensors` or `.bin` file lie its `config.json` and
    `preprocessor_config.json`, where the server has them. An interrupted download goes
    on where it stopped; two processes may ask for the same URL at once. Models of the
    hub lie in Hugging Face's own cache, see `hubcache`.

    Args:
        url: `https://...` (`http://` of this machine only), `gs://bucket/object`, or
            `hf://org/name[@revision][/file]`, by default the main branch's first of
            `hub.DEFAULT_FILES`. It may end in `#sha256=HEX`.
        sha256: Of the file, in hexadecimal; another content is an error.
        cache_dir: Instead of the default caches.

    Raises:
        errors.UserError: no such file or no access, another content, no network, an
            unknown kind of URL, or a cache that cannot be written.
    """
    url, expected = address.split_digest(url, sha256)
    scheme = address.scheme(url)
    root = cache.root() if cache_dir is None else Path(cache_dir)
    if scheme == HUB:
        own = root / "hub"  # where we kept them before the hub's cache was read
        caches = (hubcache.root(), own) if cache_dir is None else (own,)
        return hub.get(url, caches, expected)
    if scheme not in GETTERS:
        raise errors.UserError(
            f"{address.shown(url)} cannot be fetched: wanted an https, gs or hf URL.\n"
            "Copy the file here by other means and give its path."
        )
    folder = root / hashlib.sha256(url.encode()).hexdigest()[:32]
    path = folder / address.file_name(url)
    found = cache.find(root, path)
    if found is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with cache.alone(folder):
                found = cache.find(root, path)
                if found is None:
                    return GETTERS[scheme](url, root, path, expected)
        except OSError as error:
            raise errors.UserError(
                f"{address.shown(url)} cannot be kept in {root}: {error}\n"
                "Set VIT_JAX_CACHE to a folder with room that can be written to."
            ) from error
    if expected and (got := cache.digest(found, "sha256")) != expected:
        raise cache.differs(url, found, expected, got)
    return found
