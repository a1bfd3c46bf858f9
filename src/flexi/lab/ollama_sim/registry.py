"""A model registry as Ollama's client uses it, with faults that can be switched on while it runs.

It speaks the Docker registry protocol v2, read-only: manifests, and blobs with ranges. As the real client insists on
a Location header in the answer for a blob, this registry sends one.

Faults come from a POST of JSON to `/_control/faults` (GET shows them) or from a file that is read at every request:

    {"cut_after_bytes": 65536, "cut_times": 1, "wrong_digest": ["llama3:8b"], "missing": ["phi3:3.8b"],
     "bytes_per_second": 50000}
"""

from __future__ import annotations

import http.server
import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from . import catalogue
from .catalogue import Blob, ModelSpec

CONTROL_PATH = "/_control/faults"
_MANIFEST = re.compile(r"/v2/library/([^/]+)/manifests/([^/]+)")
_BLOB = re.compile(r"/v2/library/([^/]+)/blobs/(sha256:[0-9a-f]{64})")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_PIECE = 16 * 1024


class FaultError(ValueError):
    """The faults that were asked for make no sense."""


@dataclass(frozen=True)
class Faults:
    """What goes wrong. The default: nothing."""

    cut_after_bytes: int | None = None
    """The connection for a blob is cut after so many bytes of the body …"""
    cut_times: int | None = None
    """… for so many requests (None: always)."""
    wrong_digest: tuple[str, ...] = ()
    """Models whose weights come with one byte changed."""
    missing: tuple[str, ...] = ()
    """Models that the registry claims not to have."""
    bytes_per_second: int | None = None
    """Speed of each blob; None means the registry's usual one."""


def parse_faults(document: Any) -> Faults:
    """Faults from their JSON; FaultError for unknown keys or wrong types."""
    if not isinstance(document, dict):
        raise FaultError("faults must be a JSON object")
    known = {entry.name for entry in fields(Faults)}
    values: dict[str, Any] = {}
    for key, value in document.items():
        if key not in known:
            raise FaultError(f"unknown fault {key!r}; known are {', '.join(sorted(known))}")
        if key in ("wrong_digest", "missing"):
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise FaultError(f"{key} must be a list of model names")
            values[key] = tuple(value)
        elif value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise FaultError(f"{key} must be a whole number, not negative, or null")
        else:
            values[key] = value
    return Faults(**values)


@dataclass
class _Shelf:
    """Everything that the registry offers, made once."""

    manifests: dict[tuple[str, str], bytes] = field(default_factory=dict)
    blobs: dict[str, Blob] = field(default_factory=dict)
    owner: dict[str, str] = field(default_factory=dict)
    """Digest of weights to the model's name."""


class Registry:
    """A running registry. `port` is the one that it really listens on."""

    def __init__(
        self,
        address: str,
        port: int,
        models: Mapping[str, ModelSpec],
        *,
        faults_file: Path | None = None,
        bytes_per_second: int | None = None,
        access_log: Path | None = None,
    ) -> None:
        """`access_log` gets a line `ADDRESS METHOD PATH STATUS` for each request."""
        self._shelf = _Shelf()
        for name, spec in models.items():
            model, _, tag = name.partition(":")
            layers, config = catalogue.blobs(name, spec)
            self._shelf.manifests[model, tag or "latest"] = catalogue.manifest(layers, config)
            for blob in (*layers, config):
                self._shelf.blobs[blob.digest] = blob
            self._shelf.owner[layers[0].digest] = name
        self._faults = Faults()
        self._faults_file = faults_file
        self._usual_rate = bytes_per_second
        self._cuts = 0
        self._lock = threading.Lock()
        self._access_log = access_log
        self._server = _Server((address, port), self)
        self.port: int = self._server.server_address[1]
        self.url = f"http://{address}:{self.port}"
        self._thread: threading.Thread | None = None

    def start(self) -> Registry:
        """Serve in a thread of this process."""
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)
        self._thread.start()
        return self

    def serve_forever(self) -> None:
        self._server.serve_forever(poll_interval=0.05)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        if self._thread is not None:
            self._thread.join()

    def answered(self, line: str) -> None:
        if self._access_log is not None:
            with self._lock, self._access_log.open("a", encoding="utf-8") as log:
                log.write(f"{line}\n")

    @property
    def faults(self) -> Faults:
        if self._faults_file is not None and self._faults_file.exists():
            return parse_faults(json.loads(self._faults_file.read_text()))
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        with self._lock:
            self._faults = faults
            self._cuts = 0

    def manifest(self, model: str, tag: str) -> bytes | None:
        if f"{model}:{tag}" in self.faults.missing:
            return None
        return self._shelf.manifests.get((model, tag))

    def blob(self, digest: str) -> bytes | None:
        blob = self._shelf.blobs.get(digest)
        if blob is None:
            return None
        if self._shelf.owner.get(digest) in self.faults.wrong_digest:
            return blob.data[:-1] + bytes([blob.data[-1] ^ 0xFF])
        return blob.data

    def cut_after(self) -> int | None:
        """After how many bytes this answer is cut; counts the cuts."""
        faults = self.faults
        if faults.cut_after_bytes is None:
            return None
        with self._lock:
            if faults.cut_times is not None and self._cuts >= faults.cut_times:
                return None
            self._cuts += 1
        return faults.cut_after_bytes

    @property
    def rate(self) -> int | None:
        return self.faults.bytes_per_second or self._usual_rate


def serve(
    address: str,
    port: int,
    models: Mapping[str, ModelSpec],
    *,
    faults_file: Path | None = None,
    bytes_per_second: int | None = None,
) -> Registry:
    """Start a registry in a thread; port 0 takes a free one. Close it with `close()`."""
    return Registry(address, port, models, faults_file=faults_file, bytes_per_second=bytes_per_second).start()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], registry: Registry) -> None:
        self.registry = registry
        super().__init__(address, _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that go away in the middle of an answer are nothing special here


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path != CONTROL_PATH:
            self._error(405, "UNSUPPORTED", "the operation is unsupported")
            return
        try:
            self.server.registry.faults = parse_faults(json.loads(data or b"{}"))
        except ValueError as error:
            self._error(400, "FAULTS_INVALID", str(error))
            return
        self._json(200, asdict(self.server.registry.faults))

    def _answer(self, body: bool) -> None:
        registry = self.server.registry
        if self.path == CONTROL_PATH:
            self._json(200, asdict(registry.faults))
            return
        if self.path in ("/v2", "/v2/"):
            self._json(200, {})
            return
        manifest = _MANIFEST.fullmatch(self.path)
        if manifest:
            data = registry.manifest(manifest.group(1), manifest.group(2))
            if data is None:
                self._error(404, "MANIFEST_UNKNOWN", "manifest unknown")
            else:
                self._send(data, catalogue.MEDIA_MANIFEST, body)
            return
        blob = _BLOB.fullmatch(self.path)
        data = registry.blob(blob.group(2)) if blob else None
        if data is None:
            self._error(404, "BLOB_UNKNOWN", "blob unknown to registry")
            return
        self._send(data, "application/octet-stream", body)

    def _send(self, data: bytes, media_type: str, body: bool) -> None:
        start, stop = 0, len(data)
        wanted = _RANGE.fullmatch(self.headers.get("Range") or "")
        if wanted:
            start = int(wanted.group(1))
            stop = min(int(wanted.group(2)) + 1 if wanted.group(2) else stop, stop)
            if start >= stop:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Location", self.path)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self.end_headers()
        if not body:
            return
        # The client looks a blob's address up with a request without a range and does not read the answer.
        cut = self.server.registry.cut_after() if wanted else None
        try:
            self._stream(memoryview(data)[start:stop], cut)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _stream(self, data: memoryview, cut: int | None) -> None:
        rate = self.server.registry.rate
        begin = time.monotonic()
        sent = 0
        end = len(data) if cut is None else min(cut, len(data))
        while sent < end:
            piece = data[sent : min(sent + _PIECE, end)]
            if rate:
                delay = begin + sent / rate - time.monotonic()
                if delay > 0:
                    time.sleep(delay)
            self.wfile.write(piece)
            sent += len(piece)
        if end < len(data):
            self.close_connection = True

    def _json(self, status: int, document: object) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _error(self, status: int, code: str, message: str) -> None:
        self._json(status, {"errors": [{"code": code, "message": message}]})

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        # What was no request at all (TLS, for one) has no path, and is answered all the same.
        path = getattr(self, "path", "-")
        self.server.registry.answered(f"{self.client_address[0]} {self.command} {path} {int(code)}")

    def log_message(self, format: str, *args: object) -> None:
        pass
