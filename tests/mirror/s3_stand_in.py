"""A small S3 server in this process, which can lie, refuse, and break off an upload. It checks no signatures."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


@dataclass
class Bucket:
    """What the server holds and how it behaves."""

    objects: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    modified: dict[str, float] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    lies: bool = False
    """Whether it overwrites although it was told only to create."""
    failure: tuple[int, str] | None = None
    """Status and code of the answer to every request, such as (403, "AccessDenied")."""
    break_after: int | None = None
    """Break the connection in the middle of a body after this many more requests with one."""
    guard: threading.Lock = field(default_factory=threading.Lock)

    def keys(self, ending: str = "") -> list[str]:
        """The keys of all objects with that ending, without those of probes."""
        return sorted(key for key in self.objects if key.endswith(ending) and "/probe-" not in key)


class _Handler(BaseHTTPRequestHandler):
    bucket: ClassVar[Bucket]
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        key, query = self._begin()
        if self._refused():
            return
        if "list-type" in query:
            self._list(query)
            return
        data = self.bucket.objects.get(key)
        if data is None:
            self._answer(404, _error("NoSuchKey"))
            return
        total = len(data)
        bounds = self.headers.get("Range")
        if bounds is None:
            self._answer(200, data, key=key)
            return
        first, _, last = bounds.removeprefix("bytes=").partition("-")
        begin, end = int(first), min(int(last or total - 1), total - 1)
        self._answer(206, data[begin : end + 1], key=key, **{"Content-Range": f"bytes {begin}-{end}/{total}"})

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        key, query = self._begin()
        body = self._read_body()
        if body is None or self._refused():
            return
        with self.bucket.guard:
            if "partNumber" in query:
                self.bucket.parts.setdefault(query["uploadId"], {})[int(query["partNumber"])] = body
            elif self.headers.get("If-None-Match") == "*" and key in self.bucket.objects and not self.bucket.lies:
                self._answer(412, _error("PreconditionFailed"))
                return
            else:
                self._store(key, body)
        self._answer(200, b"", ETag=_tag(body))

    def do_POST(self) -> None:
        key, query = self._begin()
        body = self._read_body()
        if body is None or self._refused():
            return
        with self.bucket.guard:
            if "uploads" in query:
                upload = f"upload-{len(self.bucket.parts)}-{time.monotonic_ns()}"
                self.bucket.parts[upload] = {}
                answer = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            else:
                parts = self.bucket.parts.pop(query["uploadId"])
                self._store(key, b"".join(parts[number] for number in sorted(parts)))
                answer = "<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>"
        self._answer(200, answer.encode())

    def do_DELETE(self) -> None:
        key, query = self._begin()
        if self._refused():
            return
        with self.bucket.guard:
            if "uploadId" in query:
                self.bucket.parts.pop(query["uploadId"], None)
            else:
                self.bucket.objects.pop(key, None)
        self._answer(204, b"")

    def log_message(self, *_: Any) -> None:
        pass

    def _begin(self) -> tuple[str, dict[str, str]]:
        address = urlsplit(self.path)
        key = unquote(address.path).removeprefix("/bucket").removeprefix("/")
        query = {name: values[0] for name, values in parse_qs(address.query, keep_blank_values=True).items()}
        self.bucket.requests.append((self.command, key))
        return key, query

    def _read_body(self) -> bytes | None:
        size = int(self.headers.get("Content-Length") or 0)
        if self.bucket.break_after is not None and size:
            self.bucket.break_after -= 1
            if self.bucket.break_after < 0:
                self.rfile.read(size // 2)
                self.close_connection = True
                self.connection.close()
                return None
        return self.rfile.read(size)

    def _refused(self) -> bool:
        if self.bucket.failure is None:
            return False
        self._answer(self.bucket.failure[0], _error(self.bucket.failure[1]))
        return True

    def _store(self, key: str, data: bytes) -> None:
        self.bucket.objects[key] = data
        self.bucket.modified[key] = time.time()

    def _list(self, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        contents, folders = [], set()
        for key, data in sorted(self.bucket.objects.items()):
            if not key.startswith(prefix):
                continue
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
                continue
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(self.bucket.modified[key]))
            contents.append(
                f"<Contents><Key>{escape(key)}</Key><LastModified>{stamp}</LastModified><ETag>{_tag(data)}</ETag>"
                f"<Size>{len(data)}</Size></Contents>"
            )
        shown = "".join(f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in sorted(folders))
        text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(contents)}{shown}</ListBucketResult>"
        self._answer(200, text.encode())

    def _answer(self, status: int, body: bytes, *, key: str = "", **headers: str) -> None:
        self.send_response(status)
        if key:
            self.send_header("ETag", _tag(body))
            self.send_header("Last-Modified", formatdate(self.bucket.modified[key], usegmt=True))
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class StandIn:
    """The running server. `stop` refuses connections until `start`, on the same port."""

    def __init__(self) -> None:
        self.bucket = Bucket()
        self.port = 0
        self.start()

    def start(self) -> None:
        handler = type("Handler", (_Handler,), {"bucket": self.bucket})
        ThreadingHTTPServer.allow_reuse_address = True
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _tag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
