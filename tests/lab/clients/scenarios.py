"""One list of scenarios for all clients: what they are asked to do, and what has to come of it."""

from __future__ import annotations

import base64
import random
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jsonschema

QUESTION = "Why is the sky blue?"
TOKENS = 40
"""What an answer may have; the simulated models say the question again within them."""
FEW_TOKENS = 5
"""A bound on an answer that the models would exceed many times over."""
CANCELLED_AFTER = 3
"""Pieces of a stream, after which the client goes away."""

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TOOL_QUESTION = "Use get_weather for Hagen, please."
TOOL_RESULT = "17 degrees and rain"
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "inhabitants": {"type": "integer", "minimum": 1},
        "rivers": {"type": "array", "items": {"type": "string"}, "minItems": 2},
    },
    "required": ["city", "inhabitants", "rivers"],
    "additionalProperties": False,
}
HIDDEN = ("10.87.0.", "server-a", "server-b", ":11434", "haproxy", "<html")
"""What an error may not show: where and on what an instance runs."""

Saw = Mapping[str, Any]


def task(url: str, models: Mapping[str, str]) -> dict[str, Any]:
    """What every client gets on standard input, besides the `key`. `models`: chat, slow, tools, images, embeddings.

    `slow` writes few tokens a second, one answer at a time.
    """
    return {
        "url": url,
        "models": dict(models),
        "question": QUESTION,
        "tokens": TOKENS,
        "few_tokens": FEW_TOKENS,
        "cancelled_after": CANCELLED_AFTER,
        "tool": TOOL,
        "tool_question": TOOL_QUESTION,
        "tool_result": TOOL_RESULT,
        "schema": SCHEMA,
        "image": base64.b64encode(png(900, 900)).decode(),
    }


def png(width: int, height: int) -> bytes:
    """A colour picture of noise, which no compression makes smaller: 3 bytes a pixel."""
    noise = random.Random(1)
    rows = b"".join(b"\0" + noise.randbytes(3 * width) for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def chat(saw: Saw, task: Saw) -> None:
    assert QUESTION in saw["text"]
    assert saw["model"] == task["models"]["chat"]
    assert saw["answer_tokens"] == TOKENS
    assert saw["prompt_tokens"] > 0


def stream(saw: Saw, task: Saw) -> None:
    assert QUESTION in saw["text"]
    assert saw["pieces"] > TOKENS / 2
    # Written at some 80 tokens a second: what had been collected on the way would come at once.
    assert saw["span_s"] > 0.15


def tools(saw: Saw, task: Saw) -> None:
    (call,) = saw["calls"]
    assert call["name"] == "get_weather"
    jsonschema.validate(call["arguments"], TOOL["function"]["parameters"])
    assert TOOL_RESULT in saw["text"]


def structured(saw: Saw, task: Saw) -> None:
    jsonschema.validate(saw["value"], SCHEMA)


def images(saw: Saw, task: Saw) -> None:
    assert "I was shown 1 image" in saw["text"]


def embeddings(saw: Saw, task: Saw) -> None:
    # nomic-embed-text's vectors have 768 numbers (its model card) and, from /api/embed, unit length.
    assert [len(vector) for vector in saw["vectors"]] == [768, 768]
    for vector in saw["vectors"]:
        assert abs(sum(number * number for number in vector) - 1) < 1e-3
    assert saw["vectors"][0] != saw["vectors"][1]


def listed(saw: Saw, task: Saw) -> None:
    assert sorted(saw["models"]) == sorted(task["served"])


def show(saw: Saw, task: Saw) -> None:
    for seen in saw["shown"]:
        assert seen in ("completion", task["models"]["chat"])
    assert saw["shown"]


def errors(saw: Saw, task: Saw) -> None:
    """Each error has the status that the client's own exception carries, and words of the gateway's."""
    expected = {
        "unknown model": (404, "nosuchmodel"),
        "wrong key": (401, "API key"),
        "closed": (403, "administrators"),
        "no model": (400, "model"),
    }
    assert set(saw) >= {"unknown model", "wrong key"}
    for case, error in saw.items():
        status, words = expected[case]
        assert error["status"] == status, (case, error)
        assert words in error["message"], (case, error)
        assert not [word for word in HIDDEN if word in error["message"].lower()], (case, error)


def cancel(saw: Saw, task: Saw) -> None:
    assert saw["pieces"] == CANCELLED_AFTER
    # The answer would have gone on for half a minute, and this model answers one at a time.
    assert saw["next_s"] < 5


def responses(saw: Saw, task: Saw) -> None:
    assert QUESTION in saw["text"]
    assert saw["answer_tokens"] == TOKENS
    assert QUESTION in saw["streamed"]["text"]
    assert saw["streamed"]["pieces"] > TOKENS / 2
    (call,) = saw["calls"]
    assert call["name"] == "get_weather"


def messages(saw: Saw, task: Saw) -> None:
    assert QUESTION in saw["text"]
    assert saw["answer_tokens"] == TOKENS
    assert QUESTION in saw["streamed"]["text"]
    assert saw["streamed"]["pieces"] > TOKENS / 2


def bounded(saw: Saw, task: Saw) -> None:
    assert saw["sent"] == {"max_completion_tokens": FEW_TOKENS}, "another version sends another name: is it known?"
    for way in ("whole", "streamed"):
        assert saw[way] == {"answer_tokens": FEW_TOKENS, "reason": "length"}, way


JUDGES: dict[str, Callable[[Saw, Saw], None]] = {
    "chat": chat,
    "stream": stream,
    "tools": tools,
    "structured output": structured,
    "images": images,
    "embeddings": embeddings,
    "list": listed,
    "show": show,
    "errors": errors,
    "cancel": cancel,
    "responses": responses,
    "messages": messages,
    "bounded": bounded,
}
