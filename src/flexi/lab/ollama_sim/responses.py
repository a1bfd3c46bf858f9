"""OpenAI's Responses API, /v1/responses: requests turned into chats and their answers back.

Sources: openai/responses.go, middleware/openai.go (ResponsesMiddleware, ResponsesWriter).
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Generator, Iterator
from typing import Any

from .api import Answer, Api, ApiError, Caller, Json, Reply, Stream
from .binding import Struct, anything, boolean, integer, list_of, mapping, number, string, struct_of
from .goformat import go_json
from .openai import JSON_TYPE, bind_body, image_of, reply_of, tool_calls, unix

_EFFORTS = ("none", "low", "medium", "high", "max")
_TOOL = Struct(
    "openai.ResponsesTool",
    {"type": string, "name": string, "description": string, "strict": boolean, "parameters": mapping},
)
_FORMAT = Struct("openai.ResponsesTextFormat", {"type": string, "name": string, "schema": anything, "strict": boolean})
_REASONING = Struct("openai.ResponsesReasoning", {"effort": string, "generate_summary": string, "summary": string})
_REQUEST = Struct(
    "openai.ResponsesRequest",
    {
        "model": string,
        "background": boolean,
        "conversation": anything,
        "include": list_of(string, "string"),
        "input": anything,
        "instructions": string,
        "max_output_tokens": integer,
        "reasoning": struct_of(_REASONING),
        "temperature": number,
        "text": struct_of(Struct("openai.ResponsesText", {"format": struct_of(_FORMAT)})),
        "top_p": number,
        "truncation": string,
        "tools": list_of(struct_of(_TOOL), "openai.ResponsesTool"),
        "stream": boolean,
    },
)


class Responses:
    def __init__(self, api: Api) -> None:
        self._api = api

    def create(self, caller: Caller, raw: bytes) -> Answer:
        request = bind_body(raw, _REQUEST)
        native = _native(request)
        writer = _Writer(f"resp_{random.randrange(999_999)}", f"msg_{random.randrange(999_999)}", request)
        answer = self._api.chat_request(caller, native)
        if isinstance(answer, Stream):
            return Stream(writer.events(answer.items))
        body = reply_of(answer)
        if native["stream"]:
            return Stream(writer.events(iter([body])))
        return Reply(writer.whole(body), JSON_TYPE)


class _Writer:
    """One answer in this API's words. Source: ToResponse, ResponsesStreamConverter."""

    def __init__(self, identifier: str, item: str, request: Json) -> None:
        self._identifier = identifier
        self._item = item
        self._request = request
        self._sequence = 0

    def whole(self, body: Json) -> Json:
        calls = tool_calls(body["message"])
        output = [self._call(f"fc_{self._identifier}_{i}", call) for i, call in enumerate(calls)]
        if not calls:
            output = [self._message(body["message"]["content"])]
        return self._response("completed", output, _usage(body), unix(body["created_at"]), int(time.time()))

    def events(self, items: Iterator[Json]) -> Generator[Json, None, None]:
        text, output = "", list[Json]()
        started = False
        for item in items:
            if not started:
                started = True
                for kind in ("response.created", "response.in_progress"):
                    yield self._event(kind, response=self._response("in_progress", [], None, int(time.time()), None))
            calls = tool_calls(item["message"])
            for i, call in enumerate(calls):
                done = self._call(f"fc_{random.randrange(999_999)}_{i}", call)
                output.append(done)
                yield from self._call_events(i, done)
            said = item["message"]["content"]
            if said and not output:
                if not text:
                    yield from self._message_start()
                text += said
                yield self._event("response.output_text.delta", **self._place(), delta=said, logprobs=[])
            if item["done"]:
                if text and not output:
                    output = [self._message(text)]
                    yield from self._message_end(output[0])
                now = int(time.time())
                response = self._response("completed", output or None, _usage(item), now, now)
                yield self._event("response.completed", response=response)

    def _event(self, kind: str, **fields: Any) -> Json:
        event = {**fields, "type": kind, "sequence_number": self._sequence}
        self._sequence += 1
        return event

    def _place(self) -> Json:
        return {"item_id": self._item, "output_index": 0, "content_index": 0}

    def _message(self, text: str) -> Json:
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        return {"id": self._item, "type": "message", "status": "completed", "role": "assistant", "content": [part]}

    def _message_start(self) -> Iterator[Json]:
        item = {**self._message(""), "status": "in_progress", "content": []}
        yield self._event("response.output_item.added", output_index=0, item=item)
        yield self._event("response.content_part.added", **self._place(), part=self._message("")["content"][0])

    def _message_end(self, message: Json) -> Iterator[Json]:
        part = message["content"][0]
        yield self._event("response.output_text.done", **self._place(), text=part["text"], logprobs=[])
        yield self._event("response.content_part.done", **self._place(), part=part)
        yield self._event("response.output_item.done", output_index=0, item=message)

    @staticmethod
    def _call(identifier: str, call: Json) -> Json:
        function = {"name": call["function"]["name"], "arguments": call["function"]["arguments"]}
        return {
            "id": identifier,
            "type": "function_call",
            "status": "completed",
            "call_id": call["id"],
            **function,
        }

    def _call_events(self, index: int, call: Json) -> Iterator[Json]:
        begun = {**call, "status": "in_progress", "arguments": ""}
        arguments = call["arguments"]
        yield self._event("response.output_item.added", output_index=index, item=begun)
        place = {"item_id": call["id"], "output_index": index}
        yield self._event("response.function_call_arguments.delta", **place, delta=arguments)
        yield self._event("response.function_call_arguments.done", **place, arguments=arguments)
        yield self._event("response.output_item.done", output_index=index, item=call)

    def _response(
        self, status: str, output: list[Json] | None, usage: Json | None, created: int, completed: int | None
    ) -> Json:
        request = self._request
        reasoning = {key: value for key, value in request.get("reasoning", {}).items() if key != "generate_summary"}
        empty = {"description": None, "strict": None, "parameters": None}
        return {
            "id": self._identifier,
            "object": "response",
            "created_at": created,
            "completed_at": completed,
            "status": status,
            "incomplete_details": None,
            "model": request.get("model", ""),
            "previous_response_id": None,
            "instructions": request.get("instructions") or None,
            "output": output,
            "error": None,
            "tools": [{**empty, **tool} for tool in request.get("tools", ())],
            "tool_choice": "auto",
            "truncation": request.get("truncation", "disabled"),
            "parallel_tool_calls": True,
            "text": {"format": request.get("text", {}).get("format", {"type": "text"})},
            "top_p": request.get("top_p", 1.0),
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "top_logprobs": 0,
            "temperature": request.get("temperature", 1.0),
            "reasoning": reasoning or None,
            "usage": usage,
            "max_output_tokens": request.get("max_output_tokens"),
            "max_tool_calls": None,
            "store": False,
            "background": request.get("background", False),
            "service_tier": "default",
            "metadata": {},
            "safety_identifier": None,
            "prompt_cache_key": None,
        }


def _usage(body: Json) -> Json:
    read, written = body.get("prompt_eval_count", 0), body.get("eval_count", 0)
    return {
        "input_tokens": read,
        "output_tokens": written,
        "total_tokens": read + written,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }


def _native(request: Json) -> Json:
    """FromResponsesRequest."""
    options: Json = {"temperature": request.get("temperature", 1.0)}
    for ours, theirs in (("top_p", "top_p"), ("num_predict", "max_output_tokens")):
        if theirs in request:
            options[ours] = request[theirs]
    native: Json = {
        "model": request.get("model", ""),
        "messages": _messages(request),
        "options": options,
        "stream": request.get("stream", False),
        "tools": [_native_tool(tool) for tool in request.get("tools", ())],
    }
    effort = request.get("reasoning", {}).get("effort", "")
    if effort:
        if effort not in _EFFORTS:
            wanted = '(must be "high", "medium", "low", "max", or "none")'
            raise ApiError(400, f"invalid reasoning value: {go_json(effort)} {wanted}")
        native["think"] = False if effort == "none" else effort
    form = request.get("text", {}).get("format", {})
    if form.get("type") == "json_schema" and form.get("schema") is not None:
        native["format"] = form["schema"]
    return native


def _native_tool(tool: Json) -> Json:
    function = {"name": tool.get("name", ""), "description": tool.get("description", "")}
    return {"type": tool.get("type", ""), "function": {**function, "parameters": tool.get("parameters", {})}}


def _messages(request: Json) -> list[Json]:
    messages: list[Json] = []
    if request.get("instructions"):
        messages.append({"role": "system", "content": request["instructions"]})
    given = request.get("input")
    if isinstance(given, str):
        return messages + ([{"role": "user", "content": given}] if given else [])
    if given is not None and not isinstance(given, list):
        raise ApiError(400, "input must be a string or array: json: cannot unmarshal into []json.RawMessage")
    for index, item in enumerate(given or ()):
        try:
            _take(item, messages)
        except ValueError as error:
            raise ApiError(400, f"input[{index}]: {error}") from None
    return messages


def _take(item: Any, messages: list[Json]) -> None:
    """Add an item of the input to the conversation. ValueError with Ollama's words if it cannot be read."""
    if not isinstance(item, dict):
        raise ValueError("json: cannot unmarshal into Go value of type struct")
    kind = _string(item, "type") or ("message" if _string(item, "role") else "")
    if kind == "message":
        messages.append({"role": _string(item, "role"), **_content(item.get("content"), "content")})
    elif kind == "function_call":
        _take_call(item, messages)
    elif kind == "function_call_output":
        output = _content(item.get("output"), "output")
        messages.append({"role": "tool", **output, "tool_call_id": _string(item, "call_id")})
    elif not kind:
        raise ValueError("input item missing required 'type' field")
    elif kind != "reasoning":  # none of the simulated models thinks, so there is none to give back
        raise ValueError(f"unknown input item type: {go_json(kind)}")


def _take_call(item: Json, messages: list[Json]) -> None:
    try:
        arguments = json.loads(_string(item, "arguments") or "{}")
    except json.JSONDecodeError as error:
        raise ApiError(400, f"failed to parse function call arguments: {error.msg}") from None
    call = {"id": _string(item, "call_id"), "function": {"name": _string(item, "name"), "arguments": arguments}}
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    messages[-1].setdefault("tool_calls", []).append(call)


def _content(given: Any, field: str) -> Json:
    if given is None or isinstance(given, str):
        return {"content": given or ""}
    if not isinstance(given, list):
        raise ValueError(f"{field} must be a string or array: json: cannot unmarshal into []json.RawMessage")
    text, images = "", []
    for index, part in enumerate(given):
        kind = _string(part, "type") if isinstance(part, dict) else ""
        if kind in ("input_text", "output_text"):
            text += _string(part, "text")
        elif kind == "input_image":
            if _string(part, "image_url"):
                images.append(image_of(part["image_url"]))
        elif kind == "input_file":
            raise ApiError(400, "file inputs are not currently supported")
        else:
            raise ValueError(f"{field}[{index}]: unknown content type: {kind}")
    return {"content": text, **({"images": images} if images else {})}


def _string(item: Json, key: str) -> str:
    value = item.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"json: cannot unmarshal into Go struct field .{key} of type string")
    return value or ""
