"""A server in the place of an Ollama instance: answers at once, or at a set pace, in Ollama's words.

    python -m flexi.bench.gateway.instance FILE

FILE is JSON: `[{"port", "lists": {"/api/ps": {…}, …}}, …]`. `lists` is what the real instance at that place
said, so that flexi-agent and the gateway's checks see no difference. One process serves all of them: it costs little
beside the proxies. Formats after Ollama 0.24.0: api/types.go (ChatResponse), openai/openai.go (ChatCompletionChunk).
"""

from __future__ import annotations

import asyncio
import functools
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .wire import Messages, allow_many_files, asked, now_us, token

BACKLOG = 4096
_MOMENT = "2026-11-23T12:00:00Z"
CHAT, OPENAI = "/api/chat", "/v1/chat/completions"


def chunk(path: str, model: str, content: str, ending: bool = False) -> bytes:
    """One line of a stream, or its last one."""
    if path == OPENAI:
        choice: dict[str, object] = {"index": 0, "delta": {"role": "assistant", "content": content}}
        choice["finish_reason"] = "stop" if ending else None
        about = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1763899200, "model": model}
        body = {**about, "system_fingerprint": "fp_ollama", "choices": [choice]}
        return b"data: " + _packed(body) + b"\n\n" + (b"data: [DONE]\n\n" if ending else b"")
    line = {"model": model, "created_at": _MOMENT, "message": {"role": "assistant", "content": content}}
    return _packed({**line, **(_counts() if ending else {"done": False})}) + b"\n"


def whole(path: str, model: str, content: str) -> bytes:
    """The answer of a request that does not stream."""
    if path == OPENAI:
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        about = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1763899200, "model": model}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return _packed({**about, "system_fingerprint": "fp_ollama", "choices": [choice], "usage": usage})
    line = {"model": model, "created_at": _MOMENT, "message": {"role": "assistant", "content": content}}
    return _packed({**line, **_counts()})


def _counts() -> dict[str, object]:
    durations = dict.fromkeys(("total_duration", "load_duration", "prompt_eval_duration", "eval_duration"), 1000000)
    return {"done": True, "done_reason": "stop", "prompt_eval_count": 1, "eval_count": 1, **durations}


def _packed(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


class Instance(asyncio.Protocol):
    """One connection of an instance whose lists are `lists`."""

    def __init__(self, lists: Mapping[str, object]) -> None:
        self._lists = lists
        self._messages = Messages(self._on_head, self._on_body, self._on_end)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._start, self._headers, self._body = "", {"": ""}, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._messages.feed(data)

    def _on_head(self, start: str, headers: dict[str, str]) -> None:
        self._start, self._headers, self._body = start, headers, b""

    def _on_body(self, data: bytes) -> None:
        self._body += data

    def _on_end(self) -> None:
        method, target, _ = self._start.split(" ")
        path = target.partition("?")[0]
        if method == "POST" and path in (CHAT, OPENAI):
            self._chat(path, json.loads(self._body))
        elif path in self._lists:
            self._send(200, _packed(self._lists[path]))
        elif path in ("/api/generate", "/api/embed"):
            # flexi-agent making sure that a model stays loaded.
            self._send(200, _packed({"model": "", "created_at": _MOMENT, "response": "", **_counts()}))
        else:
            self._send(404, b"404 page not found")

    def _chat(self, path: str, body: Mapping[str, Any]) -> None:
        model = str(body["model"])
        count, pace = asked(_text(body["messages"][-1]["content"]))
        if not body.get("stream", path == CHAT):
            self._send(200, whole(path, model, token()))
            return
        kind = "text/event-stream" if path == OPENAI else "application/x-ndjson"
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
        due, sent = asyncio.get_running_loop().time(), 0

        def tick() -> None:
            nonlocal due, sent, head
            if self._transport is None:
                return
            data = head.encode()
            head = ""
            while True:
                sent += 1
                data += _framed(chunk(path, model, token()))
                if sent == count:
                    self._transport.write(data + _framed(chunk(path, model, "", ending=True)) + b"0\r\n\r\n")
                    self._done()
                    return
                if pace:
                    break
            self._transport.write(data)
            due += 1 / pace
            self._timer = asyncio.get_running_loop().call_at(due, tick)

        tick()

    def _send(self, status: int, body: bytes) -> None:
        assert self._transport is not None
        head = f"HTTP/1.1 {status} OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)
        self._done()

    def _done(self) -> None:
        if self._transport is not None and self._headers.get("connection", "").lower() == "close":
            self._transport.close()


def _text(content: object) -> str:
    """The words of a message, which may come in parts (OpenAI)."""
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content)
    return str(content)


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def serve(places: list[Mapping[str, Any]]) -> None:
    """Listen on every address at the ports of all places, say so on standard output, and serve until the end."""
    loop = asyncio.get_running_loop()
    for place in places:
        await loop.create_server(
            functools.partial(Instance, place["lists"]),
            None,
            place["port"],
            backlog=BACKLOG,
            reuse_address=True,
        )
    print(f"ready at {now_us()}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    allow_many_files()
    asyncio.run(serve(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
