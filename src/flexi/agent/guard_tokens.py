"""Token counts from the end of an answer, where the answer tells them.

Ollama's last object ends with them (`prompt_eval_count`, `eval_count`: api/types.go Metrics), OpenAI's with `usage`
(openai/openai.go; streamed only with `stream_options.include_usage`), Anthropic's and that of /v1/responses with
`input_tokens` and `output_tokens`.
"""

from __future__ import annotations

import re
from collections import deque

TAIL_BYTES = 4096
_PIECES = 8
_PROMPT = re.compile(rb'"(?:prompt_eval_count|prompt_tokens|input_tokens)"\s*:\s*(\d{1,12})')
_ANSWER = re.compile(rb'"(?:eval_count|completion_tokens|output_tokens)"\s*:\s*(\d{1,12})')


class Tail:
    """The last pieces of an answer, at most TAIL_BYTES of each."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque(maxlen=_PIECES)

    def add(self, piece: bytes) -> None:
        self._pieces.append(piece if len(piece) <= TAIL_BYTES else piece[-TAIL_BYTES:])

    def ends_with(self, end: bytes) -> bool:
        """For an `end` of at most as many bytes as pieces are kept."""
        return b"".join(self._pieces).endswith(end)

    def counts(self) -> tuple[int | None, int | None]:
        """Tokens of the prompt and of the answer."""
        end = b"".join(self._pieces)[-TAIL_BYTES:]
        return _last(_PROMPT, end), _last(_ANSWER, end)


def _last(pattern: re.Pattern[bytes], data: bytes) -> int | None:
    found = pattern.findall(data)
    return int(found[-1]) if found else None
