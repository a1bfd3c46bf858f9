"""Anthropic's Messages API. Sources: anthropic/anthropic.go, middleware/anthropic.go at v0.24.0."""

from __future__ import annotations

import json

import httpx
import pytest

HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def events(answer: httpx.Response) -> list[dict[str, object]]:
    """writeSSE."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream"
    *blocks, last = answer.text.split("\n\n")
    assert last == ""
    parsed = []
    for block in blocks:
        name, data = block.split("\n")
        parsed.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {parsed[-1]['type']}"
    return parsed


def test_an_answer(http: httpx.Client, model: str) -> None:
    """ToMessagesResponse, mapStopReason."""
    body = {"model": model, "max_tokens": 4, "messages": HELLO, "system": [{"type": "text", "text": "Be brief."}]}
    answer = http.post("/v1/messages", json=body).json()
    assert answer.keys() == {"id", "type", "role", "model", "content", "stop_reason", "usage"}
    assert (answer["type"], answer["role"], answer["model"]) == ("message", "assistant", model)
    assert answer["id"].startswith("msg_")
    (block,) = answer["content"]
    assert block["type"] == "text"
    assert block["text"]
    assert answer["stop_reason"] == "max_tokens"
    assert answer["usage"]["output_tokens"] == 4
    assert answer["usage"]["input_tokens"] > 0


def test_a_stream(http: httpx.Client, model: str) -> None:
    """StreamConverter.Process."""
    body = {"model": model, "max_tokens": 3, "messages": HELLO, "stream": True}
    seen = events(http.post("/v1/messages", json=body))
    kinds = [event["type"] for event in seen]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert seen[-2]["delta"] == {"stop_reason": "max_tokens"}


@pytest.mark.parametrize("stream", [True, False])
def test_a_tool_is_called_and_answers(http: httpx.Client, tool_model: str, stream: bool) -> None:
    """convertTool, convertMessage."""
    question = {"role": "user", "content": "Use get_weather for Hagen."}
    body = {"model": tool_model, "max_tokens": 40, "messages": [question], "tools": [TOOL], "stream": stream}
    answer = http.post("/v1/messages", json=body)
    if stream:
        _, begin, delta, end, stop, _ = events(answer)
        assert isinstance(begin["content_block"], dict)
        assert isinstance(delta["delta"], dict)
        assert end == {"type": "content_block_stop", "index": 0}
        call = {**begin["content_block"], "input": json.loads(delta["delta"]["partial_json"])}
        reason = stop["delta"]
    else:
        (call,) = answer.json()["content"]
        reason = {"stop_reason": answer.json()["stop_reason"]}
    assert reason == {"stop_reason": "tool_use"}
    assert (call["type"], call["name"]) == ("tool_use", "get_weather")
    assert isinstance(call["input"]["city"], str)
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": [{"type": "text", "text": "17 degrees"}]}
    messages = [question, {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    second = http.post("/v1/messages", json={**body, "messages": messages, "stream": False}).json()
    assert "17 degrees" in second["content"][0]["text"]


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("model", "model is required"),
        ("max_tokens", "max_tokens is required and must be positive"),
        ("messages", "messages is required"),
    ],
)
def test_what_is_needed(http: httpx.Client, model: str, missing: str, words: str) -> None:
    """AnthropicMessagesMiddleware; NewError."""
    body = {"model": model, "max_tokens": 4, "messages": HELLO}
    del body[missing]
    answer = http.post("/v1/messages", json=body)
    assert answer.status_code == 400
    error = answer.json()
    assert error.pop("request_id").startswith("req_")
    assert error == {"type": "error", "error": {"type": "invalid_request_error", "message": words}}


def test_images_and_unknown_models(http: httpx.Client, model: str) -> None:
    """resolveImageSource; server/routes.go ChatHandler."""
    source = {"type": "url", "url": "https://example.org/cat.png"}
    messages = [{"role": "user", "content": [{"type": "image", "source": source}]}]
    remote = http.post("/v1/messages", json={"model": model, "max_tokens": 4, "messages": messages})
    assert (remote.status_code, remote.json()["error"]["message"]) == (
        400,
        "invalid image source type: url. Only base64 images are supported.",
    )
    unknown = http.post("/v1/messages", json={"model": "nope", "max_tokens": 4, "messages": HELLO})
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "not_found_error")
