"""Structured answers from a model behind the gateway: Ollama's `/api/chat` with a JSON schema as `format`."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from flexi.errors import FlexiError, InputError

PAUSE_S = 600.0
"""How long an answer may pause, as the gateway's own `timeout`; before its first token it may have to wait."""
LONGEST_ANSWER_TOKENS = 1024
_TRIES = 4
_LONGEST_WAIT_S = 60.0
_LATER = (429, 502, 503, 504)
"""Statuses that another moment may change: limits of the class, a full queue, an instance that restarts."""


class GatewayError(FlexiError):
    """The gateway gives no answer, and asking again would not help."""


class BrokenAnswerError(ValueError):
    """The model's answer is no JSON, or has no end."""


@dataclass(frozen=True)
class Chat:
    """One model at one gateway. `key` may be None where the gateway opens models to everyone."""

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise InputError("the gateway's address is no plain URL; write e.g. --url https://flexi.example.edu")

    def ask(
        self, messages: Sequence[Mapping[str, str]], schema: Mapping[str, Any], temperature: float, seed: int
    ) -> Any:
        """The model's answer as JSON. BrokenAnswerError where it is none; GatewayError where nobody answers."""
        body = {
            "model": self.model,
            "messages": messages,
            "format": schema,
            "stream": True,
            "think": False,
            "options": {"temperature": temperature, "seed": seed, "num_predict": LONGEST_ANSWER_TOKENS},
        }
        for attempt in range(1, _TRIES + 1):
            try:
                text = self._stream(body)
                break
            except _LaterError as later:
                if attempt == _TRIES:
                    raise GatewayError(f"{self._where}: {later}") from None
                self.sleep(min(later.after_s or 2.0**attempt, _LONGEST_WAIT_S))
        try:
            return json.loads(text)
        except ValueError:
            raise BrokenAnswerError("the answer is no JSON") from None

    def _stream(self, body: Mapping[str, Any]) -> str:
        headers = {"Content-Type": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        url = f"{self.url.rstrip('/')}/api/chat"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=PAUSE_S) as answer:
                return _content(answer)
        except urllib.error.HTTPError as refused:
            with refused:
                said = _error_of(refused.read(64 * 1024)) or refused.reason
            if refused.code in _LATER:
                raise _LaterError(str(said), _seconds(refused.headers.get("Retry-After"))) from None
            raise GatewayError(f"{self._where}: {said} (status {refused.code})") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(reason, socket.gaierror | ssl.SSLCertVerificationError):
                raise GatewayError(f"{self.url}: {reason}") from None
            raise _LaterError(f"no answer ({reason})") from None

    @property
    def _where(self) -> str:
        return f"{self.model} at {self.url}"


class _LaterError(Exception):
    """Not now; `after_s` is when the gateway says that it may be asked again."""

    def __init__(self, message: str, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


def _content(answer: http.client.HTTPResponse) -> str:
    parts: list[str] = []
    for line in answer:
        try:
            piece = json.loads(line)
        except ValueError:
            raise GatewayError("what answers there is no Ollama API: check the address") from None
        if not isinstance(piece, dict):
            raise GatewayError("what answers there is no Ollama API: check the address")
        if "error" in piece:
            raise _LaterError(str(piece["error"]))
        parts.append(str((piece.get("message") or {}).get("content") or ""))
        if piece.get("done"):
            if piece.get("done_reason") == "length":
                raise BrokenAnswerError("the answer has no end")
            return "".join(parts)
    raise _LaterError("the answer broke off")


def _error_of(body: bytes) -> str | None:
    try:
        error = json.loads(body)["error"]
    except (ValueError, LookupError, TypeError):
        return None
    return error if isinstance(error, str) else None


def _seconds(header: str | None) -> float | None:
    return float(header) if header is not None and header.isdigit() else None
