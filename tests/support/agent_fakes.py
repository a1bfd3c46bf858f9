"""A small Ollama and a small nvidia-smi whose faults a test switches on, and waiting without sleeping on a guess."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from flexi_host.agent.gpus import Driver, Gpu, GpuReport

FOR_EVER = "2318-01-01T00:00:00.123456789Z"
SOON = "2030-01-01T00:05:00.1+02:00"
UUIDS = ("GPU-aaaaaaaa-0000-0000-0000-000000000000", "GPU-bbbbbbbb-0000-0000-0000-000000000001")
GIB = 2**30


def until(condition: Callable[[], Any], what: str, deadline_s: float = 5.0) -> Any:
    """Poll until `condition` is true; its value. Fails with `what` after `deadline_s`."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.005)
    raise AssertionError(f"never: {what}")


def gpu(index: int, uuid: str, **changes: Any) -> Gpu:
    values = {
        "index": index,
        "uuid": uuid,
        "name": "NVIDIA RTX A5000",
        "memory_total": 24 * GIB,
        "memory_used": 0,
        "utilization_percent": 7,
        "temperature_c": 41,
        "driver_version": "535.309.01",
        "ecc_uncorrected": None,
        **changes,
    }
    return Gpu(**values)


def report(*uuids: str, error: str | None = None, **changes: Any) -> GpuReport:
    """What a healthy host with `uuids` shows, or `error` in nvidia-smi's words."""
    gpus = tuple(gpu(index, uuid, **changes) for index, uuid in enumerate(uuids))
    driver = Driver("535.309.01", "535.309.01" if gpus else None, error)
    return GpuReport(gpus, driver, time.monotonic(), {uuid: index for index, uuid in enumerate(UUIDS)})


def smi_line(index: int, uuid: str, used: str = "0", ecc: str = "[N/A]") -> str:
    return f"{index}, {uuid}, NVIDIA RTX A5000, 24564, {used}, 7, 41, 535.309.01, {ecc}"


class FakeOllama:
    """Answers as Ollama 0.24.0 does, as far as the agent asks. Attributes are the switches."""

    def __init__(self, *stored: str) -> None:
        self.stored: dict[str, str] = dict.fromkeys(stored, "2026-01-01T00:00:00Z")
        self.resident: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.embedding: set[str] = set()
        self.version = "0.24.0"
        self.context = 8192
        self.size = 4 * GIB
        self.vram = 4 * GIB
        self.pull_errors: list[str] = []
        self.load_errors: list[str] = []
        self.room_for = 100
        self.pull_may_go_on = threading.Event()
        self.load_may_go_on = threading.Event()
        self.may_answer = threading.Event()
        for event in (self.pull_may_go_on, self.load_may_go_on, self.may_answer):
            event.set()
        self._server: ThreadingHTTPServer | None = None
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen, on the same port as before."""
        handler = type("Handler", (_Handler,), {"fake": self})
        ThreadingHTTPServer.allow_reuse_address = True
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def kill(self) -> None:
        """As a killed process: the port is closed and the memory is gone."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        self.resident.clear()

    def loads(self) -> list[str]:
        return [body["model"] for path, body in self.calls if body.get("keep_alive") == -1]

    def paths(self) -> list[str]:
        return [path for path, _ in self.calls]

    def make_resident(self, name: str, **changes: Any) -> None:
        while len(self.resident) >= self.room_for:
            self.resident.pop(next(iter(self.resident)))
        self.resident[name] = {
            "name": name,
            "model": name,
            "size": self.size,
            "size_vram": self.vram,
            "digest": "d",
            "details": {},
            "expires_at": FOR_EVER,
            "context_length": self.context,
            **changes,
        }


class _Handler(BaseHTTPRequestHandler):
    fake: FakeOllama

    def do_GET(self) -> None:
        self.fake.may_answer.wait(10)
        if self.path == "/api/version":
            self._json(200, {"version": self.fake.version})
        elif self.path == "/api/tags":
            entries = [
                {"name": name, "model": name, "modified_at": at, "size": 1, "digest": name, "details": {}}
                for name, at in list(self.fake.stored.items())
            ]
            self._json(200, {"models": entries})
        elif self.path == "/api/ps":
            self._json(200, {"models": list(self.fake.resident.values())})
        else:
            self._json(404, {})

    def do_POST(self) -> None:
        self.fake.may_answer.wait(10)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.fake.calls.append((self.path, body))
        if self.path == "/api/pull":
            self._pull(body["model"])
        elif self.path == "/api/copy":
            self.fake.stored[body["destination"]] = self.fake.stored[body["source"]]
            self._json(200, None)
        elif body.get("keep_alive") == 0:
            self.fake.resident.pop(body["model"], None)
            self._json(200, {"done": True, "done_reason": "unload"})
        else:
            self._load(body["model"])

    def do_DELETE(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.fake.calls.append((self.path, body))
        self.fake.stored.pop(body["model"], None)
        self._json(200, None)

    def _pull(self, name: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.end_headers()
        self._line({"status": "pulling manifest"})
        self._line({"status": "pulling 1", "digest": "sha256:1", "total": 900, "completed": 300})
        self._line({"status": "pulling 2", "digest": "sha256:2", "total": 100})
        self.fake.pull_may_go_on.wait(10)
        if self.fake.pull_errors:
            error = self.fake.pull_errors.pop(0)
            if error:
                self._line({"error": error})
            return
        self._line({"status": "verifying sha256 digest"})
        self.fake.stored[name] = "2026-02-01T00:00:00Z"
        self._line({"status": "success"})

    def _load(self, name: str) -> None:
        self.fake.load_may_go_on.wait(10)
        if self.path == "/api/generate" and name in self.fake.embedding:
            self._json(400, {"error": f'"{name}" does not support generate'})
        elif self.fake.load_errors:
            self._json(500, {"error": self.fake.load_errors.pop(0)})
        elif name not in self.fake.stored:
            self._json(404, {"error": f"model '{name}' not found"})
        else:
            self.fake.make_resident(name)
            self._json(200, {"done": True, "done_reason": "load"})

    def _json(self, status: int, value: Any) -> None:
        body = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _line(self, value: Any) -> None:
        self.wfile.write(json.dumps(value).encode() + b"\n")
        self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def fake_ollama(*stored: str) -> Iterator[FakeOllama]:
    fake = FakeOllama(*stored)
    try:
        yield fake
    finally:
        for event in (fake.pull_may_go_on, fake.load_may_go_on, fake.may_answer):
            event.set()
        fake.kill()
