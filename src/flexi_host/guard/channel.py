"""A connected stream socket on the event loop: what the guard needs of asyncio's transports, and no more.

Theirs take a task and three turns of the loop before the first byte of each connection; a request is two connections.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import Protocol

READ_BYTES = 64 * 1024
HIGH_BYTES = 64 * 1024
"""More unsent bytes than this, and whoever sends them is stopped until LOW_BYTES are left."""
LOW_BYTES = 16 * 1024


class Peer(Protocol):
    """Whoever is told what happens on a channel."""

    def received(self, data: bytes) -> None:
        """Some bytes have come."""

    def lost(self) -> None:
        """The channel is closed, by whomever; said once, and last."""

    def pause_writing(self) -> None:
        """Too much is unsent."""

    def resume_writing(self) -> None:
        """Go on."""


class Channel:
    """`buffer` is what it reads into: of all channels the same one, its content is taken out at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, peer: Peer, buffer: memoryview) -> None:
        self._loop = loop
        self._sock: socket.socket | None = sock
        self._fd = sock.fileno()
        self._peer = peer
        self._buffer = buffer
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._stopped = False
        """The sender was told to pause."""
        self._reading = True
        self._closing = False
        self._ending = False
        loop.add_reader(self._fd, self.read)

    def read(self) -> None:
        """Take what is there, if anything is."""
        if self._sock is None or not self._reading:
            return
        try:
            count = self._sock.recv_into(self._buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.abort()
            return
        if not count:
            self.abort()
            return
        try:
            self._peer.received(bytes(self._buffer[:count]))
        except BaseException:
            self.abort()
            raise

    def write(self, data: bytes) -> None:
        """Send, now or as soon as it goes. Nothing happens on a channel that is closed or closing."""
        if self._sock is None or self._closing:
            return
        sent = 0
        if not self._unsent:
            try:
                sent = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                self.abort()
                return
            if sent == len(data):
                return
            self._loop.add_writer(self._fd, self._send)
        self._unsent.append(memoryview(data)[sent:])
        self._unsent_bytes += len(data) - sent
        if self._unsent_bytes > HIGH_BYTES and not self._stopped:
            self._stopped = True
            self._peer.pause_writing()

    def end(self) -> None:
        """Say that nothing more will be sent; reading goes on."""
        self._ending = True
        if not self._unsent:
            self._shut_down()

    def close(self) -> None:
        """Close once everything is sent; what comes meanwhile is not read."""
        if self._sock is None or self._closing:
            return
        self._closing = True
        self.pause_reading()
        if not self._unsent:
            self.abort()

    def abort(self) -> None:
        """Close now."""
        if self._sock is None:
            return
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._sock.close()
        self._sock = None
        self._unsent.clear()
        # Not from within: the peer may be in the midst of something.
        self._loop.call_soon(self._peer.lost)

    def pause_reading(self) -> None:
        if self._sock is not None and self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def resume_reading(self) -> None:
        if self._sock is not None and not self._reading and not self._closing:
            self._reading = True
            self._loop.add_reader(self._fd, self.read)

    def _send(self) -> None:
        """The socket takes bytes again."""
        assert self._sock is not None
        while self._unsent:
            piece = self._unsent[0]
            try:
                sent = self._sock.send(piece)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                self.abort()
                return
            self._unsent_bytes -= sent
            if sent < len(piece):
                self._unsent[0] = piece[sent:]
                break
            self._unsent.popleft()
        if self._stopped and self._unsent_bytes <= LOW_BYTES:
            self._stopped = False
            self._peer.resume_writing()
        if self._unsent or self._sock is None:
            return
        self._loop.remove_writer(self._fd)
        if self._ending:
            self._shut_down()
        if self._closing:
            self.abort()

    def _shut_down(self) -> None:
        if self._sock is not None:
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError:
                self.abort()
