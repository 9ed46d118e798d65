"""A stand-in for Google Cloud Storage: its JSON API over HTTP, objects in memory.

    python tests/buckets.py PORT BUCKET ...

It answers what gcsfs, TensorStore and Google's own client ask of buckets of files:
objects are written whole, listed by prefix and delimiter, read in parts, removed, and
written on condition of what is there. Folders there are none.
"""

import base64
import collections
import contextlib
import email
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator


class Bucket:
    """Objects by name, each with the generation of its last write."""

    def __init__(self):
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.generation = 0


class Server:
    """Buckets behind a port of this machine.

    Attributes:
        counts: Requests so far, by method.
        environment: What clients need to come here.
    """

    def __init__(self, *names: str, port: int = 0):
        self.buckets = {name: Bucket() for name in names}
        self.lock = threading.Lock()
        self.counts: collections.Counter[str] = collections.Counter()
        self.sessions: dict[str, tuple[str, str, bytearray]] = {}
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.http.daemon_threads = True
        self.http.ours = self
        self.http.handle_error = lambda *args: None  # clients that went away
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.environment = {
            "STORAGE_EMULATOR_HOST": self.url,  # gcsfs, and Google's client
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "of-a-test",
            # Else it looks for logins to ask what kind of bucket this is.
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        del args

    def answer(self, code: int, body: bytes | dict = b"", **headers: str):
        kind = "application/octet-stream"
        if isinstance(body, dict):
            body, kind = json.dumps(body).encode(), "application/json"
        self.send_response(code)
        for name, value in {"Content-Type": kind, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        if code not in (204, 304):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, code: int, why: str):
        if code == 304:  # which has no body, and a connection goes on behind it
            return self.answer(code)
        return self.answer(code, {"error": {"code": code, "message": why}})

    def handle_one(self):
        server: Server = self.server.ours
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        with server.lock:
            server.counts[self.command] += 1
            self.route(server, url.path, query, body)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = handle_one

    def route(self, server: Server, path: str, query: dict, body: bytes):
        parts = path.split("/b/", 1)[-1].split("/")
        if "/b/" not in path:
            return self.refuse(404, f"no such address: {path}")
        bucket = server.buckets.get(parts[0])
        if bucket is None:
            return self.refuse(404, "The specified bucket does not exist.")
        if len(parts) == 1:
            return self.answer(200, {"kind": "storage#bucket", "name": parts[0]})
        if parts[1:] == ["iam", "testPermissions"]:
            asked = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
            return self.answer(200, {"permissions": asked["permissions"]})
        if parts[1] == "storageLayout":
            return self.answer(200, {"hierarchicalNamespace": {"enabled": False}})
        name = urllib.parse.unquote(parts[2]) if len(parts) > 2 else ""
        if path.startswith("/upload"):
            return self.upload(server, bucket, parts[0], query, body)
        if not name:
            return self.listing(bucket, parts[0], query)
        if len(parts) > 3 and parts[3] in ("rewriteTo", "copyTo"):
            target = server.buckets[parts[5]], urllib.parse.unquote(parts[7])
            found = bucket.objects.get(name)
            if found is None:
                return self.refuse(404, f"No such object: {name}")
            made = self.put(target[0], parts[5], target[1], found[0])
            return self.answer(200, {"done": True, "resource": made})
        return self.one(bucket, parts[0], name, query)

    def put(self, bucket: Bucket, bucket_name: str, name: str, content: bytes) -> dict:
        bucket.generation += 1
        bucket.objects[name] = content, bucket.generation
        return self.described(bucket, bucket_name, name)

    def described(self, bucket: Bucket, bucket_name: str, name: str) -> dict:
        content, generation = bucket.objects[name]
        digest = base64.b64encode(hashlib.md5(content).digest()).decode()
        return {
            "kind": "storage#object",
            "id": f"{bucket_name}/{name}/{generation}",
            "name": name,
            "bucket": bucket_name,
            "generation": str(generation),
            "metageneration": "1",
            "size": str(len(content)),
            "md5Hash": digest,
            "updated": "2026-01-01T00:00:00.000Z",
            "timeCreated": "2026-01-01T00:00:00.000Z",
            "storageClass": "STANDARD",
        }

    def unmet(self, bucket: Bucket, name: str, query: dict) -> bool:
        """Whether a condition on the generation does not hold; answers if so."""
        there = bucket.objects[name][1] if name in bucket.objects else 0
        if "ifGenerationMatch" in query and int(query["ifGenerationMatch"]) != there:
            self.refuse(412, "conditionNotMet")
            return True
        wanted = query.get("ifGenerationNotMatch")
        if wanted is not None and int(wanted) == there:
            self.refuse(304, "notModified")
            return True
        return False

    def upload(self, server, bucket, bucket_name, query, body):
        kind = query.get("uploadType", "media")
        if kind == "media":
            name = query["name"]
        elif kind == "multipart":
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            about, content = email.message_from_bytes(head + body).get_payload()
            name = json.loads(about.get_payload(decode=True))["name"]
            # The parser cuts line ends: take the bytes themselves.
            mark = b"--" + self.headers.get_param("boundary").encode()
            part = body.split(mark)[2]
            body = part.split(b"\r\n\r\n", 1)[-1].removesuffix(b"\r\n")
            if part.startswith(b"\n"):
                body = part.split(b"\n\n", 1)[-1].removesuffix(b"\n")
        elif "upload_id" not in query:
            name = query.get("name") or json.loads(body)["name"]
            key = str(len(server.sessions))
            server.sessions[key] = bucket_name, name, bytearray()
            where = f"{server.url}/upload/storage/v1/b/{bucket_name}/o"
            where += f"?uploadType=resumable&upload_id={key}"
            return self.answer(200, {}, Location=where)
        else:
            _, name, so_far = server.sessions[query["upload_id"]]
            so_far += body
            if self.headers["Content-Range"].endswith("*"):
                got = f"bytes=0-{len(so_far) - 1}"
                return self.answer(308, b"", Range=got)
            body = bytes(so_far)
        if not self.unmet(bucket, name, query):
            return self.answer(200, self.put(bucket, bucket_name, name, body))

    def one(self, bucket: Bucket, bucket_name: str, name: str, query: dict):
        if name not in bucket.objects:
            return self.refuse(404, f"No such object: {bucket_name}/{name}")
        if self.unmet(bucket, name, query):
            return None
        content, generation = bucket.objects[name]
        if self.command == "DELETE":
            del bucket.objects[name]
            return self.answer(204)
        if query.get("alt") != "media":
            return self.answer(200, self.described(bucket, bucket_name, name))
        headers = {"x_goog_generation": str(generation), "x_goog_metageneration": "1"}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if not asked:
            return self.answer(200, content, **headers)
        size = len(content)
        first = int(asked[1]) if asked[1] else max(0, size - int(asked[2]))
        last = min(int(asked[2]) if asked[1] and asked[2] else size - 1, size - 1)
        if first >= size:
            return self.answer(416, b"", Content_Range=f"bytes */{size}")
        headers["Content_Range"] = f"bytes {first}-{last}/{size}"
        return self.answer(206, content[first : last + 1], **headers)

    def listing(self, bucket: Bucket, bucket_name: str, query: dict):
        prefix, mark = query.get("prefix", ""), query.get("delimiter", "")
        names, prefixes = [], set()
        for name in sorted(bucket.objects):
            if not name.startswith(prefix):
                continue
            if query.get("startOffset", "") > name:
                continue
            if "endOffset" in query and name >= query["endOffset"]:
                continue
            rest = name[len(prefix) :]
            if mark and mark in rest:
                prefixes.add(prefix + rest.split(mark)[0] + mark)
                if not (query.get("includeTrailingDelimiter") and rest.endswith(mark)):
                    continue
            names.append(name)
        some = int(query.get("maxResults") or 1000)
        items = [self.described(bucket, bucket_name, name) for name in names[:some]]
        self.answer(
            200,
            {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)},
        )


@contextlib.contextmanager
def served(*names: str, port: int = 0) -> Iterator[Server]:
    """Serves empty buckets of these names while the body runs."""
    server = Server(*names, port=port)
    thread = threading.Thread(target=server.http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()


if __name__ == "__main__":
    import sys
    import time

    with served(*sys.argv[2:], port=int(sys.argv[1])) as server:
        print(server.url, flush=True)
        time.sleep(1e6)
