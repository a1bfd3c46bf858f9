"""One request as bytes, sent as it is, and what comes back, read without forgiving anything."""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import dataclass

DEADLINE_S = 30
MAX_ANSWER = 1 << 20
PIECE = 65536


class UnreadableError(Exception):
    """What came back is no HTTP/1 response."""


@dataclass(frozen=True)
class Attempt:
    """A request, and how its answer may look."""

    path: str
    raw: bytes
    sound: bool = True
    """Its HTTP is right, whatever the body is: it gets exactly one response, and an error of ours is JSON."""
    authorized: bool = True
    patience_s: float = DEADLINE_S
    """When to leave a gateway that may rightly wait for the rest of it."""


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes
    """Of a streamed answer at most MAX_ANSWER bytes."""


def exchange(address: tuple[str, int], attempt: Attempt) -> list[Response]:
    """Every response on a connection of its own, until the gateway ends it.

    TimeoutError where it neither answers nor ends it; UnreadableError.
    """
    received = bytearray()
    deadline = time.monotonic() + DEADLINE_S
    with socket.create_connection(address, timeout=DEADLINE_S) as connection:
        # A refusal may come, and the connection end, before all has been sent.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(attempt.raw)
        connection.settimeout(attempt.patience_s)
        while len(received) < MAX_ANSWER:
            try:
                piece = connection.recv(PIECE)
            except ConnectionResetError:
                break
            except TimeoutError:
                if attempt.sound:
                    raise
                break
            if not piece:
                break
            received += piece
            if time.monotonic() > deadline:
                raise TimeoutError(f"it still answers after {DEADLINE_S} s")
    if not attempt.sound and not received.startswith(b"HTTP/"):
        return []  # HTTP/2 to its preface, or nothing that one could be misled by
    return parse(bytes(received))


def parse(data: bytes) -> list[Response]:
    responses = []
    while data:
        response, data = _one(data)
        if response.status >= 200:
            responses.append(response)
    return responses


def _one(data: bytes) -> tuple[Response, bytes]:
    head, end, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if not end or len(words) < 2 or words[0] not in ("HTTP/1.1", "HTTP/1.0") or not words[1].isdigit():
        raise UnreadableError(data[:200])
    status = int(words[1])
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if status < 200 or status in (204, 304):
        return Response(status, headers, b""), rest
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body, rest = _chunks(rest)
    elif "content-length" in headers:
        length = int(headers["content-length"])
        body, rest = rest[:length], rest[length:]
    else:
        body, rest = rest, b""
    return Response(status, headers, body), rest


def _chunks(data: bytes) -> tuple[bytes, bytes]:
    body = b""
    while data:
        line, _, data = data.partition(b"\r\n")
        try:
            size = int(line, 16)
        except ValueError:
            raise UnreadableError(line[:200]) from None
        body += data[:size]
        data = data[size + 2 :]
        if size == 0:
            break
    return body, data
