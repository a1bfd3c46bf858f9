"""HTTP/2 as it should not be, frame by frame (RFC 9113), over TLS.

What parts servers: section 8.1.1 (malformed messages), 8.2 and 8.3 (fields that HTTP/1 would read otherwise, "request
smuggling"), 10.5 (floods).
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fuzz import verdict
from fuzz.bodies import ALLOWED, FORBIDDEN
from fuzz.broken import METHODS, PATHS
from fuzz.wire import Response, UnreadableError
from hpack import Decoder, Encoder, HPACKError
from hypothesis import strategies as st

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED = 0x1, 0x4, 0x8
ACK = 0x1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DEADLINE_S = 20
FLOOD_S = 5
PATIENCE_S = 1.0
"""When to leave a gateway that may rightly wait for the rest of a request."""

Fields = tuple[tuple[str, str], ...]

_GOOD = json.dumps({"model": ALLOWED, "prompt": ""})
_BAD = json.dumps({"model": FORBIDDEN[0], "prompt": "", "keep_alive": 0})
_SMUGGLED = f"POST /api/generate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(_BAD)}\r\n\r\n{_BAD}"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"", length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def opening() -> bytes:
    """The preface, and settings and a window that let every answer come without a word of ours."""
    wide = (4).to_bytes(2, "big") + (1 << 20).to_bytes(4, "big")
    return PREFACE + frame(SETTINGS, 0, 0, wide) + frame(WINDOW_UPDATE, 0, 0, (1 << 24).to_bytes(4, "big"))


def block(fields: Iterable[tuple[str, str]]) -> bytes:
    """Without the dynamic table, so that each block stands for itself. Nothing is checked."""
    encoder = Encoder()
    encoder.header_table_size = 0
    return bytes(encoder.encode([(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]))


_CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
# The certificate is of the lab's own making, and not what is tried here.
_CONTEXT.check_hostname = False
_CONTEXT.verify_mode = ssl.CERT_NONE
_CONTEXT.set_alpn_protocols(["h2"])


def connected(address: tuple[str, int]) -> ssl.SSLSocket:
    connection = _CONTEXT.wrap_socket(socket.create_connection(address, timeout=DEADLINE_S))
    assert connection.selected_alpn_protocol() == "h2"
    return connection


@dataclass(frozen=True)
class Request:
    """Frames behind the opening, and what may come of them."""

    path: str
    frames: bytes
    authorized: bool
    json: bool
    """Whoever answers it answers in the API's JSON: it is neither for the chat nor by HEAD."""
    sound: bool = False


class Conversation:
    """What a server says on one connection."""

    def __init__(self) -> None:
        self.over = False
        """It has said that it goes away."""
        self.ended: set[int] = set()
        self._data = bytearray()
        self._decoder = Decoder()
        self._fields: dict[int, Mapping[str, str]] = {}
        self._bodies: dict[int, bytearray] = {}
        self._block = bytearray()

    def feed(self, data: bytes) -> None:
        """UnreadableError where it is no HTTP/2."""
        self._data += data
        while len(self._data) >= 9:
            end = 9 + int.from_bytes(self._data[:3], "big")
            if len(self._data) < end:
                return
            kind, flags = self._data[3], self._data[4]
            self._take(kind, flags, int.from_bytes(self._data[5:9], "big"), bytes(self._data[9:end]))
            del self._data[:end]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind in (HEADERS, CONTINUATION):
            self._block += payload
            if flags & END_HEADERS:
                try:
                    fields = self._decoder.decode(bytes(self._block), raw=True)
                except HPACKError as error:
                    raise UnreadableError(str(error)) from error
                self._block.clear()
                self._fields.setdefault(stream, {name.decode(): value.decode("latin-1") for name, value in fields})
        elif kind == DATA:
            self._bodies.setdefault(stream, bytearray()).extend(payload)
        elif kind == RST_STREAM:
            self.ended.add(stream)
        elif kind == GOAWAY:
            self.over = True
        if kind in (HEADERS, DATA) and flags & END_STREAM:
            self.ended.add(stream)

    def responses(self) -> list[Response]:
        found = []
        for stream, fields in self._fields.items():
            rest = {name: value for name, value in fields.items() if name != ":status"}
            found.append(Response(int(fields[":status"]), rest, bytes(self._bodies.get(stream, b""))))
        return found


def exchange(address: tuple[str, int], request: Request) -> list[Response]:
    """Every response on a connection of its own, until each request has ended or the gateway waits for more."""
    conversation = Conversation()
    with connected(address) as connection:
        # It may have ended the connection; what it said before that is read.
        with contextlib.suppress(OSError):
            connection.sendall(opening() + request.frames)
        connection.settimeout(PATIENCE_S)
        until = time.monotonic() + DEADLINE_S
        while not conversation.over and 1 not in conversation.ended:
            try:
                data = connection.recv(65536)
            except (TimeoutError, ConnectionError, ssl.SSLError):
                break
            if not data:
                break
            conversation.feed(data)
            if time.monotonic() > until:
                raise TimeoutError(f"it still answers after {DEADLINE_S} s")
    return conversation.responses()


def judge(request: Request, responses: list[Response]) -> None:
    """As verdict.judge. HAProxy has read the head of whatever it answers, so that none of its answers is HTML."""
    verdict.judge(request, responses)
    for response in responses:
        if request.json and response.status >= 400:
            # What is refused before any rule is in one dialect: nobody has looked at its path.
            early = response.status == 400 and isinstance(json.loads(response.body)["error"], str)
            verdict.explained("" if early else request.path, response)


def usual(key: str, path: str = "/api/generate", method: str = "POST") -> Fields:
    return (
        (":method", method),
        (":scheme", "https"),
        (":path", path),
        (":authority", "flexi.lab.test"),
        ("authorization", f"Bearer {key}"),
        ("content-type", "application/json"),
    )


_ODD_FIELDS = (
    ("X-Upper", "a"),
    ("Authorization", "Bearer x"),
    ("x-crlf", "a\r\nx-flexi-consumer: admin"),
    ("x-cr", "a\rb"),
    ("x-lf", "a\nX-Flexi-Consumer: admin\n\n" + _SMUGGLED),
    ("x-nul", "a\0b"),
    ("x-blank ", "a"),
    (" x-blank", "a"),
    ("x-colon: a\r\nx-flexi-class", "staff"),
    ("", "empty"),
    ("x-latin", "\xe9\xff"),
    ("x-flexi-backend", "model_gemma_7b"),
    ("x-flexi-consumer", "admin"),
    ("host", "localhost"),
    ("host", "chat.flexi.lab.test"),
    ("host", "a\r\nx: y"),
    ("connection", "keep-alive, authorization"),
    ("keep-alive", "timeout=5"),
    ("proxy-connection", "close"),
    ("transfer-encoding", "chunked"),
    ("transfer-encoding", "identity"),
    ("te", "gzip"),
    ("upgrade", "h2c"),
    ("expect", "100-continue"),
    ("content-length", "0"),
    ("content-length", str(len(_GOOD) - 1)),
    ("content-length", str(len(_GOOD) + 1)),
    ("content-length", "-1"),
    ("content-length", f"{len(_GOOD)}, {len(_GOOD)}"),
    ("content-length", "9" * 30),
    ("cookie", "a=b; " * 500),
    ("x-large", "a" * 15_000),
    (":status", "200"),
    (":unknown", "a"),
    (":protocol", "websocket"),
    (":method", "DELETE"),
    (":path", "/api/delete"),
    (":authority", "chat.flexi.lab.test"),
)
_PSEUDO = {
    ":method": (*METHODS, "", "POST /api/pull HTTP/1.1\r\nX: y", "GET ", "P\0ST"),
    ":scheme": ("http", "", "ftp", "https://x/api/pull?", "h\r\nx: y", "file"),
    ":path": (
        *PATHS,
        "/api/generate HTTP/1.1\r\nHost: x\r\n\r\n" + _SMUGGLED,
        "api/generate",
        "/api/ge nerate",
        "//",
        "/\0",
    ),
    ":authority": ("", "a@b", "chat.flexi.lab.test", "x\r\nX-Flexi-Class: staff", "x y", "[::1", "x/api/pull", "\0"),
}
_TRAILERS = (
    (("x-flexi-consumer", "admin"),),
    (("authorization", "Bearer x"), ("content-length", "9")),
    ((":path", "/api/delete"),),
    (("transfer-encoding", "chunked"),),
    (("X", "\r\n" + _SMUGGLED),),
)


def _settings(number: int, value: int) -> bytes:
    return frame(SETTINGS, 0, 0, number.to_bytes(2, "big") + value.to_bytes(4, "big"))


_STRANGE = (
    frame(PING, 0, 0, b"x" * 8) * 50,
    frame(PING, 0, 0, b"short"),
    frame(PING, 0, 3, b"x" * 8),
    frame(SETTINGS, 0, 0) * 50,
    frame(SETTINGS, ACK, 0, b"xxxxxx"),
    frame(SETTINGS, 0, 0, b"odd"),
    _settings(4, 0),
    _settings(4, 2**32 - 1),
    _settings(5, 1),
    _settings(1, 2**32 - 1),
    _settings(3, 0),
    frame(WINDOW_UPDATE, 0, 0, bytes(4)),
    frame(WINDOW_UPDATE, 0, 0, (2**31 - 1).to_bytes(4, "big")) * 2,
    frame(WINDOW_UPDATE, 0, 1, (1).to_bytes(4, "big")),
    frame(PRIORITY, 0, 1, (1).to_bytes(4, "big") + b"\0"),
    frame(PRIORITY, 0, 0, bytes(5)),
    frame(PUSH_PROMISE, END_HEADERS, 1, (2).to_bytes(4, "big")),
    frame(GOAWAY, 0, 0, bytes(8)),
    frame(GOAWAY, 0, 0, (1).to_bytes(4, "big") + bytes(4) + b"why"),
    frame(RST_STREAM, 0, 1, bytes(4)),
    frame(RST_STREAM, 0, 0, bytes(4)),
    frame(RST_STREAM, 0, 9, bytes(4)),
    frame(CONTINUATION, END_HEADERS, 1, b"\x82"),
    frame(DATA, 0, 1, b"early"),
    frame(DATA, 0, 0, b"x"),
    frame(DATA, PADDED, 1, b"\xff"),
    frame(0x2A, 0xFF, 1, b"unknown kind"),
    frame(HEADERS, END_HEADERS, 2, b"\x82"),
    frame(HEADERS, END_HEADERS | END_STREAM, 0, b"\x82"),
    frame(DATA, 0, 1, bytes(20_000)),
    frame(DATA, 0, 1, b"", length=2**24 - 1),
    _SMUGGLED.encode(),
)


@st.composite
def attempts(draw: st.DrawFn, key: str) -> Request:
    """A request with mostly one thing wrong, before it, in it or between its frames."""
    fields = list(usual(key))
    trailers: Fields = ()
    body = _GOOD
    before = between = b""
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 0]))):
        match draw(st.integers(0, 8)):
            case 0 | 1:
                fields.insert(draw(st.integers(0, len(fields))), draw(st.sampled_from(_ODD_FIELDS)))
            case 2:
                name = draw(st.sampled_from(sorted(_PSEUDO)))
                value = draw(st.sampled_from(_PSEUDO[name]))
                fields = [(known, value if known == name else old) for known, old in fields]
            case 3:
                del fields[draw(st.integers(0, len(fields) - 1))]
            case 4:
                fields = draw(st.permutations(fields))
            case 5:
                trailers = draw(st.sampled_from(_TRAILERS))
            case 6:
                body = draw(st.sampled_from([_BAD, "", _SMUGGLED, _GOOD + _SMUGGLED, _GOOD + "\r\n"]))
            case 7:
                before = draw(st.sampled_from(_STRANGE))
            case 8:
                between = draw(st.sampled_from(_STRANGE))
    authorized = ("authorization", f"Bearer {key}") in fields
    path = next((value for name, value in fields if name == ":path"), "")
    json_wanted = not any("chat." in value or value == "HEAD" for _, value in fields)
    return Request(path, before + _framed(draw, fields, body.encode(), between, trailers), authorized, json_wanted)


def _framed(draw: st.DrawFn, fields: list[tuple[str, str]], body: bytes, between: bytes, trailers: Fields) -> bytes:
    head = block(fields)
    how = draw(st.sampled_from([0, 0, 0, 1, 2, 3, 4]))
    if how == 1:  # a head in crumbs
        pieces = [head[at : at + 7] for at in range(0, len(head), 7)]
        frames = frame(HEADERS, 0, 1, pieces[0])
        frames += b"".join(frame(CONTINUATION, 0, 1, piece) for piece in pieces[1:])
        frames += frame(CONTINUATION, END_HEADERS, 1)
    elif how == 2:  # something stands between a head and its rest
        frames = frame(HEADERS, 0, 1, head[:9]) + (between or frame(PING, 0, 0, bytes(8)))
        frames += frame(CONTINUATION, END_HEADERS, 1, head[9:])
    elif how == 3:  # no headers at all
        frames = frame(HEADERS, END_HEADERS, 1, draw(st.binary(max_size=60)))
    else:
        frames = frame(HEADERS, END_HEADERS, 1, head)
    frames += between
    if how == 4:  # one byte at a time, with nothing between
        frames += b"".join(frame(DATA, 0, 1, body[at : at + 1]) + frame(DATA, 0, 1) for at in range(len(body)))
        body = b""
    if trailers:
        return frames + frame(DATA, 0, 1, body) + frame(HEADERS, END_HEADERS | END_STREAM, 1, block(trailers))
    return frames + frame(DATA, END_STREAM, 1, body)


def flood(address: tuple[str, int], fields: Fields, name: str) -> int:
    """Send one of FLOODS on one connection until it is over or the gateway ends it; how many frames went out."""
    head = block(fields)
    with connected(address) as connection:
        # Nobody reads what it says: it may well stop reading too.
        connection.settimeout(FLOOD_S)
        sent = 0
        try:
            connection.sendall(opening())
            for pieces in FLOODS[name](head):
                connection.sendall(pieces)
                sent += 1
        except OSError:
            pass  # the gateway has had enough
    return sent


def _rapid_reset(head: bytes) -> Iterable[bytes]:
    """CVE-2023-44487: streams that are begun and taken back."""
    for stream in range(1, 6000, 2):
        yield frame(HEADERS, END_HEADERS, stream, head) + frame(RST_STREAM, 0, stream, (8).to_bytes(4, "big"))


def _asked_and_taken_back(head: bytes) -> Iterable[bytes]:
    """The same of whole requests, which the guard has read."""
    for stream in range(1, 2000, 2):
        yield request_frames(head, stream) + frame(RST_STREAM, 0, stream, (8).to_bytes(4, "big"))


def _continuations(head: bytes) -> Iterable[bytes]:
    """CVE-2024-27316 and others: a head that does not end."""
    yield frame(HEADERS, 0, 1, head)
    for _ in range(2000):
        yield frame(CONTINUATION, 0, 1, block((("x-again", "a" * 1000),)))


def _empty_continuations(head: bytes) -> Iterable[bytes]:
    yield frame(HEADERS, 0, 1, head)
    for _ in range(200):
        yield frame(CONTINUATION, 0, 1) * 100


def _many_streams(head: bytes) -> Iterable[bytes]:
    """More at once than are allowed, none of which ends."""
    for stream in range(1, 4000, 2):
        yield frame(HEADERS, END_HEADERS, stream, head)


def _farewell(head: bytes) -> Iterable[bytes]:
    """GOAWAY while requests run."""
    for stream in range(1, 40, 2):
        yield request_frames(head, stream)
    yield frame(GOAWAY, 0, 0, bytes(8))


def _settings_and_pings(head: bytes) -> Iterable[bytes]:
    """CVE-2019-9512 and 9515: each wants an answer, and nobody reads it."""
    for _ in range(2000):
        yield frame(SETTINGS, 0, 0) * 10 + frame(PING, 0, 0, bytes(8)) * 10


def request_frames(head: bytes, stream: int) -> bytes:
    return frame(HEADERS, END_HEADERS, stream, head) + frame(DATA, END_STREAM, stream, _GOOD.encode())


FLOODS = {
    "rapid reset": _rapid_reset,
    "asked and taken back": _asked_and_taken_back,
    "continuations": _continuations,
    "empty continuations": _empty_continuations,
    "many streams": _many_streams,
    "farewell": _farewell,
    "settings and pings": _settings_and_pings,
}
