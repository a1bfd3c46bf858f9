"""The OpenAI-compatible API under /v1: requests and answers turned into Ollama's own and back.

Sources: openai/openai.go, middleware/openai.go.
"""

from __future__ import annotations

import base64
import binascii
import json
import random
import struct
import time
from collections.abc import Generator, Iterator
from typing import Any

from . import binding
from .api import Answer, Api, ApiError, Caller, Json, Reply, Stream
from .binding import Struct, anything, boolean, integer, list_of, mapping, number, string, struct_of
from .goformat import SECOND, go_json, parse_rfc3339
from .names import parse_name

JSON_TYPE = "application/json"
_FINGERPRINT = "fp_ollama"
_IMAGE_TYPES = ("jpeg", "jpg", "png", "webp")

_MESSAGE = Struct(
    "openai.Message",
    {
        "role": string,
        "content": anything,
        "reasoning": string,
        "tool_calls": list_of(mapping, "openai.ToolCall"),
        "name": string,
        "tool_call_id": string,
    },
)
_STREAM_OPTIONS = Struct("openai.StreamOptions", {"include_usage": boolean})
_SAMPLING = {
    # The only bound that it knows: `max_completion_tokens` is ignored, at v0.33.0-rc2 too.
    "max_tokens": integer,
    "seed": integer,
    "stop": anything,
    "temperature": number,
    "frequency_penalty": number,
    "presence_penalty": number,
    "top_p": number,
    "stream": boolean,
    "stream_options": struct_of(_STREAM_OPTIONS),
}
_CHAT = Struct(
    "ChatCompletionRequest",
    {
        **_SAMPLING,
        "model": string,
        "messages": list_of(struct_of(_MESSAGE), "openai.Message"),
        "response_format": mapping,
        "tools": list_of(anything, "api.Tool"),
        "reasoning": mapping,
        "reasoning_effort": string,
        "top_logprobs": integer,
    },
)
_COMPLETION = Struct("CompletionRequest", {**_SAMPLING, "model": string, "prompt": string, "suffix": string})
_EMBED = Struct("EmbedRequest", {"model": string, "input": anything, "dimensions": integer, "encoding_format": string})


class OpenAi:
    def __init__(self, api: Api) -> None:
        self._api = api

    def models(self, caller: Caller) -> Answer:
        listed = reply_of(self._api.tags(caller))["models"]
        data = [_model(entry["name"], entry["modified_at"]) for entry in listed]
        return Reply({"object": "list", "data": data or None}, JSON_TYPE)

    def model(self, caller: Caller, name: str) -> Answer:
        shown = reply_of(self._api.show(caller, json.dumps({"name": name}).encode()))
        return Reply(_model(name, shown["modified_at"]), JSON_TYPE)

    def chat(self, caller: Caller, raw: bytes) -> Answer:
        request = bind_body(raw, _CHAT)
        if not request.get("messages"):
            raise ApiError(400, "[] is too short - 'messages'")
        native: Json = {
            "model": request.get("model", ""),
            "messages": _messages(request["messages"]),
            "options": _options(request),
            "stream": request.get("stream", False),
            "tools": request.get("tools", []),
            "top_logprobs": request.get("top_logprobs", 0),
        }
        wanted = request.get("response_format") or {}
        kind = str(wanted.get("type", "")).strip().lower()
        if kind == "json_object":
            native["format"] = "json"
        elif kind == "json_schema" and wanted.get("json_schema"):
            native["format"] = wanted["json_schema"].get("schema")
        effort = (request.get("reasoning") or {}).get("effort") or request.get("reasoning_effort") or ""
        if effort:
            if effort not in ("high", "medium", "low", "max", "none"):
                raise ApiError(
                    400,
                    f'invalid reasoning value: \'{effort}\' (must be "high", "medium", "low", "max", or "none")',
                )
            native["think"] = False if effort == "none" else effort
        identifier = f"chatcmpl-{random.randrange(999)}"
        answer = self._api.chat_request(caller, native)
        if isinstance(answer, Stream):
            return Stream(_chat_chunks(identifier, answer.items, _include_usage(request)))
        body = reply_of(answer)
        if native["stream"]:
            return Stream(_chat_chunks(identifier, iter([body]), _include_usage(request)))
        calls = tool_calls(body["message"])
        message: Json = {"role": body["message"]["role"], "content": body["message"]["content"]}
        if calls:
            message["tool_calls"] = calls
        reason = "tool_calls" if calls else body.get("done_reason")
        return Reply(
            {
                "id": identifier,
                "object": "chat.completion",
                "created": unix(body["created_at"]),
                "model": body["model"],
                "system_fingerprint": _FINGERPRINT,
                "choices": [{"index": 0, "message": message, "finish_reason": reason}],
                "usage": _usage(body),
            },
            JSON_TYPE,
        )

    def completions(self, caller: Caller, raw: bytes) -> Answer:
        request = bind_body(raw, _COMPLETION)
        stop = request.get("stop")
        if isinstance(stop, list) and not all(isinstance(item, str) for item in stop):
            raise ApiError(400, "invalid type for 'stop' field: float64")
        native = {
            "model": request.get("model", ""),
            "prompt": request.get("prompt", ""),
            "suffix": request.get("suffix", ""),
            "options": _options(request),
            "stream": request.get("stream", False),
        }
        identifier = f"cmpl-{random.randrange(999)}"
        answer = self._api.generate_request(caller, native)
        if isinstance(answer, Stream):
            return Stream(_completion_chunks(identifier, answer.items, _include_usage(request)))
        body = reply_of(answer)
        if native["stream"]:
            return Stream(_completion_chunks(identifier, iter([body]), _include_usage(request)))
        return Reply({**_completion(identifier, body, unix(body["created_at"])), "usage": _usage(body)}, JSON_TYPE)

    def embeddings(self, caller: Caller, raw: bytes) -> Answer:
        request = bind_body(raw, _EMBED)
        encoding = request.get("encoding_format", "")
        if encoding.lower() not in ("", "float", "base64"):
            raise ApiError(
                400,
                f"Invalid value for 'encoding_format' = {encoding}. Supported values: ['float', 'base64'].",
            )
        given = request.get("input")
        if given == "":
            given = [""]
        if given is None or given == []:
            raise ApiError(400, "invalid input")
        native = {"model": request.get("model", ""), "input": given, "dimensions": request.get("dimensions", 0)}
        body = reply_of(self._api.embed_request(caller, native))
        data = []
        for index, vector in enumerate(body["embeddings"]):
            value: Any = vector
            if encoding.lower() == "base64":
                value = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
            data.append({"object": "embedding", "embedding": value, "index": index})
        count = body.get("prompt_eval_count", 0)
        usage = {"prompt_tokens": count, "total_tokens": count}
        return Reply({"object": "list", "data": data or None, "model": native["model"], "usage": usage}, JSON_TYPE)


def bind_body(raw: bytes, struct_: Struct) -> Json:
    try:
        return binding.bind(raw, struct_)
    except binding.BindError as error:
        # Unlike Ollama's own API, this one passes on what the decoder said.
        message = "EOF" if str(error) == "missing request body" else str(error)
        raise ApiError(400, message) from None


def reply_of(answer: Answer) -> Json:
    assert isinstance(answer, Reply)
    assert answer.body is not None
    return answer.body


def unix(moment: str) -> int:
    return parse_rfc3339(moment) // SECOND


def _model(name: str, modified: str) -> Json:
    return {"id": name, "object": "model", "created": unix(modified), "owned_by": parse_name(name).namespace}


def _usage(body: Json) -> Json:
    prompt, completion = body.get("prompt_eval_count", 0), body.get("eval_count", 0)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _include_usage(request: Json) -> bool:
    return bool((request.get("stream_options") or {}).get("include_usage"))


def _options(request: Json) -> Json:
    options: Json = {"temperature": request.get("temperature", 1.0), "top_p": request.get("top_p") or 1.0}
    stop = request.get("stop")
    if isinstance(stop, str):
        options["stop"] = [stop]
    elif isinstance(stop, list):
        options["stop"] = [item for item in stop if isinstance(item, str)]
    for ours, theirs in (
        ("num_predict", "max_tokens"),
        ("seed", "seed"),
        ("frequency_penalty", "frequency_penalty"),
        ("presence_penalty", "presence_penalty"),
    ):
        if theirs in request:
            options[ours] = request[theirs]
    return options


def _messages(given: list[Json]) -> list[Json]:
    messages: list[Json] = []
    for message in given:
        role, content = message.get("role", ""), message.get("content")
        base: Json = {"role": role.lower()}
        if message.get("tool_call_id"):
            base["tool_call_id"] = message["tool_call_id"]
        calls = [_native_call(call) for call in message.get("tool_calls", ())]
        if isinstance(content, str):
            messages.append({**base, "content": content, "tool_calls": calls})
        elif isinstance(content, list):
            for part in content:
                messages.append({**base, **_part(part)})
            if messages and calls:
                messages[-1]["tool_calls"] = calls
        elif calls:
            messages.append({**base, "content": "", "tool_calls": calls})
        else:
            kind = "<nil>" if content is None else "map[string]interface {}" if isinstance(content, dict) else "float64"
            raise ApiError(400, f"invalid message content type: {kind}")
    return messages


def _part(part: Any) -> Json:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"content": part["text"]}
    if kind == "image_url":
        url = part.get("image_url")
        if isinstance(url, dict):
            url = url.get("url")
        if isinstance(url, str):
            return {"content": "", "images": [image_of(url)]}
    raise ApiError(400, "invalid message format")


def image_of(url: str) -> bytes:
    if url.startswith(("http://", "https://")):
        raise ApiError(400, "image URLs are not currently supported, please use base64 encoded data instead")
    for prefix in ("data:;base64,", *(f"data:image/{kind};base64," for kind in _IMAGE_TYPES)):
        if url.startswith(prefix):
            try:
                return base64.b64decode(url[len(prefix) :], validate=True)
            except binascii.Error:
                break
    raise ApiError(400, "invalid image input")


def _native_call(call: Json) -> Json:
    function = call.get("function") or {}
    try:
        arguments = json.loads(function.get("arguments", ""))
    except (json.JSONDecodeError, TypeError):
        raise ApiError(400, "invalid tool call arguments") from None
    return {"id": call.get("id", ""), "function": {"name": function.get("name", ""), "arguments": arguments}}


def tool_calls(message: Json) -> list[Json]:
    return [
        {
            "id": call["id"],
            "index": call["function"]["index"],
            "type": "function",
            "function": {"name": call["function"]["name"], "arguments": go_json(call["function"]["arguments"])},
        }
        for call in message.get("tool_calls", ())
    ]


def _chat_chunks(identifier: str, items: Iterator[Json], include_usage: bool) -> Generator[Json, None, None]:
    called = False
    for item in items:
        calls = tool_calls(item["message"])
        called = called or bool(calls)
        delta: Json = {"role": "assistant", "content": item["message"]["content"]}
        if calls:
            delta["tool_calls"] = calls
        reason = item.get("done_reason") or None
        chunk = {
            "id": identifier,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": item["model"],
            "system_fingerprint": _FINGERPRINT,
            "choices": [{"index": 0, "delta": delta, "finish_reason": "tool_calls" if reason and called else reason}],
        }
        yield chunk
        if item["done"] and include_usage:
            yield {**chunk, "choices": [], "usage": _usage(item)}


def _completion(identifier: str, body: Json, created: int) -> Json:
    choice = {"text": body["response"], "index": 0, "finish_reason": body.get("done_reason") or None}
    return {
        "id": identifier,
        "object": "text_completion",
        "created": created,
        "model": body["model"],
        "system_fingerprint": _FINGERPRINT,
        "choices": [choice],
    }


def _completion_chunks(identifier: str, items: Iterator[Json], include_usage: bool) -> Generator[Json, None, None]:
    for item in items:
        chunk = _completion(identifier, item, int(time.time()))
        if include_usage:
            chunk["usage"] = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        yield chunk
        if item["done"] and include_usage:
            yield {**chunk, "choices": [], "usage": _usage(item)}
