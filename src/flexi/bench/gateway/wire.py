"""What the bench's clients and its instances say to each other, and as much of HTTP/1.1 as both need.

A question says how many tokens it wants at what pace. Each token is a time stamp, which no proxy alters: the client
compares it with its own clock when it arrives. Both run on one computer, whose monotonic clock they share.
"""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Callable

STAMP = re.compile(rb"@(\d{12,18}) ")
QUESTION = re.compile(r"tokens=(\d+) pace=(\d+(?:\.\d+)?)")


def now_us() -> int:
    """Microseconds of the clock that all processes of this computer share."""
    return time.monotonic_ns() // 1000


def question(tokens: int, pace: float) -> str:
    """The prompt for an answer of so many tokens, so many a second; pace 0: all at once."""
    return f"tokens={tokens} pace={pace:g}"


def asked(prompt: str) -> tuple[int, float]:
    """Tokens and pace of a question; ValueError where it is none."""
    found = QUESTION.search(prompt)
    if found is None:
        raise ValueError(f"not a question of the bench: {prompt[:80]!r}")
    return int(found[1]), float(found[2])


def token() -> str:
    return f"@{now_us():012d} "


def allow_many_files() -> None:
    """Let this process and its children open as many connections as the computer allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Messages:
    """HTTP/1.1 messages out of a stream of bytes: heads as text, bodies piece by piece without their framing.

    A body has a length, or is chunked; a request without either has none, and a response without either ends with its
    connection (`ended`). ValueError where the bytes are no such message.
    """

    def __init__(
        self,
        on_head: Callable[[str, dict[str, str]], None],
        on_body: Callable[[bytes], None],
        on_end: Callable[[], None],
    ) -> None:
        self._on_head, self._on_body, self._on_end = on_head, on_body, on_end
        self._buffer = b""
        self._left: int | None = None
        """Bytes that the body, or its present chunk, still has; None between messages."""
        self._chunked = False
        self._until_close = False

    def feed(self, data: bytes) -> None:
        if self._until_close:
            self._on_body(data)
            return
        self._buffer += data
        while self._buffer and self._step():
            pass

    def ended(self) -> None:
        """The connection is closed: the end of a body that says no length."""
        if self._until_close:
            self._until_close = False
            self._on_end()

    def _step(self) -> bool:
        """Take the next piece off the buffer; False where more bytes are needed."""
        if self._left is None:
            return self._head()
        if self._left:
            piece, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
            self._left -= len(piece)
            self._on_body(piece)
            if not self._left and not self._chunked:
                self._finish()
            return True
        return self._chunk()

    def _head(self) -> bool:
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return False
        start, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        self._buffer = rest
        self._chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        self._left = int(headers.get("content-length", 0))
        self._on_head(start, headers)
        if not self._chunked and not self._left:
            if start.startswith("HTTP/") and "content-length" not in headers:
                self._until_close = True
                self._on_body(rest)
                self._buffer = b""
                return False
            self._finish()
        return True

    def _chunk(self) -> bool:
        """Between two chunks: the line break that ends the one, and the size of the next."""
        text = self._buffer.removeprefix(b"\r\n")
        size, end, rest = text.partition(b"\r\n")
        if not end:
            return False
        count = int(size.split(b";")[0], 16)
        if count:
            self._left, self._buffer = count, rest
            return True
        if len(rest) < 2:
            return False
        self._buffer = rest[2:]
        self._finish()
        return True

    def _finish(self) -> None:
        self._left, self._chunked = None, False
        self._on_end()
