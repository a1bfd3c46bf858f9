"""What the simulated models say: pure functions from a request to an answer, the same answer for the same request.

Answers repeat the question and any context that was retrieved for it, so that whoever put the context there can see
that it arrived. Embeddings are hashed words: texts that share words are near each other.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

_TOKEN = re.compile(r"\s?\w{1,5}|\s?[^\w\s]|\s")
_CONTEXT = re.compile(r"<(context|source|document|documents)\b[^>]*>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
_FILLER = (
    "first then the answer follows from what was said before because each step builds on another and so we look "
    "at every part in turn to see which one matters most while keeping an eye on time cost and quality as a whole"
)
_WORDS = _FILLER.split()
_ECHO_WORDS = 60
_ECHO_CONTEXT_WORDS = 400

Message = Mapping[str, Any]


def tokens(text: str) -> list[str]:
    """Pieces of about four characters; joined they give the text again."""
    return _TOKEN.findall(text)


def token_ids(text: str) -> list[int]:
    """Stable numbers for the tokens, as in the `context` field."""
    return [zlib.crc32(token.encode()) % 128_000 for token in tokens(text)]


def render(messages: Sequence[Message]) -> str:
    """The prompt that the model gets, from the messages of a chat."""
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)


def answer(model: str, messages: Sequence[Message], images: int = 0) -> str:
    """A deterministic answer to the last message."""
    last = str(messages[-1]["content"])
    context = [part for message in messages for _, part in _CONTEXT.findall(str(message["content"]))]
    question = _shorten(_CONTEXT.sub(" ", last), _ECHO_WORDS)
    paragraphs = []
    if messages[-1].get("role") == "tool":
        paragraphs.append(f"The tool says: {_shorten(last, _ECHO_CONTEXT_WORDS)}.")
    else:
        paragraphs.append(f'You asked {model}: "{question}".')
    if images:
        paragraphs.append(f"I was shown {images} image{'s' if images > 1 else ''}.")
    if context:
        paragraphs.append(f"According to the context: {_shorten(' '.join(context), _ECHO_CONTEXT_WORDS)}")
    seed = hashlib.sha256(f"{model}\0{last}".encode()).digest()
    words = [_WORDS[seed[i % 32] * (i // 32 + 1) % len(_WORDS)] for i in range(120 + seed[0])]
    sentences = [" ".join(words[i : i + 12]).capitalize() + "." for i in range(0, len(words), 12)]
    return "\n\n".join([*paragraphs, " ".join(sentences)])


def _shorten(text: str, words: int) -> str:
    parts = re.sub(r"<[^>]*>", " ", text).split()
    return " ".join(parts[:words]) + (" …" if len(parts) > words else "")


def structured(schema: Mapping[str, Any] | str, text: str) -> str:
    """An instance of a JSON schema (or of any object, for "json") that carries `text` in its first string."""
    if isinstance(schema, str):
        return json.dumps({"answer": text}, ensure_ascii=False)
    return json.dumps(_instance(schema, schema, text, 0), ensure_ascii=False)


def _instance(schema: Any, root: Mapping[str, Any], text: str, depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth > 12:
        return None
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        target: Any = root
        for part in reference[2:].split("/"):
            target = target.get(part, {}) if isinstance(target, Mapping) else {}
        return _instance(target, root, text, depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return _instance(schema[key][0], root, text, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: _instance(part, root, text, depth + 1) for name, part in properties.items()}
    if kind == "array":
        items = schema.get("items", {})
        return [_instance(items, root, text, depth + 1) for _ in range(max(int(schema.get("minItems", 1)), 1))]
    if kind == "integer":
        return math.ceil(schema.get("minimum", 1))
    if kind == "number":
        return float(schema.get("minimum", 1))
    return {"boolean": True, "null": None}.get(kind, text[: schema.get("maxLength", 200)])


def tool_call(tools: Sequence[Mapping[str, Any]], messages: Sequence[Message]) -> tuple[str, dict[str, Any]] | None:
    """Name and arguments of the tool whose name the last user message says; None where it says none."""
    last = messages[-1]
    if last.get("role") != "user":
        return None
    said = str(last["content"]).lower()
    for tool in tools:
        function = tool.get("function") or {}
        name = str(function.get("name", ""))
        if name and name.lower() in said:
            arguments = _instance(function.get("parameters") or {"type": "object"}, {}, str(last["content"]), 0)
            return name, arguments if isinstance(arguments, dict) else {}
    return None


def embedding(text: str, length: int) -> list[float]:
    """A unit vector of single-precision numbers in which each word has its own few directions."""
    vector = [0.0] * length
    for word in re.findall(r"\w+", text.lower()) or [""]:
        digest = hashlib.sha256(word.encode()).digest()
        for place, sign in zip(struct.unpack("<8H", digest[:16]), digest[16:24], strict=True):
            vector[place % length] += 1.0 if sign & 1 else -1.0
    return normalize(vector)


def normalize(vector: Sequence[float]) -> list[float]:
    norm = max(math.sqrt(sum(value * value for value in vector)), 1e-12)
    return [float(f"{value / norm:.7g}") for value in vector]
