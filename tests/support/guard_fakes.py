"""A guard as the gateway runs it, with a small HAProxy behind it that does what a test says."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flexi.configs import host_package
from support.agent_fakes import until

Answer = Callable[["Asked"], None]
MODELS = {
    "llama3:8b": {
        "name": "llama3:8b",
        "backend": "model_llama3_8b",
        "show": "show_model_llama3_8b",
        "context": 8192,
        "embedding": False,
    }
}


class Asked:
    """One request that the guard has sent on."""

    def __init__(self, sock: socket.socket, head: str, body: bytes) -> None:
        self.sock = sock
        self.line, *lines = head.split("\r\n")
        self.headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        self.body = body

    def say(self, data: bytes) -> None:
        self.sock.sendall(data)

    def ok(self, body: bytes = b'{"done":true}', *headers: str) -> None:
        """A whole answer, as HAProxy passes it on."""
        more = "".join(f"{header}\r\n" for header in headers)
        self.say(
            f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Flexi-Server: a\r\nX-Flexi-Queue-Ms: 7\r\n{more}"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )

    def begin(self) -> None:
        self.say(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")

    def chunk(self, data: bytes) -> None:
        self.say(b"%x\r\n%s\r\n" % (len(data), data))

    def fail(self, reason: str, status: int = 503) -> None:
        """HAProxy's own error."""
        self.say(f"HTTP/1.1 {status} x\r\nX-Flexi-Failed: {reason}\r\nContent-Length: 6\r\n\r\nfailed".encode())

    def gone(self, timeout_s: float = 5) -> bool:
        """Wait until the guard has let go of the connection."""
        self.sock.settimeout(timeout_s)
        with suppress(ConnectionError):
            return self.sock.recv(1) == b""
        return True


class Inner:
    """Listens where HAProxy's inner front end would; each request is answered by the next of `answers`, or well."""

    def __init__(self, path: Path) -> None:
        self.answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self.asked: list[Asked] = []
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def then(self, *answers: Answer) -> None:
        for answer in answers:
            self.answers.put(answer)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, suppress(OSError):
            data = b""
            while b"\r\n\r\n" not in data:
                piece = sock.recv(65536)
                if not piece:
                    return
                data += piece
            head, _, body = data.partition(b"\r\n\r\n")
            asked = Asked(sock, head.decode(), body)
            while len(asked.body) < int(asked.headers["content-length"]):
                asked.body += sock.recv(65536)
            self.asked.append(asked)
            try:
                answer = self.answers.get_nowait()
            except queue.Empty:
                answer = Asked.ok
            answer(asked)

    def close(self) -> None:
        self._listening.close()


class Guard:
    """The running program, its configuration and its sockets."""

    def __init__(self, directory: Path, workers: int = 1, **changes: Any) -> None:
        self.directory = directory
        self.config = directory / "guard.json"
        self.status = directory / "status.json"
        self.program = directory / "flexi-agent.pyz"
        self.sockets = [directory / f"{number}.sock" for number in range(workers)]
        self.inner = Inner(directory / "inner.sock")
        self._ledger = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ledger.bind(str(directory / "ledger.sock"))
        self._ledger.settimeout(5)
        self.program.write_bytes(host_package.build())
        self.write(**changes)

    def write(self, **changes: Any) -> None:
        """The configuration, with what a test wants different."""
        content = {
            "inner": str(self.directory / "inner.sock"),
            "ledger": str(self.directory / "ledger.sock"),
            "body_limit_bytes": 2**20,
            "body_timeout_s": 30,
            "bodies_limit_bytes": 2**24,
            "retries": 2,
            "paths": [
                "/api/chat",
                "/api/generate",
                "/api/show",
                "/v1/chat/completions",
                "/v1/completions",
                "/v1/messages",
                "/v1/responses",
            ],
            "models": MODELS,
            "classes": {"default": {"models": ["*"], "options": []}},
            "hosts": {"a": "server-a"},
            **changes,
        }
        new = self.config.with_suffix(".new")
        new.write_text(json.dumps(content))
        new.replace(self.config)

    def _command(self) -> list[str]:
        names = [argument for path in self.sockets for argument in ("--socket", str(path))]
        files = ["--config", str(self.config), "--status", str(self.status)]
        # -I, -S: it needs nothing but Python.
        return [sys.executable, "-I", "-S", str(self.program), "guard", *files, *names]

    def run(self) -> subprocess.CompletedProcess[str]:
        """Run it to its end, for calls that fail at once."""
        self.inner.close()
        return subprocess.run(self._command(), capture_output=True, text=True, timeout=20, check=False)

    def start(self) -> None:
        self.process = subprocess.Popen(self._command(), stderr=subprocess.PIPE, text=True)
        until(self.status.exists, "the guard is ready", deadline_s=20)

    def reload(self) -> subprocess.CompletedProcess[str]:
        files = ["--config", str(self.config), "--status", str(self.status), "--pid", str(self.process.pid)]
        command = [sys.executable, "-I", "-S", str(self.program), "guard-reload", *files]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    @contextmanager
    def settings(self, **changes: Any) -> Iterator[None]:
        """Other settings for a while, as after a reload."""
        try:
            self.settle(**changes)
            yield
        finally:
            self.settle()

    def settle(self, **changes: Any) -> None:
        """Write these settings and have every worker read them."""
        before = self.noted()
        self.write(**changes)
        self.process.send_signal(signal.SIGHUP)
        until(lambda: self.noted() != before, "the workers have read it")

    def noted(self) -> dict[str, Any]:
        """What the master has written of its last reload."""
        found: dict[str, Any] = json.loads(self.status.read_text())
        return found

    @property
    def workers(self) -> list[int]:
        pids: list[int] = self.noted()["workers"]
        return pids

    def connect(self, number: int = 0) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(10)
        sock.connect(str(self.sockets[number]))
        return sock

    def told(self) -> dict[str, Any]:
        """The next entry of the accounts."""
        entry: dict[str, Any] = json.loads(self._ledger.recv(65536))
        return entry

    def nothing_told(self) -> bool:
        self._ledger.setblocking(False)
        try:
            self._ledger.recv(65536)
        except BlockingIOError:
            return True
        finally:
            self._ledger.settimeout(5)
        return False

    def stop(self) -> str:
        """End it; what it has said on standard error."""
        self.inner.close()
        self.process.send_signal(signal.SIGTERM)
        _, words = self.process.communicate(timeout=20)
        self._ledger.close()
        return words


@contextmanager
def running(directory: Path, workers: int = 1, **changes: Any) -> Iterator[Guard]:
    guard = Guard(directory, workers, **changes)
    guard.start()
    try:
        yield guard
    finally:
        if guard.process.poll() is None:
            words = guard.stop()
            assert "Traceback" not in words, words


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def request(
    body: bytes, path: str = "/api/chat", headers: dict[str, str] | None = None, chunked: bool = False
) -> bytes:
    """As HAProxy's edge sends it."""
    said = {
        "Host": "flexi.example.edu",
        "X-Flexi-Id": "id-1",
        "X-Flexi-Consumer": "moodle",
        "X-Flexi-Class": "default",
        "X-Flexi-Priority": "3",
        **(headers or {}),
    }
    said |= {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in said.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + (b"" if chunked else body)


def answer(sock: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and everything behind them, until the guard closes."""
    data = b""
    while piece := sock.recv(65536):
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), {n.lower(): v for n, v in (line.split(": ", 1) for line in lines)}, body
