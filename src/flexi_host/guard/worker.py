"""`flexi_host guard-worker`: one process of the guard, with one event loop and one listening socket.

The master (guard.py) hands it the socket. SIGHUP: read the configuration anew. SIGTERM: take nothing new, end with the
last answer. What the master needs to know goes over a pipe, one word a line.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import signal
import socket
import sys
from pathlib import Path

from flexi_host.common.fields import ConfigError
from flexi_host.guard.accounts import Accounts
from flexi_host.guard.config import GuardConfig
from flexi_host.guard.exchange import Exchange, Worker

READY = b"ready\n"
BEAT = b"beat\n"
REFUSED = b"refused\n"
BEAT_S = 2.0
ACCEPT_AT_ONCE = 64
FULL_S = 0.5
GC_THRESHOLD = 20_000
"""New objects between two looks of the garbage collector. Streams leave few cycles, and a look delays all of them."""


class Service:
    """A worker's life: accept, reload, retire."""

    def __init__(self, config: Path, listening: socket.socket, pipe: int) -> None:
        self._config = config
        self._listening = listening
        self._pipe = pipe
        self._loop = asyncio.get_running_loop()
        loaded = GuardConfig.load(config)
        self._accounts = Accounts(loaded.ledger, self._loop)
        self._worker = Worker(self._loop, loaded, self._accounts)
        self._ended = asyncio.Event()

    async def run(self) -> None:
        self._listening.setblocking(False)
        self._loop.add_reader(self._listening.fileno(), self._accept)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload)
        self._loop.add_signal_handler(signal.SIGTERM, self._retire)
        self._say(READY)
        self._beat()
        await self._ended.wait()
        self._accounts.close()

    def _accept(self) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            try:
                sock, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                # No descriptor is free: whoever knocks waits until an answer has ended.
                self._loop.remove_reader(self._listening.fileno())
                self._loop.call_later(FULL_S, self._accept_again)
                return
            sock.setblocking(False)
            Exchange(self._worker, sock).begin_reading()

    def _accept_again(self) -> None:
        if self._worker.on_idle is None:
            self._loop.add_reader(self._listening.fileno(), self._accept)

    def _reload(self) -> None:
        try:
            self._worker.config = GuardConfig.load(self._config)
        except ConfigError as error:
            print(f"flexi_host: {error}; what was read before holds", file=sys.stderr)
            self._say(REFUSED)
        else:
            self._say(READY)

    def _retire(self) -> None:
        self._loop.remove_reader(self._listening.fileno())
        self._worker.on_idle = self._leave_when_idle
        self._leave_when_idle()

    def _leave_when_idle(self) -> None:
        if not self._worker.open:
            self._ended.set()

    def _beat(self) -> None:
        self._say(BEAT)
        self._loop.call_later(BEAT_S, self._beat)

    def _say(self, word: bytes) -> None:
        # A master that does not read is busy with its own end.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._pipe, word)


def run(config: Path, listen_fd: int, pipe_fd: int) -> None:
    """Serve on the listening socket `listen_fd` until SIGTERM; ConfigError where the configuration cannot be used."""
    # The master blocks its signals, and children inherit that.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.set_blocking(pipe_fd, False)
    gc.set_threshold(GC_THRESHOLD, 20, 20)
    listening = socket.socket(fileno=listen_fd)

    async def serve() -> None:
        await Service(config, listening, pipe_fd).run()

    asyncio.run(serve())
