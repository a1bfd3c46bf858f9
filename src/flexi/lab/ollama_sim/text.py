"""What the simulated models say: pure functions from a request to an answer, the same answer for the same request.

Answers repeat the question and what was retrieved for it, so that whoever put it there can see that it arrived: all of
it where it is short, otherwise the sentences that share most words with the question. Embeddings are hashed words:
texts that share words are near each other.
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
# The innermost of equal tags: the instructions speak of `<source>` without closing it (Open WebUI 0.12.4, config.py,
# DEFAULT_RAG_TEMPLATE).
_CONTEXT = re.compile(r"<(context)\b[^>]*>((?:(?!<\1\b).)*?)</\1>", re.DOTALL | re.IGNORECASE)
_SOURCE = re.compile(r"<(source|documents|document)\b([^>]*)>((?:(?!<\1\b).)*?)</\1>", re.DOTALL | re.IGNORECASE)
_MARKS = re.compile(r"<[^>]*>|^#+ ", re.MULTILINE)
_SOURCE_ID = re.compile(r'\bid="(\d+)"')
# Not behind the day of a German date (`am 18. Februar`).
_SENTENCE = re.compile(r"(?<=[^\d\s][.!?])\s+|\n\s*\n|\n(?=[-*#])")
_JSON_WANTED = re.compile(r"JSON format:\s*(?=\{)")
_LAST_TURN = re.compile(r"^USER: (.*?)(?=^ASSISTANT: |</chat_history>|\Z)", re.DOTALL | re.MULTILINE)
_FILLER = (
    "first then the answer follows from what was said before because each step builds on another and so we look "
    "at every part in turn to see which one matters most while keeping an eye on time cost and quality as a whole"
)
_WORDS = _FILLER.split()
_ECHO_WORDS = 60
_ECHO_CONTEXT_WORDS = 150
_ECHO_SENTENCES = 4
_TITLE_WORDS = 4
_TOLD_WORDS = 6

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
    wanted = _wanted_json(last)
    if wanted is not None:
        return wanted
    question = _shorten(_question(last), _ECHO_WORDS)
    context = [part for message in messages for part in _retrieved(str(message["content"]))]
    paragraphs = []
    if messages[-1].get("role") == "tool":
        paragraphs.append(f"The tool says: {_shorten(last, _ECHO_CONTEXT_WORDS)}.")
    else:
        paragraphs.append(f'You asked {model}: "{question}".')
    if images:
        paragraphs.append(f"I was shown {images} image{'s' if images > 1 else ''}.")
    if context:
        paragraphs.append(f"According to the context: {_echo(context, question)}")
    seed = hashlib.sha256(f"{model}\0{last}".encode()).digest()
    words = [_WORDS[seed[i % 32] * (i // 32 + 1) % len(_WORDS)] for i in range(120 + seed[0])]
    sentences = [" ".join(words[i : i + 12]).capitalize() + "." for i in range(0, len(words), 12)]
    return "\n\n".join([*paragraphs, " ".join(sentences)])


def _question(prompt: str) -> str:
    """What a person asked: what stands behind the context, or around it."""
    behind = prompt.rpartition("</context>")[2]
    return behind if behind.strip() else _SOURCE.sub(" ", _CONTEXT.sub(" ", prompt))


def _retrieved(content: str) -> list[tuple[str, str]]:
    """Number (empty where it has none) and text of everything that was put into a prompt for the model to know."""
    sources = [(_number(attributes), text) for _, attributes, text in _SOURCE.findall(content)]
    return sources or [("", text) for _, text in _CONTEXT.findall(content)]


def _number(attributes: str) -> str:
    found = _SOURCE_ID.search(attributes)
    return found[1] if found else ""


def _echo(context: Sequence[tuple[str, str]], question: str) -> str:
    """The context, each sentence with the number of its source, as prompts ask for: `It is on 12 March. [1]`."""
    parts = [(number, " ".join(_MARKS.sub(" ", text).split())) for number, text in context]
    if sum(len(text.split()) for _, text in parts) > _ECHO_CONTEXT_WORDS:
        asked = _words(question)
        pieces = [
            (number, " ".join(piece.split()))
            for number, text in context
            for piece in _SENTENCE.split(_MARKS.sub(" ", text))
        ]
        pieces = list(dict.fromkeys(piece for piece in pieces if piece[1]))
        near = sorted(range(len(pieces)), key=lambda place: -len(asked & _words(pieces[place][1])))
        parts = [pieces[place] for place in sorted(near[:_ECHO_SENTENCES])]
    return " ".join(_shorten(text, _ECHO_CONTEXT_WORDS) + (f" [{number}]" if number else "") for number, text in parts)


def _words(text: str) -> set[str]:
    return {word for word in re.findall(r"\w+", text.lower()) if len(word) > 3}


def _wanted_json(prompt: str) -> str | None:
    """For a prompt that shows an object as the wanted `JSON format:` (Open WebUI's prompts for titles, tags, follow-ups
    and search queries): that object, about the last question of the conversation that the prompt quotes."""
    found = _JSON_WANTED.search(prompt)
    if not found:
        return None
    try:
        shape, _ = json.JSONDecoder().raw_decode(prompt, found.end())
    except (ValueError, RecursionError):
        return None
    said = _LAST_TURN.findall(prompt)
    question = " ".join((said[-1] if said else prompt[-200:]).split())
    return json.dumps({key: _about(question, part) for key, part in shape.items()})


def _about(question: str, shape: Any) -> Any:
    """A list holds the whole question, a string its first words."""
    return [question] if isinstance(shape, list) else " ".join(question.split()[:_TITLE_WORDS])


def _shorten(text: str, words: int) -> str:
    parts = re.sub(r"<[^>]*>", " ", text).split()
    return " ".join(parts[:words]) + (" …" if len(parts) > words else "")


def structured(schema: Mapping[str, Any] | str, text: str) -> str:
    """An instance of a JSON schema (or of any object, for "json") that carries `text` in its first string."""
    if isinstance(schema, str):
        return json.dumps({"answer": text}, ensure_ascii=False)
    return json.dumps(_instance(schema, schema, _Strings(text), 0), ensure_ascii=False)


class _Strings:
    """What stands in the strings of a structured answer: the prompt, or, where it has a context, what a sentence of it
    says. An object then tells that sentence whole, its first half, its second half, and so on; lists hold filler."""

    def __init__(self, text: str) -> None:
        self._text = text
        pieces = [" ".join(piece.split()) for _, part in _retrieved(text) for piece in _SENTENCE.split(part)]
        told = [piece for piece in pieces if len(piece.split()) >= _TOLD_WORDS and not piece.startswith("#")]
        self._context = _words(" ".join(pieces))
        self._seed = zlib.crc32(text.encode())
        self._sentence = told[self._seed % len(told)].split() if told else []
        self._in_objects = self._in_lists = 0

    def next(self, limit: int, in_list: bool) -> str:
        if not self._sentence:
            return self._text[:limit]
        half = len(self._sentence) // 2
        if in_list:
            self._in_lists += 1
            start = (self._seed + self._in_lists * half) % len(_WORDS)
            return " ".join((_WORDS * 2)[start : start + half])[:limit]
        self._in_objects += 1
        parts = (self._sentence[half:], self._sentence, self._sentence[:half])
        return " ".join(parts[self._in_objects % 3])[:limit]

    def likeliest(self, values: Sequence[Any]) -> Any:
        """The first value, or that of which the context says most."""
        shares = [len(words & self._context) / max(len(words), 1) for words in map(_words, map(str, values))]
        return values[shares.index(max(shares))]


def _instance(schema: Any, root: Mapping[str, Any], strings: _Strings, depth: int, in_list: bool = False) -> Any:
    if not isinstance(schema, Mapping) or depth > 12:
        return None
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        target: Any = root
        for part in reference[2:].split("/"):
            target = target.get(part, {}) if isinstance(target, Mapping) else {}
        return _instance(target, root, strings, depth + 1, in_list)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return strings.likeliest(schema["enum"])
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return _instance(schema[key][0], root, strings, depth + 1, in_list)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: _instance(part, root, strings, depth + 1, in_list) for name, part in properties.items()}
    if kind == "array":
        items = schema.get("items", {})
        return [_instance(items, root, strings, depth + 1, True) for _ in range(max(int(schema.get("minItems", 1)), 1))]
    if kind == "integer":
        return math.ceil(schema.get("minimum", 1))
    if kind == "number":
        return float(schema.get("minimum", 1))
    if kind in ("boolean", "null"):
        return True if kind == "boolean" else None
    return strings.next(schema.get("maxLength", 200), in_list)


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
            arguments = _instance(
                function.get("parameters") or {"type": "object"}, {}, _Strings(str(last["content"])), 0
            )
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
