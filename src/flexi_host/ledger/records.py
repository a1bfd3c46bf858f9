"""What the gateway tells the ledger of a request: one datagram of JSON from the guard, one from HAProxy's log.

A client chooses its path, its method and what it calls a model. Such words could be anything, a prompt too, so only
those that the gateway knows are taken; the rest is `other`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

ENDS = ("done", "client", "instance", "refused", "gateway")
"""How a request ended: answered; the client went away; the instance failed; refused for a reason that the client was
told; the gateway itself failed."""

GUARD = "guard"
"""HAProxy's back end whose requests the guard tells of, too."""

OTHER = "other"
PATHS = {
    "/",
    "/api/tags",
    "/api/ps",
    "/api/version",
    "/api/show",
    "/api/generate",
    "/api/chat",
    "/api/embed",
    "/api/embeddings",
    "/v1/models",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
}
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_ONE_MODEL = "/v1/models/"
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,79}")
"""Consumers, classes and `host/group`: names of the site file and of its keys."""
_ADDRESS = re.compile(r"[0-9a-f.:]{2,45}")
_ID = re.compile(r"[A-Za-z0-9._:-]{1,80}")
_MOST = 2**53


class NotARecordError(Exception):
    """The datagram is none of the gateway's records; the message says why, and repeats nothing of it."""


@dataclass(frozen=True)
class Request:
    """One request, as far as it is known. Times are milliseconds, `at` is its end in Unix seconds, sizes are bytes."""

    id: str
    at: float
    consumer: str | None
    class_: str | None
    model: str | None
    path: str
    status: int | None
    """HTTP status; None where the client was gone before one was sent."""
    end: str
    total_ms: int
    bytes_in: int
    bytes_out: int
    method: str | None = None
    address: str | None = None
    """Shortened by HAProxy: the last 8 bits of IPv4 and the last 80 of IPv6 are zero."""
    stream: bool | None = None
    queue_ms: int | None = None
    first_byte_ms: int | None = None
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    server: str | None = None
    retries: int = 0

    def as_json(self) -> dict[str, object]:
        """As the access log has it, in this order; what is not known is null."""
        words = {"id": self.id, "address": self.address, "consumer": self.consumer, "class": self.class_}
        asked = {"model": self.model, "method": self.method, "path": self.path, "stream": self.stream}
        result = {"status": self.status, "end": self.end, "server": self.server, "retries": self.retries}
        times = {"queue_ms": self.queue_ms, "first_byte_ms": self.first_byte_ms, "total_ms": self.total_ms}
        sizes = {"bytes_in": self.bytes_in, "bytes_out": self.bytes_out}
        tokens = {"prompt_tokens": self.prompt_tokens, "answer_tokens": self.answer_tokens}
        return {"at": round(self.at, 3), **words, **asked, **result, **times, **sizes, **tokens}


@dataclass(frozen=True)
class Record:
    """One datagram. `guarded` is true of an edge's record whose request the guard had, and of every answer."""

    kind: str
    guarded: bool
    request: Request

    def dump(self) -> str:
        """As text that `load` reads: nothing but what was taken of the datagram."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Record:
        value = json.loads(text)
        return cls(value["kind"], value["guarded"], Request(**value["request"]))


class Reader:
    """Reads datagrams; `models` are the canonical names of the site's models."""

    def __init__(self, models: Iterable[str]) -> None:
        self._models = {model.lower(): model for model in models}

    def read(self, datagram: bytes) -> Record:
        """NotARecordError for what is not one of the gateway's records."""
        try:
            value = json.loads(datagram)
        except (ValueError, RecursionError):
            raise NotARecordError("not JSON") from None
        if not isinstance(value, dict):
            raise NotARecordError("not an object")
        kind = value.get("kind")
        if kind == "answer":
            return Record(kind, True, self._answer(value))
        if kind == "edge":
            return Record(kind, value.get("backend") == GUARD, self._edge(value))
        raise NotARecordError("of no known kind")

    def _answer(self, value: Mapping[str, object]) -> Request:
        end = value.get("end")
        stream = value.get("stream")
        return Request(
            id=_id(value),
            at=_time(value),
            consumer=_word(value.get("consumer")),
            class_=_word(value.get("class")),
            model=self._model(value.get("model")),
            path=known_path(value.get("path")),
            status=_status(value.get("status")),
            end=end if isinstance(end, str) and end in ENDS else "gateway",
            total_ms=_count(value.get("total_ms")) or 0,
            bytes_in=_count(value.get("bytes_in")) or 0,
            bytes_out=_count(value.get("bytes_out")) or 0,
            method="POST",
            stream=stream if isinstance(stream, bool) else None,
            queue_ms=_count(value.get("queue_ms")),
            first_byte_ms=_count(value.get("first_byte_ms")),
            prompt_tokens=_count(value.get("prompt_tokens")),
            answer_tokens=_count(value.get("answer_tokens")),
            server=_word(value.get("server")),
            retries=_count(value.get("retries")) or 0,
        )

    def _edge(self, value: Mapping[str, object]) -> Request:
        method, address = value.get("method"), value.get("from")
        status = _status(value.get("status"))
        return Request(
            id=_id(value),
            at=_time(value),
            consumer=_word(value.get("consumer")),
            class_=_word(value.get("class")),
            model=self._model(value.get("model")),
            path=known_path(value.get("path")),
            status=status,
            end=_edge_end(status, value.get("ts")),
            total_ms=_count(value.get("total_ms")) or 0,
            bytes_in=_count(value.get("bytes_in")) or 0,
            bytes_out=_count(value.get("bytes_out")) or 0,
            method=method if isinstance(method, str) and method in METHODS else None,
            address=address if isinstance(address, str) and _ADDRESS.fullmatch(address) else None,
            server=_word(value.get("server")),
        )

    def _model(self, value: object) -> str | None:
        if not isinstance(value, str) or value in ("", "-"):
            return None
        return self._models.get(value.lower(), OTHER)


def known_path(value: object) -> str:
    """A path of the API; of the one that names a model, without it."""
    if not isinstance(value, str):
        return OTHER
    if value.startswith(_ONE_MODEL):
        return f"{_ONE_MODEL}*"
    return value if value in PATHS else OTHER


def _edge_end(status: int | None, termination: object) -> str:
    """From HAProxy's status and its termination state, whose first letter C is a client that left (8.5 of its
    configuration manual)."""
    if status is None or (isinstance(termination, str) and termination.startswith("C")):
        return "client"
    return "done" if status < 400 else "refused" if status < 500 else "gateway"


def _id(value: Mapping[str, object]) -> str:
    found = value.get("id")
    if not isinstance(found, str) or not _ID.fullmatch(found):
        raise NotARecordError("without an id")
    return found


def _time(value: Mapping[str, object]) -> float:
    found = value.get("at")
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 < found < 1e11:
        raise NotARecordError("without a time")
    return float(found)


def _word(value: object) -> str | None:
    return value if isinstance(value, str) and value != "-" and _WORD.fullmatch(value) else None


def _status(value: object) -> int | None:
    return value if isinstance(value, int) and 100 <= value <= 599 else None


def _count(value: object) -> int | None:
    """A figure; HAProxy says -1 where a phase was not reached."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _MOST:
        return None
    return int(value)
