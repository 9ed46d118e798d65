"""Downloads from a server of our own: whole, resumed, refused, checked, cached."""

import base64
import hashlib
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from vit_jax import errors
from vit_jax.weights import remote
from vit_jax.weights.remote import address, server

CONTENT = np.random.default_rng(0).bytes(3_000_017)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = base64.b64encode(hashlib.md5(CONTENT).digest()).decode()


class Handler(BaseHTTPRequestHandler):
    """Serves `server.files` and does what `server.faults` say, one a request."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        state = self.server
        state.requests.append((self.command, self.path, dict(self.headers)))
        faults = state.faults.get(self.path)
        fault = faults.pop(0) if faults else None
        if isinstance(fault, tuple):  # (status, headers[, content])
            return self.answer(fault[0], b"".join(fault[2:]), fault[1])
        if self.path not in state.files:
            return self.answer(404, b"none", state.missing)
        content, headers = state.files[self.path]
        wanted = self.headers["Authorization"]
        if state.token and wanted != f"Bearer {state.token}":
            return self.answer(403, b"", {})
        span = self.headers["Range"]
        if span and state.ranges and self.headers["If-Range"] == headers.get("ETag"):
            start = int(span.removeprefix("bytes=").removesuffix("-"))
            rest = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self.answer(206, content[start:], headers | {"Content-Range": rest})
        self.answer(200, content, headers, keep=fault)

    def answer(self, status, content, headers, keep=None):
        self.send_response(status)
        if "Transfer-Encoding" not in headers:
            self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if "Transfer-Encoding" in headers:
            content = b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)
        self.wfile.write(content[:keep])
        if keep is not None:
            self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def web(monkeypatch, tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        web.daemon_threads = True
        web.handle_error = lambda *args: None  # clients that went away
        web.files = {"/dir/a.npz": (CONTENT, {"ETag": '"one"'})}
        web.faults, web.requests, web.missing = {}, [], {}
        web.ranges, web.token = True, None
        web.url = f"http://127.0.0.1:{web.server_port}"
        threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("VIT_JAX_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(server, "BACKOFF_SECONDS", 0.01)
        yield web
        web.shutdown()


def paths(web):
    return [path for _, path, _ in web.requests]


def files(folder):
    return sorted(
        p.name for p in folder.rglob("*") if p.is_file() and p.name != ".lock"
    )


def refused(url, **arguments):
    with pytest.raises(errors.UserError) as caught:
        remote.fetch(url, **arguments)
    assert len(str(caught.value).splitlines()) <= 10
    return str(caught.value)


def test_a_file_is_fetched_once_and_recorded(web, tmp_path):
    path = remote.fetch(f"{web.url}/dir/a.npz")
    assert path.read_bytes() == CONTENT and path.name == "a.npz"
    assert path.is_relative_to(tmp_path / "cache")
    record = json.loads(path.with_name("a.npz.json").read_text())
    assert (record["size"], record["sha256"]) == (len(CONTENT), SHA256)
    assert (record["url"], record["etag"]) == (f"{web.url}/dir/a.npz", '"one"')
    assert files(path.parent) == ["a.npz", "a.npz.json"]
    web.shutdown()
    assert remote.fetch(f"{web.url}/dir/a.npz") == path
    assert paths(web) == ["/dir/a.npz"]


def test_a_cache_that_cannot_be_written_still_serves(web, tmp_path, monkeypatch):
    path = remote.fetch(f"{web.url}/dir/a.npz")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.mkdir", full)
    assert remote.fetch(f"{web.url}/dir/a.npz") == path
    message = refused(f"{web.url}/dir/b.npz")
    assert "cannot be kept in" in message and "VIT_JAX_CACHE" in message


def test_a_cached_file_of_another_size_is_fetched_again(web):
    path = remote.fetch(f"{web.url}/dir/a.npz")
    path.write_bytes(CONTENT[:-1])
    assert remote.fetch(f"{web.url}/dir/a.npz").read_bytes() == CONTENT
    assert len(web.requests) == 2


@pytest.mark.parametrize("environment", ["VIT_JAX_CACHE", "XDG_CACHE_HOME", "HOME"])
def test_where_the_cache_is(web, tmp_path, monkeypatch, environment):
    for name in ("VIT_JAX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(environment, str(tmp_path))
    inner = {"VIT_JAX_CACHE": "", "XDG_CACHE_HOME": "vit_jax"}
    folder = tmp_path / inner.get(environment, ".cache/vit_jax")
    assert remote.fetch(f"{web.url}/dir/a.npz").parent.parent == folder


@pytest.mark.parametrize("digest", [SHA256, SHA256.upper()])
def test_the_right_digest_passes(web, digest):
    remote.fetch(f"{web.url}/dir/a.npz#sha256={digest}")
    remote.fetch(f"{web.url}/dir/a.npz", sha256=digest)
    assert len(web.requests) == 1  # the digest is no part of what is cached


def test_a_wrong_digest_keeps_nothing(web, tmp_path):
    wrong = "0" * 64
    assert f"got    sha256 {SHA256}" in refused(f"{web.url}/dir/a.npz#sha256={wrong}")
    assert files(tmp_path / "cache") == []
    path = remote.fetch(f"{web.url}/dir/a.npz")
    assert "not what was asked for" in refused(f"{web.url}/dir/a.npz", sha256=wrong)
    assert path.exists()
    path.write_bytes(CONTENT[::-1])  # the same size
    assert "not what was asked for" in refused(f"{web.url}/dir/a.npz", sha256=SHA256)


@pytest.mark.parametrize("digest", ["", "12", "g" * 64, "0" * 65])
def test_what_is_no_digest(web, digest):
    assert "no SHA-256" in refused(f"{web.url}/dir/a.npz#sha256={digest}")
    both = f"{web.url}/dir/a.npz#sha256={'0' * 64}"
    assert "argument differ" in refused(both, sha256="1" * 64)
    assert web.requests == []


def test_missing_files_and_refusals_are_not_tried_again(web):
    for status, says in ((404, "no such file"), (403, "not for everyone")):
        web.requests.clear()
        web.faults["/x"] = [(status, {})]
        assert says in refused(f"{web.url}/x")
        assert len(web.requests) == 1
    web.faults["/x"] = [(418, {})]
    assert "418" in refused(f"{web.url}/x")


def test_passing_failures_are_tried_again(web):
    web.faults["/dir/a.npz"] = [(503, {}), (429, {}), (500, {})]
    assert remote.fetch(f"{web.url}/dir/a.npz").read_bytes() == CONTENT
    web.files["/b"] = (b"b", {})
    web.faults["/b"] = [(500, {})] * 4
    assert "in 4 tries" in refused(f"{web.url}/b")
    assert remote.fetch(f"{web.url}/b").read_bytes() == b"b"


def test_a_timeout_is_tried_again(web, monkeypatch):
    monkeypatch.setattr(server, "TIMEOUT_SECONDS", 0.2)
    event = threading.Event()
    original = Handler.do_GET

    def slow(self):
        if not self.server.requests:
            self.server.requests.append(None)
            event.wait(5)
        else:
            original(self)

    monkeypatch.setattr(Handler, "do_GET", slow)
    assert remote.fetch(f"{web.url}/dir/a.npz").read_bytes() == CONTENT
    event.set()


def test_a_broken_download_goes_on_where_it_stopped(web):
    web.faults["/dir/a.npz"] = [2_000_000]
    assert remote.fetch(f"{web.url}/dir/a.npz", sha256=SHA256).stat().st_size
    _, _, headers = web.requests[1]
    assert headers["Range"] == "bytes=2000000-" and headers["If-Range"] == '"one"'
    assert len(web.requests) == 2


def test_the_next_command_goes_on_where_the_last_one_stopped(web):
    web.faults["/dir/a.npz"] = [2_000_000] + [(500, {})] * 3
    assert "is kept" in refused(f"{web.url}/dir/a.npz")
    path = remote.fetch(f"{web.url}/dir/a.npz")
    assert web.requests[-1][2]["Range"] == "bytes=2000000-"
    assert path.read_bytes() == CONTENT and len(files(path.parent)) == 2


def test_a_download_that_was_cut_off_at_its_end_needs_no_network(web, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(server.cache, "digest", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            remote.fetch(f"{web.url}/dir/a.npz")
    assert remote.fetch(f"{web.url}/dir/a.npz").read_bytes() == CONTENT
    assert len(web.requests) == 1


@pytest.mark.parametrize("change", ["no ranges", "new file", "no tag", "weak tag"])
def test_a_download_that_cannot_go_on_starts_again(web, change):
    web.faults["/dir/a.npz"] = [2_000_000] + [(500, {})] * 3
    if change in ("no tag", "weak tag"):
        tag = {} if change == "no tag" else {"ETag": 'W/"one"'}
        web.files["/dir/a.npz"] = (CONTENT, tag)
    refused(f"{web.url}/dir/a.npz")
    web.ranges = change != "no ranges"
    tags = {"new file": {"ETag": '"two"'}, "weak tag": {"ETag": 'W/"one"'}}
    new = CONTENT[::-1] if change in tags else CONTENT
    if change in tags:
        web.files["/dir/a.npz"] = (new, tags[change])
    assert remote.fetch(f"{web.url}/dir/a.npz").read_bytes() == new


def test_a_file_that_shrank_meanwhile(web):
    web.faults["/dir/a.npz"] = [2_000_000, (416, {})]
    assert remote.fetch(f"{web.url}/dir/a.npz").read_bytes() == CONTENT
    assert "Range" not in web.requests[2][2]


def test_a_server_that_goes_on_elsewhere(web):
    wrong = {"Content-Range": f"bytes 1000-3000016/{len(CONTENT)}"}
    web.faults["/dir/a.npz"] = [2_000_000, (206, wrong, bytes(1_000_017))]
    assert remote.fetch(f"{web.url}/dir/a.npz").read_bytes() == CONTENT


def test_a_body_of_no_stated_length(web):
    web.files["/b"] = (CONTENT, {"Transfer-Encoding": "chunked"})
    assert remote.fetch(f"{web.url}/b").read_bytes() == CONTENT
    web.files["/c"] = (CONTENT, {"Transfer-Encoding": "chunked"})
    web.faults["/c"] = [1000] * 4
    assert "connection broke" in refused(f"{web.url}/c")


def test_web_pages_and_packed_answers_are_not_files(web):
    web.files["/a.npz"] = (b"<html>", {"Content-Type": "text/html; charset=utf-8"})
    assert "is a web page" in refused(f"{web.url}/a.npz")
    web.files["/b.npz"] = (b"xx", {"Content-Encoding": "gzip"})
    assert "packs it (gzip)" in refused(f"{web.url}/b.npz")


def test_no_room(web, monkeypatch):
    usage = types.SimpleNamespace(free=1000)
    monkeypatch.setattr(server.shutil, "disk_usage", lambda _: usage)
    assert "has room for 1,000 bytes" in refused(f"{web.url}/dir/a.npz")


@pytest.mark.parametrize(
    "url",
    [
        "/..%2f..%2f..%2fetc%2fpasswd",
        "/x/%2e%2e%2f%2e%2e%2fb",
        "/.lock",
        "/...",
        "/a/.bashrc",
        "/c:%5cwindows",
        "/" + "n" * 1000,
        "/%00",
        "/%E2%80%AE.npz",
    ],
)
def test_names_stay_inside_the_cache(web, tmp_path, url):
    web.files[url] = (b"content", {})
    try:
        path = remote.fetch(web.url + url)
    except errors.UserError as error:
        assert "is a folder" in str(error)
        assert not web.requests
    else:
        assert path.resolve().parent.parent == tmp_path / "cache"
        assert path.name.isascii() and not path.name.startswith(".")
        assert path.read_bytes() == b"content"
    for found in tmp_path.rglob("*"):
        assert found.is_relative_to(tmp_path / "cache")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://bucket/a.npz", "wanted an https, gs or hf URL"),
        ("file:///etc/passwd", "wanted an https, gs or hf URL"),
        ("a.npz", "wanted an https, gs or hf URL"),
        ("http://example.org/a.npz", "not encrypted"),
        ("http://127.0.0.1.example.org/a.npz", "not encrypted"),
        ("https://user:secret@example.org/a.npz", "no user name"),
        ("https:///a.npz", "no URL"),
        ("https://[::1/a.npz", "no URL"),
        ("https://example.org/a b.npz", "no URL"),
        ("https://example.org/a\r\nHost: b", "no URL"),
        ("https://example.org/" + "a" * 5000, "too long"),
        ("https://example.org:port/a.npz", "cannot be reached"),
        ("https://example.org/folder/", "is a folder"),
        ("https://example.org", "is a folder"),
        ("gs://bucket/run/checkpoint/", "gcloud storage cp -r gs://bucket/run/"),
        ("gs://bucket", "is a folder"),
        ("gs://Bucket!/a.npz", "no bucket's name"),
        ("gs://a@b/../c/a.npz", "no bucket's name"),
        ("hf://name", "no file of the hub"),
        ("hf://org/name/../../x", "no file of the hub"),
        ("hf://org/name/%2e%2e/x", "no file of the hub"),
    ],
)
def test_urls_that_are_not_followed(tmp_path, monkeypatch, url, says):
    def offline(*args, **kwargs):
        raise AssertionError("asked the network")

    monkeypatch.setattr("socket.socket.connect", offline)
    message = refused(url, cache_dir=tmp_path / "cache")
    assert says in message and "secret" not in message and len(message) < 1000
    assert files(tmp_path) == []


def test_redirects_lead_only_to_where_a_url_may(web):
    web.faults["/r"] = [(302, {"Location": "/dir/a.npz"})]
    assert remote.fetch(f"{web.url}/r").read_bytes() == CONTENT
    for target, says in (
        ("http://example.org/a", "not encrypted"),
        ("file:///etc/passwd", "302"),
        ("ftp://example.org/a", "not encrypted"),
        ("https://u:p@example.org/a", "no user name"),
        ("/again", "302"),
    ):
        web.faults["/again"] = [(302, {"Location": target})] * 20
        assert says in refused(f"{web.url}/again")
    request = server.urllib.request.Request("https://example.org/a")
    with pytest.raises(errors.UserError, match="leads to .*not encrypted"):
        server._Redirects().redirect_request(
            request, None, 302, "", {}, "http://localhost/a"
        )


def test_a_signed_url_does_not_show_its_signature(web):
    assert "secret" not in refused(f"{web.url}/none?signature=secret")
    query = "?signature=secret"
    web.files[f"/m/model.safetensors{query}"] = (CONTENT, {})
    web.files[f"/m/config.json{query}"] = (b"{}", {})
    path = remote.fetch(f"{web.url}/m/model.safetensors{query}")
    assert files(path.parent) == [
        "config.json",
        "model.safetensors",
        "model.safetensors.json",
    ]
    assert "secret" not in path.with_name("model.safetensors.json").read_text()


def test_companions_lie_beside_and_are_settled_with_the_file(web):
    web.files["/m/model.safetensors"] = (CONTENT, {})
    web.files["/m/config.json"] = (b"{}", {})
    web.faults["/m/config.json"] = [(500, {})] * 4
    refused(f"{web.url}/m/model.safetensors")  # not silently without it
    path = remote.fetch(f"{web.url}/m/model.safetensors")
    assert path.with_name("config.json").read_bytes() == b"{}"
    assert not path.with_name("preprocessor_config.json").exists()
    asked = len(web.requests)
    assert remote.fetch(f"{web.url}/m/model.safetensors") == path
    assert len(web.requests) == asked
    path.write_bytes(b"")
    del web.files["/m/config.json"]  # the next version has none
    assert remote.fetch(f"{web.url}/m/model.safetensors") == path
    assert not path.with_name("config.json").exists()


def fetch_in_process(url, start, results):
    start.wait()
    results.put(hashlib.sha256(remote.fetch(url).read_bytes()).hexdigest())


def test_processes_and_threads_may_ask_at_once(web):
    context = multiprocessing.get_context("spawn")
    start, results = context.Event(), context.Queue()
    arguments = (f"{web.url}/dir/a.npz", start, results)
    workers = [context.Process(target=fetch_in_process, args=arguments) for _ in "ab"]
    for worker in workers:
        worker.start()
    start.set()
    digests = [results.get(timeout=60) for _ in range(2)]
    for worker in workers:
        worker.join()
    web.files["/t"] = (CONTENT, {})
    threads = [
        threading.Thread(target=remote.fetch, args=(f"{web.url}/t",)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert digests == [SHA256] * 2 and paths(web) == ["/dir/a.npz", "/t"]


def test_progress_says_how_much_is_left(web, monkeypatch, caplog):
    monkeypatch.setattr(server, "PROGRESS_SECONDS", 0.0)
    caplog.set_level(logging.INFO)
    remote.fetch(f"{web.url}/dir/a.npz")
    assert "of 3.0 MB" in caplog.text and "s left" in caplog.text
    assert "fetched" in caplog.text


def test_google_objects_are_asked_for_by_their_encoded_name(web, monkeypatch):
    monkeypatch.setattr(address, "GOOGLE", web.url)
    quoted = "/bucket/a%20%2B%25/B%23_16.npz"
    headers = {"ETag": '"x"', "x-goog-hash": f"crc32c=AAAAAA==,md5={MD5}"}
    web.files[quoted] = (CONTENT, headers)
    with pytest.raises(errors.UserError, match="a space is written"):
        remote.fetch("gs://bucket/a +%/B#_16.npz")
    web.files["/bucket/a%2B%25/B%23_16.npz"] = web.files.pop(quoted)
    path = remote.fetch("gs://bucket/a+%/B#_16.npz")
    assert path.read_bytes() == CONTENT and path.name == "B__16.npz"


def test_googles_own_digest_is_checked(web, monkeypatch, tmp_path):
    monkeypatch.setattr(address, "GOOGLE", web.url)
    other = base64.b64encode(bytes(16)).decode()
    web.files["/bucket/a.npz"] = (CONTENT, {"x-goog-hash": f"md5={other}"})
    assert f"wanted md5 {'0' * 32}" in refused("gs://bucket/a.npz")
    assert files(tmp_path / "cache") == []
    packed = {"x-goog-hash": f"md5={other}", "x-goog-stored-content-encoding": "gzip"}
    web.files["/bucket/a.npz"] = (CONTENT, packed)
    assert remote.fetch("gs://bucket/a.npz").read_bytes() == CONTENT


def test_google_folders_have_to_be_copied(web, monkeypatch):
    monkeypatch.setattr(address, "GOOGLE", web.url)
    message = refused("gs://bucket/run/checkpoint_100")
    assert "gcloud storage cp -r gs://bucket/run/checkpoint_100 ." in message


class GoogleAuthError(Exception):
    pass


@pytest.mark.parametrize("login", ["token", "none", "not installed"])
def test_private_google_objects_take_the_users_login(web, monkeypatch, login):
    monkeypatch.setattr(address, "GOOGLE", web.url)
    web.token = "secret"
    web.files["/bucket/a.npz"] = (CONTENT, {"ETag": '"x"'})

    def default(scopes):
        if login == "none":
            raise GoogleAuthError("no credentials")
        return types.SimpleNamespace(token="secret", refresh=lambda request: None), "p"

    present = login != "not installed"
    parts = {
        "google.auth": types.SimpleNamespace(default=default),
        "google.auth.exceptions": types.SimpleNamespace(
            GoogleAuthError=GoogleAuthError
        ),
        "google.auth.transport.requests": types.SimpleNamespace(Request=object),
    }
    for name, module in parts.items():
        monkeypatch.setitem(sys.modules, name, module if present else None)
    if login == "token":
        assert remote.fetch("gs://bucket/a.npz").read_bytes() == CONTENT
        web.faults["/bucket/b"] = [(403, {}), (302, {"Location": "/bucket/a.npz"})]
        assert "403" in refused("gs://bucket/b")
        assert "Authorization" in web.requests[-2][2]
        assert "Authorization" not in web.requests[-1][2]
    else:
        message = refused("gs://bucket/a.npz")
        assert "gcloud storage cp" in message and "google-auth" in message
    web.requests.clear()
    assert "403" in refused(f"http://localhost:{web.server_port}/bucket/a.npz")
    assert "Authorization" not in web.requests[0][2]  # a login is for Google alone


def test_the_hub_needs_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    message = refused("hf://org/name", cache_dir=tmp_path)
    assert "pip install 'vit_jax[hub]'" in message


@pytest.fixture
def hub(web, tmp_path):
    if find_spec("huggingface_hub") is None:
        pytest.skip("huggingface_hub is not installed")
    commit = "c" * 40
    web.missing = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
    for name, content in {"model.safetensors": CONTENT, "config.json": b"{}"}.items():
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        for revision in ("main", commit, "v1%2Fx"):
            web.files[f"/org/name/resolve/{revision}/{name}"] = (
                content,
                {"ETag": tag, "X-Repo-Commit": commit},
            )
    moved = {"ETag": '"moved"', "X-Repo-Commit": "d" * 40}
    web.files["/org/name/resolve/main/config.json"] = (b"of a later commit", moved)

    def fetch(*urls, endpoint=web.url):
        script = (
            "import sys\nfrom vit_jax import errors\n"
            "from vit_jax.weights import remote\nfor url in sys.argv[1:]:\n"
            "    try: print(remote.fetch(url))\n"
            "    except errors.UserError as error: print('error:', str(error))\n"
        )
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home")}
        return subprocess.run(
            [sys.executable, "-c", script, *urls],
            env=inherited | own,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    return fetch


def test_a_model_of_the_hub_comes_with_its_description(web, hub, tmp_path):
    first = Path(hub("hf://org/name").strip())
    assert first.name == "model.safetensors" and first.read_bytes() == CONTENT
    assert first.is_relative_to(tmp_path / "home" / "hub" / "models--org--name")
    assert first.with_name("config.json").read_bytes() == b"{}"
    second = Path(hub("hf://org/name@v1%2Fx/model.safetensors").strip())
    assert second.read_bytes() == CONTENT
    asked = len(web.requests)
    assert hub("hf://org/name", endpoint="http://127.0.0.1:9").strip() == str(first)
    assert len(web.requests) == asked


def test_a_model_of_the_hub_without_safetensors_is_its_bin_file(web, hub):
    del web.files["/org/name/resolve/main/model.safetensors"]
    where = "/org/name/resolve/main/"
    web.files[f"{where}pytorch_model.bin"] = web.files.pop(f"{where}config.json")
    found = Path(hub("hf://org/name").strip())
    assert found.name == "pytorch_model.bin"
    assert found.read_bytes() == b"of a later commit"


def test_what_the_hub_has_not_is_one_error(web, hub, tmp_path):
    web.faults["/org/none/resolve/main/model.safetensors"] = [
        (404, {"X-Error-Code": "RepoNotFound"})
    ] * 9
    web.faults["/org/gated/resolve/main/model.safetensors"] = [
        (403, {"X-Error-Code": "GatedRepo"})
    ] * 9
    output = hub(
        "hf://org/name/none.npz",
        "hf://org/none",
        "hf://org/gated",
        f"hf://org/name#sha256={'0' * 64}",
    )
    for says in ("no such file", "no such model", "accept terms", "was not kept"):
        assert says in output
    assert output.count("error:") == 4
    kept = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert not [p for p in kept if p.stat().st_size == len(CONTENT)]


def test_all_parts_of_a_model_land_where_other_programs_look(web, hub, tmp_path):
    where, commit = "/org/name/resolve/main/", "c" * 40
    del web.files[f"{where}model.safetensors"]
    names = [f"model-{i}-of-2.safetensors" for i in (1, 2)]
    index = {"weight_map": {f"w{i}": name for i, name in enumerate(names)}}
    contents = {"model.safetensors.index.json": json.dumps(index).encode()}
    contents |= {name: name.encode() for name in names} | {"config.json": b"{}"}
    for name, content in contents.items():
        tag = hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": commit}
        for revision in ("main", commit):
            web.files[f"/org/name/resolve/{revision}/{name}"] = (content, headers)
    found = Path(hub("hf://org/name").strip())
    home = tmp_path / "home" / "hub" / "models--org--name"
    assert found == home / "snapshots" / commit / "model.safetensors.index.json"
    assert (home / "refs" / "main").read_text() == commit
    assert {path.name for path in found.parent.iterdir()} == set(contents)
    assert all((found.parent / n).read_bytes() == c for n, c in contents.items())
    lacks = {path.name for path in (home / ".no_exist" / commit).iterdir()}
    assert {"preprocessor_config.json", "processor_config.json"} <= lacks
