"""Refusals in the words of the API that was asked.

Shapes after Ollama 0.24.0: `{"error": …}` of server/routes.go, NewError in openai/openai.go and anthropic/anthropic.go.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

_TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
_TYPES |= {415: "invalid_request_error", 429: "rate_limit_error"}
_OPENAI_TYPES = _TYPES | {413: "invalid_request_error"}
_ANTHROPIC_TYPES = _TYPES | {413: "request_too_large", 503: "overloaded_error"}

_PLACES = re.compile(
    r"""[a-z][a-z0-9+.-]*://[^\s"']+           # a URL
    | \b\d{1,3}(\.\d{1,3}){3}(:\d+)?\b      # an address
    | \[[0-9a-f:]*:[0-9a-f:]*\](:\d+)?
    | \blocalhost(:\d+)?\b
    | (?<![\w.])/[\w.+-]+(/[\w.+-]+)+        # a path of a file
    """,
    re.IGNORECASE | re.VERBOSE,
)
MAX_WORDS = 500
MAX_SHOWN = 80

REASONS = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Payload Too Large",
    415: "Unsupported Media Type",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


@dataclass(eq=False)
class Refusal(Exception):  # noqa: N818 -- an answer rather than a mistake of ours
    """Why a request gets no instance: a sentence with its remedy, and a word for programs."""

    status: int
    code: str
    message: str
    retry_after_s: int | None = None


def response(path: str, refusal: Refusal) -> bytes:
    """The whole HTTP response; the connection ends with it."""
    body = (json.dumps(error(path, refusal), ensure_ascii=False, separators=(",", ":")) + "\n").encode()
    retry = "" if refusal.retry_after_s is None else f"Retry-After: {refusal.retry_after_s}\r\n"
    head = (
        f"HTTP/1.1 {refusal.status} {REASONS[refusal.status]}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n{retry}Connection: close\r\n\r\n"
    )
    return head.encode("ascii") + body


def shown(text: str) -> str:
    """What a client has sent, as an error may repeat it."""
    cut = text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"
    return "".join(character if character.isprintable() else "?" for character in cut)


def instance_error(status: int, body: bytes, model: str) -> Refusal:
    """What an instance says of a failure of its own, without its addresses and paths."""
    words = _words(body)
    said = _PLACES.sub("…", words)[:MAX_WORDS] if words else "it says nothing more"
    status = status if status in REASONS else 500
    return Refusal(status, "instance_error", f"{model} failed: {said}", 10 if status == 503 else None)


def _words(body: bytes) -> str:
    """The message in an error of any dialect; nothing where there is none."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    error = value.get("error") if isinstance(value, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) else ""


def error(path: str, refusal: Refusal) -> dict[str, object]:
    if path.startswith("/v1/messages"):
        kind = _ANTHROPIC_TYPES.get(refusal.status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": refusal.message}}
    if path.startswith("/v1/"):
        kind = _OPENAI_TYPES.get(refusal.status, "api_error")
        return {"error": {"message": refusal.message, "type": kind, "param": None, "code": refusal.code}}
    return {"error": refusal.message}
