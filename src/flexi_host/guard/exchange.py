"""One request through the guard: read it whole, judge it, pass it on, relay the answer as it comes.

Two peers hold hands: `Exchange` on the connection from HAProxy's edge, `Upstream` on the one to its inner front
end. Nothing of an answer is parsed but its head; a reader that is slow stops the sender.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from flexi_host.guard import dialect, policy
from flexi_host.guard.accounts import Accounts
from flexi_host.guard.channel import READ_BYTES, Channel
from flexi_host.guard.config import GuardConfig, Model
from flexi_host.guard.dialect import Refusal
from flexi_host.guard.http import (
    END_OF_HEAD,
    LAST_CHUNK,
    MAX_HEAD_BYTES,
    BadHttp,
    Body,
    Head,
    TooLarge,
    parse_head,
    write_head,
)
from flexi_host.guard.tokens import Tail

CONNECT_AGAIN_S = 0.01
CONNECT_S = 5.0
"""HAProxy's inner front end accepts within this time, or the gateway is out of order."""
RETRY_AFTER_S = 10
AGAIN_S = 0.2
AGAIN_FOR_S = 10.0
"""How long a request that has reached nobody is tried again: HAProxy sees within seconds that an instance is down."""
BUSY_S = 1.0
"""A request that got no instance waited for its turn if it took longer than this; else there was none to wait for."""
CLIENT_GONE = 499
"""What is noted for a request whose client left before it had an answer; nginx and Ollama say the same."""
LINGER_S = 10.0
"""How long the rest of a refused body is read and thrown away: closed at once, the connection would break under the
edge before it has read why."""
MAX_ERROR_BYTES = 64 * 1024
MAX_SHOW_BYTES = 64 * 1024
"""The largest body of /api/show: a name and little else. A site may open it to strangers, and 32 MiB of JSON that were
made for it keep a worker busy for seconds (28 MiB of small objects: 2 s)."""
LOWEST_PRIORITY = 2047
"""HAProxy's bounds of set-priority-class; what is outside of them it cuts."""


class Failure(Enum):
    """Why an attempt ended before its answer began. HAProxy says so with its status and the server's name in a header;
    its termination state (`%ts`) is not known yet when it writes an error (2.6.12, tried)."""

    FULL = "queue_full"
    """Our own rule, by name."""
    NOWHERE = "nowhere"
    """HAProxy has no such back end: while a deploy changes the models, the guard knows new ones a moment earlier."""
    REFUSED = "refused"
    """The instance took no connection: it was killed, and HAProxy does not know yet."""
    NO_SERVER = "model_unavailable"
    """No instance is up, or none became free in time."""
    TIMEOUT = "instance_timeout"
    BROKEN = "instance_broke"
    """The connection broke: the instance was killed, or it hung and HAProxy gave it up."""


_NO_SERVER = "<NOSRV>"
_NOBODY_YET = (Failure.NOWHERE, Failure.REFUSED)
_SAID = {
    Failure.FULL: (503, "too many requests wait for {model} already"),
    Failure.NOWHERE: (503, "{model} is not ready: the gateway does not know its instances yet"),
    Failure.REFUSED: (503, "{model} is not ready: it is being loaded, or all its instances are down"),
    Failure.NO_SERVER: (503, "{model} is not ready: it is being loaded, or all its instances are down"),
    Failure.TIMEOUT: (504, "{model} gave no answer in time; ask for less, or try again"),
    Failure.BROKEN: (502, "the instance of {model} broke off before it answered, and so did the next; try again"),
}
_BUSY = "{model} is busy: no place became free in the time that a request may wait"


def failure(status: int, said: str) -> Failure:
    """What an error of HAProxy's means; `said` is its header X-Flexi-Failed."""
    if said in (Failure.FULL.value, Failure.NOWHERE.value):
        return Failure(said)
    if status == 503:
        return Failure.NO_SERVER if said == _NO_SERVER else Failure.REFUSED
    return Failure.TIMEOUT if status == 504 else Failure.BROKEN


_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade", "server", "x-flexi-model"}
)
"""Not for the client: between two programs only (RFC 9110, 7.6.1), or ours."""


@dataclass
class Worker:
    """What all exchanges of a process share."""

    loop: asyncio.AbstractEventLoop
    config: GuardConfig
    accounts: Accounts
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(READ_BYTES)))
    """What every connection reads into; whoever is called takes its bytes out at once."""
    held_bytes: int = 0
    open: set[Exchange] = field(default_factory=set)
    on_idle: Callable[[], None] | None = None
    """Called when the last exchange has ended."""


class Exchange:
    """The side of the client."""

    def __init__(self, worker: Worker, sock: socket.socket) -> None:
        self.worker = worker
        self.config = worker.config  # a reload is for the next request
        self._head_bytes = bytearray()
        self._head: Head | None = None
        self._body: Body | None = None
        self._limit = self.config.body_limit_bytes
        self._upstream: Upstream | None = None
        self._held = 0
        self._order: policy.Order | None = None
        self._path = ""
        self._attempts = 0
        self._asked = 0.0
        """Loop time of the last attempt."""
        self._nobody_since: float | None = None
        self._started = time.monotonic()
        self._told = False
        self._lingering = False
        self._request = b""
        self.answering = False
        self.first_byte: float | None = None
        self.status = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.queue_ms: int | None = None
        self.group: str | None = None
        self.tail = Tail()
        worker.open.add(self)
        self._timer: asyncio.TimerHandle | None = worker.loop.call_later(self.config.body_timeout_s, self._too_slow)
        self._channel: Channel | None = Channel(worker.loop, sock, self, worker.buffer)

    # -- the connection

    def begin_reading(self) -> None:
        """What HAProxy has to say comes with the connection, mostly."""
        if self._channel is not None:
            self._channel.read()

    def received(self, data: bytes) -> None:
        if self._lingering:
            return
        try:
            self._feed(data)
        except Refusal as refusal:
            self._refuse(refusal)
        except BadHttp as error:
            self._refuse(Refusal(400, "bad_request", f"the request is not understood: {error}"))
        except TooLarge:
            self._refuse(_too_large(self._limit))

    def lost(self) -> None:
        # Also where HAProxy has ended its side only: it does so when its client is gone (option abortonclose).
        self._channel = None
        self._stop_timer()
        self._release()
        if self._upstream is not None:
            self._upstream.abandon()
            self._upstream = None
        self.status = self.status or CLIENT_GONE
        self._tell("client")
        self.worker.open.discard(self)
        if not self.worker.open and self.worker.on_idle is not None:
            self.worker.on_idle()

    def pause_writing(self) -> None:
        if self._upstream is not None:
            self._upstream.pause()

    def resume_writing(self) -> None:
        if self._upstream is not None:
            self._upstream.resume()

    # -- the request

    def _feed(self, data: bytes) -> None:
        if self._order is not None or self.status:
            raise BadHttp("more than one request")
        if self._body is None:
            data = self._feed_head(data)
        body = self._body
        if body is None:
            return
        if data:
            self.bytes_in += len(data)
            self._hold(len(data))
            body.feed(data)
        if body.complete:
            self._stop_timer()
            self._judge(body)

    def _feed_head(self, data: bytes) -> bytes:
        """Read the head once it is there; what came behind it."""
        self._head_bytes += data
        end = self._head_bytes.find(END_OF_HEAD)
        if end < 0:
            if len(self._head_bytes) > MAX_HEAD_BYTES:
                raise BadHttp("a head that does not end")
            return b""
        rest = bytes(self._head_bytes[end + len(END_OF_HEAD) :])
        head = parse_head(self._head_bytes[:end])
        self._head_bytes.clear()
        method, _, target = head.line.partition(" ")
        target, _, version = target.partition(" ")
        self._path = target.partition("?")[0]
        if version not in ("HTTP/1.1", "HTTP/1.0"):
            raise BadHttp("no version of HTTP that is known")
        if method != "POST":
            raise Refusal(405, "method_not_allowed", "this path takes POST")
        encoding = head.headers.get("content-encoding", "").lower()
        if encoding not in ("", "identity"):
            message = f"the body is compressed ({dialect.shown(encoding)}); send it as it is"
            raise Refusal(415, "encoding_not_supported", message)
        self._head = head
        if self._path == policy.SHOW:
            self._limit = min(self._limit, MAX_SHOW_BYTES)
        self._body = Body(head, self._limit)
        if not rest and head.headers.get("expect", "").lower() == "100-continue":
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return rest

    def _judge(self, body: Body) -> None:
        self._order = policy.judge(
            self.config, self._path, self._header("x-flexi-consumer"), self._header("x-flexi-class"), body.data
        )
        self._body = None
        self._release()
        self._hold(len(self._order.body))
        headers = [
            ("Host", "localhost"),  # Ollama answers foreign names with 403 where it listens on loopback only
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(self._order.body))),
            ("X-Flexi-Backend", self._order.backend),
            ("X-Flexi-Model", self._order.model.name),
            ("X-Flexi-Priority", str(self._priority())),
            ("X-Flexi-Consumer", self._header("x-flexi-consumer")),
            ("X-Flexi-Id", self._header("x-flexi-id")),
            ("Connection", "close"),
        ]
        self._request = write_head(f"POST {self._path} HTTP/1.1", headers)
        self._connect(self.worker.loop.time() + CONNECT_S)

    def _priority(self) -> int:
        text = self._header("x-flexi-priority")
        number = int(text) if text.lstrip("-").isdigit() and text.isascii() else 0
        return max(-LOWEST_PRIORITY, min(LOWEST_PRIORITY, number))

    def _header(self, name: str) -> str:
        return self._head.headers.get(name, "") if self._head else ""

    def _too_slow(self) -> None:
        self._refuse(Refusal(408, "body_timeout", f"the body did not come within {self.config.body_timeout_s} s"))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _hold(self, count: int) -> None:
        if self.worker.held_bytes + count > self.config.bodies_limit_bytes:
            message = "the gateway holds too many large requests already"
            raise Refusal(503, "overloaded", f"{message}; try again in {RETRY_AFTER_S} s", RETRY_AFTER_S)
        self._held += count
        self.worker.held_bytes += count

    def _release(self) -> None:
        self.worker.held_bytes -= self._held
        self._held = 0

    # -- the instance

    def _connect(self, until: float) -> None:
        if self._channel is None:
            return
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            # A Unix socket connects at once or not at all: EAGAIN means that the queue of those who knock is full.
            sock.connect(self.config.inner)
        except OSError:
            sock.close()
            if self.worker.loop.time() < until:
                self.worker.loop.call_later(CONNECT_AGAIN_S, self._connect, until)
            else:
                message = f"the gateway is out of order; try again in {RETRY_AFTER_S} s"
                self._refuse(Refusal(503, "gateway_down", message, RETRY_AFTER_S))
            return
        self._attempts += 1
        self._asked = self.worker.loop.time()
        assert self._order is not None
        self._upstream = Upstream(self, sock)
        self._upstream.ask(self._request, self._order.body)

    @property
    def model(self) -> Model:
        assert self._order is not None
        return self._order.model

    def failed(self, upstream: Upstream, why: Failure) -> None:
        """An attempt ended before its answer began; what has reached nobody is tried again without counting."""
        if upstream is not self._upstream or self._channel is None:
            return
        self._upstream = None
        now = self.worker.loop.time()
        if why in _NOBODY_YET:
            self._attempts -= 1
            self._nobody_since = self._nobody_since or now
            if now - self._nobody_since < AGAIN_FOR_S:
                self.worker.loop.call_later(AGAIN_S, self._connect, now + AGAIN_S + CONNECT_S)
                return
        elif why is Failure.BROKEN and self._attempts <= self.config.retries:
            self._connect(now + CONNECT_S)
            return
        status, words = _SAID[why]
        if why is Failure.NO_SERVER and now - self._asked > BUSY_S:
            words = _BUSY
        retry = RETRY_AFTER_S if status == 503 else None
        message = words.format(model=self.model.name) + (f"; try again in {retry} s" if retry else "")
        self._refuse(Refusal(status, why.value, message, retry), end="instance")

    def answer(self, status: int, head: Head) -> None:
        """The head of the answer is there: from here on the client gets what the instance says."""
        assert self._order is not None
        self.answering = True
        self.tail = Tail(self._path if self._order.stream else "")
        self._release()
        self._request = b""
        self.status = status
        self.note(head)
        headers = [
            (name, value)
            for name, value in head.lines
            if (small := name.lower()) not in _HOP and not small.startswith(("x-flexi-", "access-control-"))
        ]
        headers.append(("X-Flexi-Model", self._order.model.name))
        if self._order.set_aside:
            headers.append(("X-Ignored-Options", ", ".join(self._order.set_aside)))
        if self._order.answer_limit is not None:
            headers.append(("X-Answer-Limit", str(self._order.answer_limit)))
        headers.append(("Connection", "close"))
        self._write(write_head(head.line, headers))

    def note(self, head: Head) -> None:
        """What HAProxy says of the instance that answers."""
        self.first_byte = time.monotonic()
        self.group = head.headers.get("x-flexi-server")
        queue = head.headers.get("x-flexi-queue-ms", "")
        self.queue_ms = int(queue) if queue.isdigit() else None

    def instance_failed(self, status: int, body: bytes) -> None:
        """The instance answered with a failure of its own; that another one would do better is not known."""
        self._upstream = None
        self._refuse(dialect.instance_error(status, body, self.model.name), end="instance")

    def relay(self, data: bytes) -> None:
        self.bytes_out += len(data)
        self.tail.add(data)
        channel = self._channel
        if channel is not None:
            channel.write(data)

    def ended(self, upstream: Upstream, complete: bool) -> None:
        """The instance's side is closed; what came is on its way."""
        if upstream is not self._upstream:
            return
        self._upstream = None
        self._tell("done" if complete else "instance")
        self._close()

    # -- the end

    def _refuse(self, refusal: Refusal, end: str = "refused") -> None:
        if self.answering or self.status or self._channel is None:
            # Too late for words; the client sees an answer that has no end.
            self._abort()
            return
        self._stop_timer()
        self._release()
        self._body = None
        self.status = refusal.status
        answer = dialect.response(self._path, refusal)
        self.bytes_out = len(answer)
        self._write(answer)
        self._tell(end)
        if self._order is not None:
            self._close()
            return
        self._lingering = True
        self._channel.end()
        self._timer = self.worker.loop.call_later(LINGER_S, self._abort)

    def _write(self, data: bytes) -> None:
        if self._channel is not None:
            self._channel.write(data)

    def _close(self) -> None:
        if self._channel is not None:
            self._channel.close()

    def _abort(self) -> None:
        if self._channel is not None:
            self._channel.abort()

    def _tell(self, end: str) -> None:
        if self._told or not self._path:
            return
        self._told = True
        now = time.monotonic()
        prompt_tokens, answer_tokens = self.tail.counts(end == "done") if self.answering else (None, None)
        order, group = self._order, self.group
        self.worker.accounts.tell(
            {
                "kind": "answer",
                "at": round(time.time(), 3),
                "id": self._header("x-flexi-id"),
                "consumer": self._header("x-flexi-consumer"),
                "class": self._header("x-flexi-class"),
                "model": order.model.name if order else None,
                "path": self._path if self._path in self.config.paths else None,
                "status": self.status,
                "stream": order.stream if order else False,
                "queue_ms": self.queue_ms,
                "first_byte_ms": None if self.first_byte is None else _ms(self.first_byte - self._started),
                "total_ms": _ms(now - self._started),
                "bytes_in": self.bytes_in,
                "bytes_out": self.bytes_out,
                "prompt_tokens": prompt_tokens,
                "answer_tokens": answer_tokens,
                "server": f"{self.config.hosts.get(group, '?')}/{group}" if group else None,
                "end": end,
                "retries": max(0, self._attempts - 1),
            }
        )


class Upstream:
    """The side of the instance: one attempt."""

    def __init__(self, exchange: Exchange, sock: socket.socket) -> None:
        self._exchange: Exchange | None = exchange
        self._head_bytes: bytearray | None = bytearray()
        self._why = Failure.BROKEN
        self._error: tuple[int, Body] | None = None
        """Status and what has come of an instance's own failure; clients get its words only."""
        self._left: int | None = None
        """Bytes of the body that have not come; None where it is chunked."""
        worker = exchange.worker
        self._channel = Channel(worker.loop, sock, self, worker.buffer)

    def ask(self, head: bytes, body: bytes) -> None:
        """Send the request."""
        if len(body) <= READ_BYTES:
            self._channel.write(head + body)
        else:
            self._channel.write(head)
            self._channel.write(body)

    def received(self, data: bytes) -> None:
        if self._head_bytes is not None:
            data = self._feed_head(data)
        if not data or self._exchange is None:
            return
        if self._error is not None:
            self._feed_error(data)
            return
        if self._left is not None:
            self._left -= len(data)
        self._exchange.relay(data)

    def lost(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        if self._head_bytes is not None:
            exchange.failed(self, self._why)
        elif self._error is not None:
            exchange.instance_failed(self._error[0], bytes(self._error[1].data))
        else:
            exchange.ended(self, exchange.tail.ends_with(LAST_CHUNK) if self._left is None else self._left == 0)

    def pause(self) -> None:
        self._channel.pause_reading()

    def resume(self) -> None:
        self._channel.resume_reading()

    def pause_writing(self) -> None:
        """The request is in memory already."""

    def resume_writing(self) -> None:
        """Likewise."""

    def abandon(self) -> None:
        """Nobody wants the answer any more: the instance shall stop."""
        self._exchange = None
        self._channel.abort()

    def _feed_head(self, data: bytes) -> bytes:
        """Read the head once it is there; what of the body came behind it."""
        assert self._head_bytes is not None
        self._head_bytes += data
        end = self._head_bytes.find(END_OF_HEAD)
        if end < 0 and len(self._head_bytes) <= MAX_HEAD_BYTES:
            return b""
        try:
            head = parse_head(self._head_bytes[:end]) if end >= 0 else None
            status = _status(head)
            left = None if head is None or head.chunked else head.length
        except BadHttp:
            self._give_up(Failure.BROKEN)
            return b""
        assert head is not None
        said = head.headers.get("x-flexi-failed")
        if said is not None:
            self._give_up(failure(status, said))
            return b""
        rest = bytes(self._head_bytes[end + len(END_OF_HEAD) :])
        self._head_bytes = None
        self._left = left
        if status >= 500 and (left or 0) <= MAX_ERROR_BYTES:
            self._error = (status, Body(head, MAX_ERROR_BYTES))
            if self._exchange is not None:
                self._exchange.note(head)
        elif self._exchange is not None:
            self._exchange.answer(status, head)
        return rest

    def _feed_error(self, data: bytes) -> None:
        assert self._error is not None
        try:
            self._error[1].feed(data)
        except (BadHttp, TooLarge):
            self._give_up(Failure.BROKEN)

    def _give_up(self, why: Failure) -> None:
        self._why = why
        self._channel.abort()


def _status(head: Head | None) -> int:
    """BadHttp where there is none."""
    words = head.line.split(" ", 2) if head else []
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not (words[1].isdigit() and len(words[1]) == 3):
        raise BadHttp("no status line")
    return int(words[1])


def _too_large(limit: int) -> Refusal:
    allowed = f"{limit / 2**20:g} MiB" if limit >= 2**20 else f"{limit / 2**10:g} KiB"
    return Refusal(413, "body_too_large", f"the body is larger than the {allowed} that are allowed; send less")


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
