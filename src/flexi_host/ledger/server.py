"""`flexi_host ledger`: the socket that takes the records, and the loopback port that tells the sums."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from flexi_host.common import exposition, systemd
from flexi_host.ledger.book import Ledger
from flexi_host.ledger.config import LedgerConfig
from flexi_host.ledger.recent import WINDOW_S
from flexi_host.ledger.usage import COLUMNS

FLUSH_S = 1.0
"""A ledger that is killed loses the usage of this long at most; its lines are written at once."""
BATCH = 1000
"""Datagrams that are taken before their lines are written."""
LARGEST = 64 * 1024
IDLE_S = 15.0
JSON = "application/json"


class Refused(Exception):  # noqa: N818 (an answer, not a fault)
    """The question cannot be answered; the message says what is allowed."""


def answer(ledger: Ledger, target: str) -> tuple[str, str]:
    """Content type and body for GET `target`; KeyError where nothing is there, Refused where a parameter is wrong."""
    parts = urlsplit(target)
    if parts.path == "/metrics":
        return exposition.CONTENT_TYPE, ledger.metrics()
    if parts.path == "/recent":
        return JSON, _json({"schema": 1, "seconds": WINDOW_S, "rows": ledger.recent()})
    if parts.path == "/usage":
        asked = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        since, by = _since(asked.get("since", "0")), _columns(asked.get("by", "consumer,model"))
        return JSON, _json({"schema": 1, "since": since, "by": by, "rows": ledger.usage(since, by)})
    raise KeyError(parts.path)


def _since(text: str) -> int:
    if not text.isdigit() or len(text) > 11:
        raise Refused("since is a Unix time in whole seconds")
    return int(text)


def _columns(text: str) -> list[str]:
    by = text.split(",")
    if len(set(by)) != len(by) or not set(by) <= set(COLUMNS):
        raise Refused(f"by is one or more of {', '.join(COLUMNS)}, with commas between them")
    return by


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False) + "\n"


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], ledger: Ledger) -> None:
        super().__init__(address, _Handler)
        self.ledger = ledger


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "flexi-ledger"
    sys_version = ""
    timeout = IDLE_S
    server: Server

    def do_GET(self) -> None:
        try:
            kind, body = answer(self.server.ledger, self.path)
            status = 200
        except KeyError:
            status, kind, body = 404, JSON, _json({"error": "there are /metrics, /recent and /usage"})
        except Refused as refused:
            status, kind, body = 400, JSON, _json({"error": str(refused)})
        content = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Who reads figures is no event."""


def receive(sock: socket.socket, stop: socket.socket, ledger: Ledger, beat: Callable[[], None]) -> None:
    """Take records until `stop` can be read; `beat` is called with every flush.

    What comes after that waits in the socket, which is systemd's.
    """
    sock.setblocking(False)
    due = time.monotonic() + FLUSH_S
    while True:
        readable, _, _ = select.select([sock, stop], [], [], max(0.0, due - time.monotonic()))
        ledger.take(_waiting(sock))
        if stop in readable:
            return
        if time.monotonic() >= due:
            ledger.flush()
            beat()
            due = time.monotonic() + FLUSH_S


def _waiting(sock: socket.socket) -> list[bytes]:
    datagrams: list[bytes] = []
    with contextlib.suppress(BlockingIOError):
        while len(datagrams) < BATCH:
            datagrams.append(sock.recv(LARGEST))
    return datagrams


def inherited() -> socket.socket:
    """The one socket that systemd passes (`man sd_listen_fds`); OSError where it passed none or something else."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        raise OSError("systemd has passed no socket: start flexi-ledger.socket")
    sock = socket.socket(fileno=3)
    if (sock.family, sock.type) != (socket.AF_UNIX, socket.SOCK_DGRAM):
        raise OSError("the socket that systemd has passed takes no datagrams: see ListenDatagram= of its unit")
    return sock


def run(config: LedgerConfig) -> None:
    """Serve until SIGTERM or SIGINT; OSError where the port or the files cannot be used."""
    sock = inherited()
    ledger = Ledger(config)
    server = Server(("127.0.0.1", config.port), ledger)
    http = threading.Thread(target=server.serve_forever, name="http", daemon=True)
    http.start()
    # A signal wakes the wait for a record by a byte (Python's documentation of signal.set_wakeup_fd).
    stop, waker = socket.socketpair()
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)

    def beat() -> None:
        if not http.is_alive():
            raise RuntimeError("the thread that answers has died; see its traceback above")
        systemd.notify("WATCHDOG=1")

    systemd.notify("READY=1")
    receive(sock, stop, ledger, beat)
    systemd.notify("STOPPING=1")
    ledger.close()
