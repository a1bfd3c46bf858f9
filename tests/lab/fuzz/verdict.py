"""Whether a request got what it must not get."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Protocol

from fuzz import bodies

ALLOWED = {bodies.ALLOWED, bodies.OTHER_ALLOWED, bodies.EMBEDDING, f"{bodies.EMBEDDING}:latest"}
INFERENCE = re.compile(
    r"/(api/(generate|chat|embed|embeddings|show)|v1/(chat/completions|completions|embeddings|responses|messages))"
)
OPEN = "/api/show"
"""For everyone, of every model: `anonymous` of the lab's site."""
FROM_INSTANCE = re.compile(r'option ".*" must be of|invalid format: |unable to (load|process)|input length exceeds')
"""Errors with which Ollama itself answers 500: api/types.go FromMap, llm/server.go, server/routes.go."""
HIDDEN = (b"10.87.0.", b"server-a", b"server-b", b"127.0.0.1", b".sock", b"Traceback", b"<html")


class Asked(Protocol):
    @property
    def path(self) -> str: ...

    @property
    def sound(self) -> bool:
        """Its HTTP is right: it gets exactly one response, and an error of ours is JSON."""

    @property
    def authorized(self) -> bool: ...


class Answered(Protocol):
    @property
    def status(self) -> int: ...

    @property
    def body(self) -> bytes: ...


def judge(attempt: Asked, responses: Sequence[Answered]) -> None:
    """AssertionError where a request got what it must not get."""
    if attempt.sound:
        assert len(responses) == 1, f"{len(responses)} responses"
    for response in responses:
        own = response.status == 501 and not attempt.sound  # RFC 9112, 6.1: a transfer coding that is not understood
        from_instance = response.status == 500 and FROM_INSTANCE.search(message_of(attempt.path, response))
        assert response.status < 500 or own or from_instance, f"{response.status}: {response.body[:300]!r}"
        if attempt.sound and response.status >= 400:
            explained(attempt.path, response)
        if response.status == 200 and INFERENCE.match(attempt.path):
            assert attempt.authorized or attempt.path == OPEN, "without a key"
            assert attempt.path == OPEN or models_in(response.body) <= ALLOWED, response.body[:300]
    answered = [response for response in responses if response.status == 200]
    assert len(answered) <= 1, "an answer that nobody asked for"


def explained(path: str, response: Answered) -> None:
    """An exception where an error is no JSON of the path's dialect, or shows what is behind."""
    assert message_of(path, response)
    assert not [word for word in HIDDEN if word in response.body], response.body[:300]


def message_of(path: str, response: Answered) -> str:
    """The sentence of an error, in the dialect of the path."""
    error = json.loads(response.body)["error"]
    if path.startswith("/v1/"):
        assert error["type"]
        error = error["message"]
    assert isinstance(error, str)
    return error


def models_in(body: bytes) -> set[str]:
    """Which models an answer says that it is from."""
    names = set()
    for line in body.split(b"\n"):
        text = line.removeprefix(b"data: ")
        if text.startswith(b"{"):
            names.update(re.findall(rb'"model":\s?"([^"]*)"', text[:2000]))
    return {name.decode() for name in names}
