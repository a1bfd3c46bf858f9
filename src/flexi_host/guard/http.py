"""As much HTTP/1.1 (RFC 9112) as HAProxy speaks on both sides of the guard. What is odd is an error, not a guess."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

MAX_HEAD_BYTES = 64 * 1024
"""More than HAProxy's buffer holds (tune.bufsize, 16 KiB)."""
MAX_CHUNK_LINE_BYTES = 256
MAX_TRAILER_BYTES = 16 * 1024
END_OF_HEAD = b"\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

_ONCE = frozenset({"content-length", "transfer-encoding"})
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEX = re.compile(rb"[0-9A-Fa-f]{1,8}")


class BadHttp(Exception):  # noqa: N818
    """The other side does not speak the HTTP that is expected."""


class TooLarge(Exception):  # noqa: N818
    """The body is larger than allowed."""


@dataclass(frozen=True)
class Head:
    """First line and headers. Names are in small letters; of equal ones the last stands in `headers`."""

    line: str
    headers: dict[str, str]
    lines: tuple[tuple[str, str], ...]
    """All headers in their order, names as they came."""

    @property
    def chunked(self) -> bool:
        """BadHttp for a transfer coding other than chunked."""
        coding = self.headers.get("transfer-encoding")
        if coding is None:
            return False
        if coding.lower() != "chunked":
            raise BadHttp("a transfer coding that is not chunked")
        return True

    @property
    def length(self) -> int | None:
        text = self.headers.get("content-length")
        if text is None:
            return None
        if not text.isascii() or not text.isdigit() or len(text) > 18:
            raise BadHttp("a content length that is no number")
        return int(text)


def parse_head(data: bytes | bytearray) -> Head:
    """`data` up to the end of the head, without it."""
    first, *rest = bytes(data).decode("latin-1").split("\r\n")
    lines = []
    headers: dict[str, str] = {}
    for text in rest:
        name, colon, value = text.partition(":")
        if not colon or not _TOKEN.fullmatch(name):
            raise BadHttp("a header that is none")
        value = value.strip(" \t")
        small = name.lower()
        if small in _ONCE and small in headers:
            raise BadHttp(f"{small} stands there twice")
        headers[small] = value
        lines.append((name, value))
    if "content-length" in headers and "transfer-encoding" in headers:
        raise BadHttp("a content length beside a transfer coding")
    return Head(first, headers, tuple(lines))


def write_head(line: str, headers: Iterable[tuple[str, str]]) -> bytes:
    text = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"{line}\r\n{text}\r\n".encode("latin-1")


class Body:
    """A request's body as it comes in, at most `limit` bytes of it."""

    def __init__(self, head: Head, limit: int) -> None:
        """BadHttp, or TooLarge where the head says so already."""
        self.data = bytearray()
        self._limit = limit
        self._chunks = _Chunks() if head.chunked else None
        self._length = 0 if self._chunks else head.length or 0
        if self._length > limit:
            raise TooLarge
        self.complete = not self._chunks and not self._length

    def feed(self, data: bytes) -> None:
        """Take the next bytes. TooLarge; BadHttp also for what comes after the end."""
        if self.complete:
            raise BadHttp("more than one request")
        if self._chunks:
            self.complete = self._chunks.feed(data, self.data, self._limit)
            return
        self.data += data
        if len(self.data) > self._length:
            raise BadHttp("more than one request")
        self.complete = len(self.data) == self._length


class _Chunks:
    def __init__(self) -> None:
        self._line = bytearray()
        self._left = 0
        """Bytes of the present chunk that have not come, its line end included."""
        self._trailer: int | None = None
        """How much of the trailer has come; None before it."""

    def feed(self, data: bytes, target: bytearray, limit: int) -> bool:
        """Append what `data` carries to `target`; whether the body has ended."""
        at = 0
        while at < len(data):
            if self._left:
                at += self._take(data, at, target)
                continue
            end = data.find(b"\n", at)
            piece = data[at : len(data) if end < 0 else end + 1]
            self._line += piece
            at += len(piece)
            if len(self._line) > (MAX_CHUNK_LINE_BYTES if self._trailer is None else MAX_TRAILER_BYTES):
                raise BadHttp("a chunk's line that does not end")
            if end < 0:
                break
            if self._ended(len(target), limit):
                if at < len(data):
                    raise BadHttp("more than one request")
                return True
        return False

    def _take(self, data: bytes, at: int, target: bytearray) -> int:
        """Bytes of `data` from `at` on that belong to the present chunk or its line end."""
        content = min(self._left - 2, len(data) - at)
        if content > 0:
            target += data[at : at + content]
            self._left -= content
            return content
        wanted = b"\r\n"[2 - self._left]
        if data[at] != wanted:
            raise BadHttp("a chunk that is longer than it says")
        self._left -= 1
        return 1

    def _ended(self, size: int, limit: int) -> bool:
        line = bytes(self._line)
        self._line.clear()
        if not line.endswith(b"\r\n"):
            raise BadHttp("a line that ends oddly")
        if self._trailer is not None:
            self._trailer += len(line)
            if self._trailer > MAX_TRAILER_BYTES:
                raise BadHttp("a trailer that does not end")
            return line == b"\r\n"
        digits = line[:-2].partition(b";")[0].strip(b" \t")
        if not _HEX.fullmatch(digits):
            raise BadHttp("a chunk's size that is no number")
        length = int(digits, 16)
        if size + length > limit:
            raise TooLarge
        if length:
            self._left = length + 2
        else:
            self._trailer = 0
        return False
