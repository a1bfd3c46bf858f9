"""Bodies that two readers may read in two ways, or that no reader should read at all.

Each begins as a request that a client would send, and then things happen to it.
"""

from __future__ import annotations

import json
from typing import Any

from fuzz.wire import Attempt
from hypothesis import strategies as st

ALLOWED = "phi3:3.8b"
OTHER_ALLOWED = "llama3:8b"
"""On another host: two get more done than one."""
EMBEDDING = "nomic-embed-text"
FORBIDDEN = ("gemma:7b", "mistral:7b", "mixtral:8x22b", "llava:13b", "dbrx:132b")
"""They lie in the very stores that the allowed ones are served from: an instance would gladly answer."""

Members = list[tuple[str, str]]
"""Keys and values, both as they stand in the JSON."""

_QUESTION = [{"role": "user", "content": "Hi"}]
# Quick at the instance: asked for nothing, or for one token.
_ONE = {"num_predict": 1}
_REQUESTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/api/generate", {"model": ALLOWED, "prompt": ""}),
    ("/api/generate", {"model": ALLOWED, "prompt": "Hi", "stream": False, "options": _ONE}),
    ("/api/chat", {"model": ALLOWED, "messages": []}),
    ("/api/chat", {"messages": _QUESTION, "options": _ONE, "model": ALLOWED}),
    ("/api/embed", {"model": EMBEDDING, "input": "Hi"}),
    ("/api/embeddings", {"model": EMBEDDING, "prompt": "Hi"}),
    ("/api/show", {"model": ALLOWED}),
    ("/v1/chat/completions", {"messages": _QUESTION, "model": ALLOWED, "max_tokens": 1}),
    ("/v1/completions", {"model": ALLOWED, "prompt": "Hi", "max_tokens": 1, "stream": True}),
    ("/v1/embeddings", {"input": "Hi", "model": EMBEDDING}),
    ("/v1/responses", {"model": ALLOWED, "input": "Hi", "max_output_tokens": 1}),
    ("/v1/messages", {"messages": _QUESTION, "max_tokens": 1, "model": ALLOWED}),
)
_LIMITS = ("options", "max_tokens", "max_output_tokens")
"""Kept as they are: without them each answer takes three seconds of the model's time."""
_MODELS = st.sampled_from(
    [
        *map(json.dumps, FORBIDDEN),
        *map(
            json.dumps, (ALLOWED, ALLOWED.upper(), "nosuchmodel", "", " ", f"{ALLOWED} ", f"{ALLOWED}\0", "../../etc")
        ),
        *map(json.dumps, ("registry.ollama.ai/library/gemma:7b", "library/gemma:7b", "gemma:7B", "ﬁ", "http://x/y:z")),
        r'"gemma\u003a7b"',
        r'"\ud800"',
        r'"\u0000"',
        "null",
        "7",
        "true",
        "[]",
        '["gemma:7b"]',
        '{"name": "gemma:7b"}',
        '"' + "a" * 5000 + '"',
    ]
)
_SETTINGS = st.sampled_from(
    [
        ("keep_alive", "0"),
        ("keep_alive", '"0s"'),
        ("keep_alive", "1e-12"),
        ("keep_alive", '"-1"'),
        ("keep_alive", "{}"),
        ("options", '{"num_ctx": 512}'),
        ("options", '{"num_ctx": 999999999}'),
        ("options", '{"num_gpu": 0, "main_gpu": 1}'),
        ("options", '{"NUM_CTX": 512, "num_ctx": 1024}'),
        ("options", '{"num_predict": 1}, "options": {"num_batch": 7}'),
        ("options", "[]"),
        ("options", '{"num_predict": -1}'),
        ("options", '{"NUM_PREDICT": 1e300}'),
        ("max_tokens", "-1"),
        ("max_completion_tokens", "null"),
        ("max_output_tokens", '"5"'),
        ("options", "null"),
        ("shift", "false"),
        ("name", '"gemma:7b"'),
        ("from", '"gemma:7b"'),
        ("template", '"{{ .Prompt }}"'),
        ("raw", "true"),
        ("stream", '"yes"'),
        ("stream", "null"),
        ("think", "false"),
    ]
)
_ODD_VALUES = st.sampled_from(
    [
        *("NaN", "Infinity", "-Infinity", "-0", "1e999", "01", "+1", ".5", "0x10", "undefined", "'x'", "/**/1"),
        *("9" * 5000, "null", "true", "{}", "[]", '""', r'"\ud83d"', r'"\x"', '"\n"', '"unfinished', "[1,]", "{,}"),
    ]
)
# Letters that Go, or others, take for plain ones; keys that JSON's escapes hide.
_DISGUISES = (
    ("s", "\u017f"),
    ("k", "\u212a"),
    ("o", "\\u006f"),
    ("m", "M"),
    ("e", "E"),
    ("l", "\uff4c"),
    ("_", "\\u005f"),
)


def _disguised(key: str) -> st.SearchStrategy[str]:
    spelt = [key.replace(old, new) for old, new in _DISGUISES if old in key]
    return st.sampled_from([*spelt, key, key.upper(), key + "\\u0000", key + " ", "\u200b" + key])


@st.composite
def _members(draw: st.DrawFn) -> tuple[str, Members]:
    """A path, and a request for it with up to three things wrong."""
    path, request = draw(st.sampled_from(_REQUESTS))
    if request["model"] == ALLOWED and draw(st.booleans()):
        request = {**request, "model": OTHER_ALLOWED}
    members = [(key, json.dumps(value)) for key, value in draw(st.permutations(list(request.items())))]
    for _ in range(draw(st.sampled_from([1, 2, 1, 0, 3]))):
        where = draw(st.integers(0, len(members) - 1)) if members else 0
        match draw(st.sampled_from([0, 1, 2, 3, 7, 5, 4, 1, 7, 3, 6])):
            case 0:
                members.insert(where, (draw(_disguised("model")), draw(_MODELS)))
            case 7:
                members = [(name, draw(_MODELS) if name == "model" else value) for name, value in members]
            case 1:
                key, value = draw(_SETTINGS)
                members.insert(where, (draw(_disguised(key)), value))
            case 2 | 3 | 5 if members and members[where][0] in _LIMITS:
                pass
            case 2 if members:
                members[where] = (members[where][0], draw(_ODD_VALUES))
            case 3 if members:
                members[where] = (draw(_disguised(members[where][0])), members[where][1])
            case 4 if members:
                members.append(members[where])
            case 5 if members:
                del members[where]
            case 6:
                depth = draw(st.sampled_from([20, 100, 999, 5000, 100_000]))
                members.insert(where, ("deep", draw(st.sampled_from(["[", '{"a":'])) * depth))
    return path, members


@st.composite
def _body(draw: st.DrawFn) -> tuple[str, bytes]:
    path, members = draw(_members())
    text = "{" + ", ".join(f'"{key}": {value}' for key, value in members) + "}"
    match draw(st.integers(-25, 5)):
        case 0:
            text += draw(st.sampled_from(["}", "]", "\0", ' {"model": "gemma:7b"}', "\n\n", "garbage", ","]))
        case 1:
            text = draw(st.sampled_from(["\ufeff", " \t\r\n", "[", "\0", "//x\n", ")]}',\n"])) + text
        case 2:
            return path, text.encode(draw(st.sampled_from(["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])), "replace")
        case 3:
            return path, text.encode("utf-8", "replace")[: draw(st.integers(0, len(text)))]
        case 4:
            data = bytearray(text.encode("utf-8", "replace"))
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
            return path, bytes(data)
        case 5:
            return path, draw(st.binary(max_size=60))
    return path, text.encode("utf-8", "replace")


@st.composite
def attempts(draw: st.DrawFn, key: str) -> Attempt:
    """A body in right HTTP: with its length, or in chunks, with all kinds of content types, seldom without the key."""
    path, body = draw(_body())
    kind = draw(st.sampled_from(["application/json", "application/json; charset=utf-16", "text/plain", "", "\xff"]))
    authorized = draw(st.sampled_from([True] * 19 + [False]))
    scheme = f"Bearer {key}" if authorized else draw(st.sampled_from(["Bearer", "Bearer x", "Basic !!!", "Digest x=y"]))
    head = f"POST {path} HTTP/1.1\r\nHost: flexi\r\nAuthorization: {scheme}\r\nConnection: close\r\n"
    head += f"Content-Type: {kind}\r\n" if kind else ""
    if draw(st.booleans()):
        framed = b"Content-Length: %d\r\n\r\n" % len(body) + body
    else:
        size = draw(st.sampled_from([1, 7, 4096])) if len(body) < 1000 else 1 << 14
        pieces = [body[i : i + size] for i in range(0, len(body), size)]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        framed = b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    return Attempt(path, head.encode("latin-1") + framed, authorized=authorized)
