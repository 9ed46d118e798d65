"""Downloads over http: resumed where they stopped, tried again, checked."""

import base64
import contextlib
import email.message
import http.client
import importlib
import json
import logging
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any
from urllib.request import Request

from vit_jax import errors
from vit_jax.host import files as host_files
from vit_jax.settings import documents
from vit_jax.weights.remote import address, cache

TIMEOUT_SECONDS = 30
RETRIES = 3
BACKOFF_SECONDS = 1.0  # before the first retry; doubled for each further one
PROGRESS_SECONDS = 5.0
CHUNK = 1 << 20
READ_ONLY = "https://www.googleapis.com/auth/devstorage.read_only"

# What says how the weights beside them are to be read.
COMPANIONS = ("config.json", "preprocessor_config.json", "processor_config.json")

_PASSING = (
    TimeoutError,
    ConnectionResetError,
    ConnectionAbortedError,
    BrokenPipeError,
    http.client.IncompleteRead,
    http.client.RemoteDisconnected,
    ssl.SSLEOFError,
)


class Refused(errors.UserError):
    """The server has no such file, or not for us."""


class Passing(Exception):
    """A failure that another try may mend."""


@dataclass(frozen=True)
class Remote:
    """What a server says of a file.

    Attributes:
        size: Bytes; None: it does not say.
        tag: What changes with the content, a strong ETag or the date; a resumed
            download is of the same.
        md5: In hexadecimal, where Google says it.
    """

    size: int | None
    tag: str | None
    md5: str | None


def get(url: str, root: Path, path: Path, expected: str | None) -> Path:
    """Downloads a file to `path`, and what belongs to it; the file appears last.

    Raises:
        errors.UserError: as `remote.fetch`.
        OSError: the cache cannot be written.
    """
    partial = cache.beside(path, ".partial")
    remote = download(url, partial)
    sha256 = cache.digest(partial, "sha256")
    problem = None
    if expected and sha256 != expected:
        problem = cache.mismatch(url, "sha256", expected, sha256)
    elif remote.md5 and (md5 := cache.digest(partial, "md5")) != remote.md5:
        problem = cache.mismatch(url, "md5", remote.md5, md5)
    if problem:
        _forget(partial)
        raise problem
    if is_described(path):
        for name in COMPANIONS:
            _companion(url, path.with_name(name))
    size = partial.stat().st_size
    cache.keep(root, path, url, path, size=size, etag=remote.tag, sha256=sha256)
    partial.replace(path)
    _forget(partial)
    return path


def is_described(path: Path) -> bool:
    """Returns whether a file is of a kind that `COMPANIONS` lie beside."""
    return path.suffix in (".safetensors", ".bin")


def _companion(url: str, path: Path) -> None:
    """Downloads the file named like `path` from beside `url`, if the server has it."""
    partial = cache.beside(path, ".partial")
    bare, mark, query = url.partition("?")
    try:
        download(f"{bare.rpartition('/')[0]}/{path.name}{mark}{query}", partial)
    except Refused:  # a store that does not list answers 403 for what is not there
        path.unlink(missing_ok=True)
    else:
        partial.replace(path)
    _forget(partial)


def _state(partial: Path) -> Path:
    return cache.beside(partial, ".json")


def _forget(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    _state(partial).unlink(missing_ok=True)


def download(url: str, partial: Path) -> Remote:
    """Brings all of a URL into a file, going on from what is there, trying again.

    Raises:
        errors.UserError: it cannot be had; `Refused` if the server will not give it.
        OSError: the file cannot be written.
    """
    for attempt in range(RETRIES):
        try:
            return _attempt(url, partial)
        except Passing as error:
            delay = BACKOFF_SECONDS * 2**attempt
            logging.warning("%s: %s; again in %g s", address.shown(url), error, delay)
            time.sleep(delay)
    try:
        return _attempt(url, partial)
    except Passing as error:
        raise errors.UserError(
            f"{address.shown(url)} could not be fetched in {RETRIES + 1} tries: "
            f"{error}\nWhat has come so far is kept: the same command goes on from it."
        ) from error


def _attempt(url: str, partial: Path) -> Remote:
    known, have = _resumable(partial)
    if known and known.size == have:
        return known
    headers = {"User-Agent": "vit_jax"}
    if known:
        headers |= {"Range": f"bytes={have}-", "If-Range": str(known.tag)}
    with contextlib.closing(_open(url, headers, partial)) as response:
        if known and response.status == 206:
            rest = f"bytes {have}-{(known.size or 0) - 1}/{known.size}"
            if response.headers["Content-Range"] != rest:
                _forget(partial)
                raise Passing("the server went on from another place")
            logging.info("%s: going on at %s", address.shown(url), _size(have))
            remote, mode = known, "ab"
        else:
            _check_type(url, response.headers)
            remote, have, mode = _described(response.headers), 0, "wb"
            partial.unlink(missing_ok=True)  # not of what the state will tell
            host_files.write_whole(_state(partial), json.dumps(asdict(remote)))
        room = shutil.disk_usage(partial.parent).free
        if remote.size is not None and remote.size - have > room:
            raise errors.UserError(
                f"{address.shown(url)} needs {_size(remote.size - have)}; "
                f"{partial.parent} has room for {_size(room)}.\n"
                "Set VIT_JAX_CACHE to a folder elsewhere."
            )
        with partial.open(mode) as out:
            _copy(url, response, out, have, remote.size)
    return remote


def _resumable(partial: Path) -> tuple[Remote | None, int]:
    """What is known of a download that was interrupted, and how far it came."""
    try:
        remote = Remote(**documents.read_object(_state(partial)))
        have = partial.stat().st_size
    except (OSError, ValueError, TypeError):
        return None, 0
    if remote.size is None or not remote.tag or not 0 < have <= remote.size:
        return None, 0
    return remote, have


def _described(headers: email.message.Message) -> Remote:
    length, tag = headers["Content-Length"], headers["ETag"]
    if tag is None or tag.startswith("W/"):  # a weak tag does not promise equal bytes
        tag = headers["Last-Modified"]
    # Google's hash is of the object as it is stored, which may be compressed.
    stored = headers["x-goog-stored-content-encoding"] or "identity"
    hashes = ",".join(headers.get_all("x-goog-hash") or [])
    md5 = re.search(r"\bmd5=([\w+/]{22}==)", hashes) if stored == "identity" else None
    return Remote(
        int(length) if length and length.isdecimal() else None,
        tag,
        base64.b64decode(md5[1]).hex() if md5 else None,
    )


def _check_type(url: str, headers: email.message.Message) -> None:
    encoding = headers["Content-Encoding"] or "identity"
    if headers.get_content_type() == "text/html":
        raise errors.UserError(
            f"{address.shown(url)} is a web page, not a file: use the address of its "
            "download button."
        )
    if encoding != "identity":
        raise errors.UserError(
            f"{address.shown(url)}: the server packs it ({encoding[:40]}) without "
            "being asked to: fetch it by other means and give its path."
        )


def _copy(
    url: str,
    response: http.client.HTTPResponse,
    out: IO[bytes],
    have: int,
    size: int | None,
) -> None:
    """Copies a response to its end, and logs how far it is."""
    first, started = have, time.monotonic()
    reported = started
    while chunk := _read(response):
        out.write(chunk)
        have += len(chunk)
        now = time.monotonic()
        if now - reported >= PROGRESS_SECONDS:
            reported, rate = now, (have - first) / (now - started)
            so_far = f"{_size(have)} at {_size(rate)}/s"
            if size is not None:
                so_far += f" of {_size(size)}, {(size - have) / rate:.0f} s left"
            logging.info("%s: %s", address.shown(url), so_far)
    if size is not None and have != size:
        raise Passing(f"it ended after {have:,} of {size:,} bytes")
    logging.info("fetched %s, %s", address.shown(url), _size(have))


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise Passing(f"the connection broke: {errors.reason(error)}") from error


def _size(count: float) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count:,.0f} bytes"


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to where a URL may lead, and never off https."""

    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        address.check(newurl)
        if req.type == "https" and address.scheme(newurl) != "https":
            raise errors.UserError(
                f"{address.shown(req.full_url)} leads to {address.shown(newurl)}, "
                "which is not encrypted: refused."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(url: str, headers: dict[str, str], partial: Path) -> http.client.HTTPResponse:
    """Opens a URL; what another try may mend is `Passing`."""
    where = address.on_the_web(url)
    opener = urllib.request.build_opener(_Redirects)
    request = urllib.request.Request(where, headers=headers)
    try:
        try:
            return opener.open(request, timeout=TIMEOUT_SECONDS)
        except urllib.error.HTTPError as error:
            google = where.startswith(f"{address.GOOGLE}/")
            token = _google_token() if google and error.code in (401, 403) else None
            if token is None:
                raise
            error.close()
            # Unredirected: a token for Google goes to nobody else.
            request.add_unredirected_header("Authorization", f"Bearer {token}")
            return opener.open(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        raise _refusal(url, error.code, partial) from None
    except (OSError, http.client.HTTPException) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, _PASSING):
            raise Passing(errors.reason(cause)) from error
        raise errors.UserError(
            f"{address.shown(url)} cannot be reached: {errors.reason(cause)}\n"
            "Without network, copy the file here by other means and give its path."
        ) from error


def _refusal(url: str, code: int, partial: Path) -> Exception:
    """The exception for an answer that is no file."""
    said = http.client.responses[code] if code in http.client.responses else "?"
    what = f"{address.shown(url)}: the server answers {code} ({said})"
    if code == 416:  # the file is shorter than when the download began
        _forget(partial)
    if code in (408, 416, 429) or code >= 500:
        return Passing(what)
    copy = f"gcloud storage cp -r {address.shown(url)} ."
    google = address.scheme(url) == "gs"
    if code in (401, 403) and google:
        return Refused(
            f"{what}: it is not public, or not there.\nWith the right to read it, "
            f"copy it and give its path:\n  {copy}\nor: pip install google-auth "
            "requests; gcloud auth application-default login"
        )
    if code in (401, 403):
        return Refused(f"{what}: not for everyone. Copy it here and give its path.")
    if code in (404, 410) and google:
        return Refused(
            f"{what}: there is no such object.\nA checkpoint that is a folder (orbax, "
            f"tensorstore) has to be copied first:\n  {copy}\nor, if it is ours: "
            "pip install 'vit_jax[gcs]'"
        )
    if code in (404, 410):
        return Refused(f"{what}: there is no such file.")
    return errors.UserError(f"{what}, which is no file.")


def _google_token() -> str | None:
    """A token of the user's own Google login; None where there is none."""
    try:
        auth = importlib.import_module("google.auth")
        problems = importlib.import_module("google.auth.exceptions")
        transport = importlib.import_module("google.auth.transport.requests")
    except ImportError:
        return None
    try:
        credentials, _ = auth.default(scopes=[READ_ONLY])
        credentials.refresh(transport.Request())
    except problems.GoogleAuthError as error:
        logging.warning("no Google login: %s", errors.reason(error))
        return None
    return credentials.token
