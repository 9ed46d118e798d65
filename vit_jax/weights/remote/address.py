"""What a URL says, and which URLs are followed."""

import re
import urllib.parse

from vit_jax import errors

GOOGLE = "https://storage.googleapis.com"
MAX_LENGTH = 4000

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_DIGEST = re.compile(r"#sha256=([^#]*)$")


def scheme(url: str) -> str:
    """Returns the scheme of a URL in lower case, "" for what is no URL."""
    match = _SCHEME.match(url)
    return match[1].lower() if match else ""


def shown(url: str) -> str:
    """Returns a URL for people: queries may hold signatures, userinfo a password."""
    if scheme(url) != "hf":
        url = re.sub(r"^([^/]*//)[^/]*@", r"\1", url)
    bare, mark, _ = url.partition("?")
    bare = re.sub(r"[^\x20-\x7e]", "?", bare)
    return bare[:300] + ("..." if mark or len(bare) > 300 else "")


def split_digest(url: str, sha256: str | None) -> tuple[str, str | None]:
    """Takes `#sha256=HEX` off a URL and checks it against the one that was given.

    Returns:
        The URL with its scheme in lower case, and the digest in lower case or None.

    Raises:
        errors.UserError: no URL, no digest, or two of them.
    """
    match = _DIGEST.search(url)
    digests = {d.lower() for d in (match and match[1], sha256) if d is not None}
    url = url[: match.start()] if match else url
    if len(url) > MAX_LENGTH or re.search(r"[\x00-\x20\x7f]", url):
        raise errors.UserError(
            f"{shown(url)} is no URL: it is too long, or has spaces or control "
            "characters in it (a space is written %20)."
        )
    for digest in digests:
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise errors.UserError(
                f"{shown(url)}: sha256={digest[:100]!r} is no SHA-256, which has 64 "
                "hexadecimal digits."
            )
    if len(digests) > 1:
        raise errors.UserError(f"{shown(url)}: its sha256 and the argument differ.")
    _, mark, rest = url.partition("://")
    return f"{scheme(url)}{mark}{rest}", digests.pop() if digests else None


def file_name(url: str) -> str:
    """Returns a readable and harmless name for the file of a URL.

    Raises:
        errors.UserError: the URL is one of a folder.
    """
    _, _, path = url.partition("://")[2].partition("/")
    if scheme(url) != "gs":
        path = urllib.parse.unquote(re.split("[?#]", path)[0])
    last = path.rpartition("/")[2]
    name = re.sub(r"[^\w.+=-]", "_", last, flags=re.ASCII)[-120:].lstrip(".")
    if not name:
        raise errors.UserError(
            f"{shown(url)} is a folder, not a file. A checkpoint that is a folder "
            "(orbax, tensorstore) has to be copied first:\n"
            f"  gcloud storage cp -r {shown(url)} .\nand is then loaded by its path."
        )
    return name


def check(http_url: str) -> None:
    """Raises a `UserError` unless a URL is https, or http of this machine."""
    parts = host = None
    try:
        parts = urllib.parse.urlsplit(http_url)
        host = None if parts.username is not None else parts.hostname
    except ValueError:
        pass
    if parts is None or not host:
        raise errors.UserError(
            f"{shown(http_url)} is no URL: wanted https://host/path, no user name."
        )
    local = host in ("localhost", "127.0.0.1")
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise errors.UserError(
            f"{shown(http_url)} is not encrypted: only https:// is fetched."
        )


def on_the_web(url: str) -> str:
    """Returns where an https, http or gs URL is to be had.

    Raises:
        errors.UserError: an address that is not followed, or no bucket's name.
    """
    if scheme(url) != "gs":
        bare = url.partition("#")[0]
        check(bare)
        return urllib.parse.quote(bare, safe="/%:?&=+,;@!$~*()[]'")
    bucket, _, name = url.removeprefix("gs://").partition("/")
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,221}", bucket):
        raise errors.UserError(f"{shown(url)}: {bucket[:80]!r} is no bucket's name.")
    return f"{GOOGLE}/{bucket}/{urllib.parse.quote(name, safe='/')}"
