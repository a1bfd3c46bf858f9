"""Anthropic's Messages API, /v1/messages: requests turned into chats and their answers back.

Sources: anthropic/anthropic.go, middleware/anthropic.go. Searching the web and thinking are not simulated.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Generator, Iterator
from typing import Any

from .api import Answer, Api, ApiError, Caller, Json, Reply, Stream
from .binding import Struct, anything, boolean, integer, list_of, mapping, number, string, struct_of
from .goformat import go_json
from .openai import JSON_TYPE, bind_body, reply_of

_SOURCE = Struct("anthropic.ImageSource", {"type": string, "media_type": string, "data": string, "url": string})
_BLOCK = Struct(
    "anthropic.ContentBlock",
    {
        "type": string,
        "text": string,
        "source": struct_of(_SOURCE),
        "id": string,
        "name": string,
        "input": mapping,
        "tool_use_id": string,
        "content": anything,
        "is_error": boolean,
    },
)
_BLOCKS = list_of(struct_of(_BLOCK), "anthropic.ContentBlock")


def _content(value: Any, field: str) -> list[Json]:
    """A plain string stands for one block of text."""
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    blocks: list[Json] = _BLOCKS(value, field)
    return blocks


_MESSAGE = Struct("anthropic.MessageParam", {"role": string, "content": _content})
_TOOL = Struct("anthropic.Tool", {"type": string, "name": string, "description": string, "input_schema": anything})
_REQUEST = Struct(
    "anthropic.MessagesRequest",
    {
        "model": string,
        "max_tokens": integer,
        "messages": list_of(struct_of(_MESSAGE), "anthropic.MessageParam"),
        "system": anything,
        "stream": boolean,
        "temperature": number,
        "top_p": number,
        "top_k": integer,
        "stop_sequences": list_of(string, "string"),
        "tools": list_of(struct_of(_TOOL), "anthropic.Tool"),
        "tool_choice": mapping,
        "thinking": mapping,
        "metadata": mapping,
        "output_config": mapping,
    },
)


class Anthropic:
    def __init__(self, api: Api) -> None:
        self._api = api

    def messages(self, caller: Caller, raw: bytes) -> Answer:
        request = bind_body(raw, _REQUEST)
        if not request.get("model"):
            raise ApiError(400, "model is required")
        if request.get("max_tokens", 0) <= 0:
            raise ApiError(400, "max_tokens is required and must be positive")
        if not request.get("messages"):
            raise ApiError(400, "messages is required")
        identifier = f"msg_{secrets.token_hex(12)}"
        native = _native(request)
        answer = self._api.chat_request(caller, native)
        if isinstance(answer, Stream):
            return Stream(_events(identifier, request, answer.items))
        body = reply_of(answer)
        if native["stream"]:
            return Stream(_events(identifier, request, iter([body])))
        return Reply(_whole(identifier, body), JSON_TYPE)


def _whole(identifier: str, body: Json) -> Json:
    """ToMessagesResponse."""
    message = body["message"]
    content: list[Json] = [{"type": "text", "text": message["content"]}] if message["content"] else []
    for call in message.get("tool_calls", ()):
        function = call["function"]
        content.append({"type": "tool_use", "id": call["id"], "name": function["name"], "input": function["arguments"]})
    answer = {
        "id": identifier,
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": content or None,
        "usage": _usage(body),
    }
    reason = _stop_reason(body.get("done_reason", ""), bool(message.get("tool_calls")))
    return {**answer, "stop_reason": reason} if reason else answer


def _events(identifier: str, request: Json, items: Iterator[Json]) -> Generator[Json, None, None]:
    """StreamConverter."""
    index, in_text, called, started = 0, False, False, False

    def start(block: Json) -> Json:
        return {"type": "content_block_start", "index": index, "content_block": block}

    def delta(part: Json) -> Json:
        return {"type": "content_block_delta", "index": index, "delta": part}

    def stop() -> Json:
        return {"type": "content_block_stop", "index": index}

    for item in items:
        if not started:
            started = True
            message = {"id": identifier, "type": "message", "role": "assistant", "model": request["model"]}
            read = item.get("prompt_eval_count") or _estimate(request)
            usage = {"input_tokens": read, "output_tokens": 0}
            yield {"type": "message_start", "message": {**message, "content": [], "usage": usage}}
        if item["message"]["content"]:
            if not in_text:
                in_text = True
                yield start({"type": "text", "text": ""})
            yield delta({"type": "text_delta", "text": item["message"]["content"]})
        for call in item["message"].get("tool_calls", ()):
            called = True
            if in_text:
                yield stop()
                index, in_text = index + 1, False
            yield start({"type": "tool_use", "id": call["id"], "name": call["function"]["name"], "input": {}})
            yield delta({"type": "input_json_delta", "partial_json": go_json(call["function"]["arguments"])})
            yield stop()
            index += 1
        if item["done"]:
            if in_text:
                yield stop()
            reason = _stop_reason(item.get("done_reason", ""), called)
            ended = {"stop_reason": reason} if reason else {}
            yield {"type": "message_delta", "delta": ended, "usage": _usage(item)}
            yield {"type": "message_stop"}


def _usage(body: Json) -> Json:
    return {"input_tokens": body.get("prompt_eval_count", 0), "output_tokens": body.get("eval_count", 0)}


def _stop_reason(reason: str, called: bool) -> str:
    if called:
        return "tool_use"
    return {"stop": "end_turn", "length": "max_tokens", "": ""}.get(reason, "stop_sequence")


def _estimate(request: Json) -> int:
    """EstimateInputTokens: a quarter of the characters, told before the prompt has been read."""
    length = len(_text(request.get("system")))
    for message in request["messages"]:
        length += len(message.get("role", "")) + sum(map(_length, message.get("content", ())))
    for tool in request.get("tools", ()):
        length += len(tool.get("name", "")) + len(tool.get("description", ""))
        length += len(go_json(tool["input_schema"])) if "input_schema" in tool else 0
    return length // 4 or 1


def _length(block: Json) -> int:
    used = block.get("type") in ("tool_use", "tool_result")
    return len(block.get("text", "")) + (len(go_json(block)) if used else 0)


_OPTIONS = (("temperature", "temperature"), ("top_p", "top_p"), ("top_k", "top_k"), ("stop", "stop_sequences"))


def _native(request: Json) -> Json:
    """FromMessagesRequest. What it says on thinking is dropped where a model cannot think, as none here can."""
    messages: list[Json] = []
    system = _text(request.get("system"))
    if system:
        messages.append({"role": "system", "content": system})
    for message in request["messages"]:
        messages += _message(message)
    options: Json = {"num_predict": request["max_tokens"]}
    for ours, theirs in _OPTIONS:
        if theirs in request:
            options[ours] = request[theirs]
    tools = [
        {
            "type": "function",
            "function": {
                "name": tool.get("name", ""),
                "description": tool.get("description", ""),
                "parameters": tool.get("input_schema") or {},
            },
        }
        for tool in request.get("tools", ())
    ]
    stream = request.get("stream", False)
    return {"model": request["model"], "messages": messages, "options": options, "stream": stream, "tools": tools}


def _text(content: Any) -> str:
    """The text in what may be a string or blocks: a system prompt, or the result of a tool."""
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else ()
    return "".join(
        block["text"]
        for block in blocks
        if isinstance(block, dict) and block.get("type") == "text" and isinstance(block.get("text"), str)
    )


def _message(given: Json) -> list[Json]:
    """convertMessage: one message may become several, as each result of a tool is one of its own."""
    role, blocks = given.get("role", "").lower(), given.get("content", [])
    message: Json = {"role": role, "content": _text(blocks)}
    results: list[Json] = []
    for block in blocks:
        kind = block.get("type")
        if kind == "image":
            message.setdefault("images", []).append(_image(block.get("source")))
        elif kind == "tool_use":
            for field in ("id", "name"):
                if not block.get(field):
                    raise ApiError(400, f"tool_use block missing required '{field}' field")
            function = {"name": block["name"], "arguments": block.get("input", {})}
            message.setdefault("tool_calls", []).append({"id": block["id"], "function": function})
        elif kind == "tool_result":
            result = {"role": "tool", "content": _text(block.get("content"))}
            results.append({**result, "tool_call_id": block.get("tool_use_id", "")})
    own = [message] if message["content"] or len(message) > 2 else []
    return results + own if role == "user" else own + results


def _image(source: Json | None) -> bytes:
    if source is None:
        raise ApiError(400, "invalid image source")
    kind = source.get("type", "")
    if kind != "base64":
        raise ApiError(400, f"invalid image source type: {kind}. Only base64 images are supported.")
    try:
        return base64.b64decode(source.get("data", ""), validate=True)
    except binascii.Error as error:
        raise ApiError(400, f"invalid base64 image data: {error}") from None
