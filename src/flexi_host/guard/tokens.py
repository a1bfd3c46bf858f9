"""Token counts of an answer: from its end, where it tells them, or of a stream that was broken off, by its pieces.

Ollama's last object ends with them (`prompt_eval_count`, `eval_count`: api/types.go Metrics), OpenAI's with `usage`
(openai/openai.go; streamed only with `stream_options.include_usage`), Anthropic's and that of /v1/responses with
`input_tokens` and `output_tokens`. A stream brings each token in an object or event of its own, but for those that are
held back: half a character, the possible beginning of a stop word (runner/ollamarunner/runner.go, v0.24.0), thoughts,
calls of tools. So its pieces are the least that an answer has cost.
"""

from __future__ import annotations

import re
from collections import deque

TAIL_BYTES = 4096
_PIECES = 8
_PROMPT = re.compile(rb'"(?:prompt_eval_count|prompt_tokens|input_tokens)"\s*:\s*(\d{1,12})')
_ANSWER = re.compile(rb'"(?:eval_count|completion_tokens|output_tokens)"\s*:\s*(\d{1,12})')


_OBJECT_END = b"}\n"
"""Ends a line of Ollama's and an event of OpenAI's; within strings JSON has no line feed."""
_TOKEN_MARKS = {
    "/api/chat": _OBJECT_END,
    "/api/generate": _OBJECT_END,
    "/v1/chat/completions": _OBJECT_END,
    "/v1/completions": _OBJECT_END,
    # These have events without tokens, too (openai/responses.go, anthropic/anthropic.go).
    "/v1/responses": b"_text.delta\n",
    "/v1/messages": b"event: content_block_delta\n",
}
"""For each path that streams, the bytes that stand once in each piece with a token."""


class Tail:
    """The last pieces of an answer, at most TAIL_BYTES of each; `path` is the API's where the answer is streamed."""

    def __init__(self, path: str = "") -> None:
        self._pieces: deque[bytes] = deque(maxlen=_PIECES)
        self._mark = _TOKEN_MARKS.get(path, b"")
        self._carried = b""
        """The end of the last piece, where a mark may have begun."""
        self._marks = 0

    def add(self, piece: bytes) -> None:
        self._pieces.append(piece if len(piece) <= TAIL_BYTES else piece[-TAIL_BYTES:])
        if self._mark:
            joined = self._carried + piece
            self._marks += joined.count(self._mark)
            self._carried = joined[1 - len(self._mark) :]

    def ends_with(self, end: bytes) -> bool:
        """For an `end` of at most as many bytes as pieces are kept."""
        return b"".join(self._pieces).endswith(end)

    def counts(self, complete: bool = True) -> tuple[int | None, int | None]:
        """Tokens of the prompt and of the answer; None where they are not known."""
        end = b"".join(self._pieces)[-TAIL_BYTES:]
        prompt, answer = _last(_PROMPT, end), _last(_ANSWER, end)
        # Anthropic's first event says 0 tokens of the answer.
        return prompt, answer if complete else answer or self._marks or None


def _last(pattern: re.Pattern[bytes], data: bytes) -> int | None:
    found = pattern.findall(data)
    return int(found[-1]) if found else None
