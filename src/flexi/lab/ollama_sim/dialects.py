"""How each API writes its streams and its errors.

Sources: server/routes.go (streamResponse), middleware/openai.go, middleware/anthropic.go, anthropic/anthropic.go
(NewError).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from .api import Json
from .goformat import go_json

_EVENTS = "text/event-stream"
_JSON = "application/json"
_OPENAI_ERRORS = {400: "invalid_request_error", 404: "not_found_error"}
_ANTHROPIC_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


@dataclass(frozen=True)
class Dialect:
    stream_type: str
    error_type: str
    frame: Callable[[Json], bytes]
    """One object of a stream as it is written; nothing for what this API leaves out."""
    error: Callable[[int, str], Json]
    """The body of an error, from its HTTP status and its text."""
    end: bytes = b""


def openai_error(status: int, message: str) -> Json:
    kind = _OPENAI_ERRORS.get(status, "api_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def _anthropic_error(status: int, message: str) -> Json:
    error = {"type": _ANTHROPIC_ERRORS.get(status, "api_error"), "message": message}
    return {"type": "error", "error": error, "request_id": f"req_{secrets.token_hex(12)}"}


def _named_event(item: Json) -> bytes:
    # An error after the first token is read as an empty chunk of the answer, and nothing is written.
    return f"event: {item['type']}\ndata: {go_json(item)}\n\n".encode() if "type" in item else b""


OLLAMA = Dialect(
    "application/x-ndjson",
    "application/json; charset=utf-8",
    lambda item: f"{go_json(item)}\n".encode(),
    lambda status, message: {"error": message},
)
OPENAI = Dialect(_EVENTS, _JSON, lambda item: f"data: {go_json(item)}\n\n".encode(), openai_error, b"data: [DONE]\n\n")
RESPONSES = Dialect(_EVENTS, _JSON, _named_event, openai_error)
ANTHROPIC = Dialect(_EVENTS, _JSON, _named_event, _anthropic_error)
