"""Finished requests, told to the ledger: one datagram each. A ledger that is away delays no answer."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import deque
from collections.abc import Mapping

MAX_WAITING = 10_000
AGAIN_S = 0.1


class Accounts:
    """Sends to the Unix datagram socket at `path`; keeps what it cannot take yet, at most MAX_WAITING of them."""

    def __init__(self, path: str, loop: asyncio.AbstractEventLoop) -> None:
        self._path = path
        self._loop = loop
        self._waiting: deque[bytes] = deque(maxlen=MAX_WAITING)
        self._again: asyncio.TimerHandle | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)

    def tell(self, entry: Mapping[str, object]) -> None:
        self._waiting.append(json.dumps(entry, separators=(",", ":")).encode())
        if self._again is None:
            self._send()

    def close(self) -> None:
        """Send what can be sent, and let go of the socket."""
        if self._again is not None:
            self._again.cancel()
        self._send()
        if self._again is not None:
            self._again.cancel()
        self._socket.close()

    def _send(self) -> None:
        self._again = None
        while self._waiting:
            try:
                self._socket.sendto(self._waiting[0], self._path)
            except OSError:
                # Full, or not there: the next attempt finds it, or the oldest are let go.
                self._again = self._loop.call_later(AGAIN_S, self._send)
                return
            self._waiting.popleft()
