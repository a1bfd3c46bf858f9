"""The OpenAI-compatible API. Sources: openai/openai.go, middleware/openai.go at v0.24.0."""

from __future__ import annotations

import base64
import json
import struct

import httpx
import pytest

HELLO = [{"role": "user", "content": "Hello"}]


def events(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream"
    blocks = answer.text.split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") for block in blocks)
    return [block.removeprefix("data: ") for block in blocks]


def test_chat_completion(http: httpx.Client, model: str) -> None:
    """ToChatCompletion, ToUsage."""
    answer = http.post("/v1/chat/completions", json={"model": model, "messages": HELLO, "max_tokens": 4}).json()
    assert answer.keys() == {"id", "object", "created", "model", "system_fingerprint", "choices", "usage"}
    assert answer["id"].startswith("chatcmpl-")
    assert (answer["object"], answer["system_fingerprint"]) == ("chat.completion", "fp_ollama")
    choice = answer["choices"][0]
    assert choice.keys() == {"index", "message", "finish_reason"}
    assert choice["message"].keys() == {"role", "content"}
    assert choice["finish_reason"] == "length"
    usage = answer["usage"]
    assert usage["completion_tokens"] == 4
    assert usage["total_tokens"] == usage["prompt_tokens"] + 4


def test_max_completion_tokens_is_ignored(http: httpx.Client, model: str) -> None:
    """ChatCompletionRequest has no such field, at v0.24.0, v0.32.15 and v0.33.0-rc2 (ollama/ollama#7125): the guard
    writes max_tokens instead. Where this fails, a release has learned it."""
    ask = {"model": model, "messages": [{"role": "user", "content": "Write the numbers from one to fifty in words."}]}
    answer = http.post("/v1/chat/completions", json={**ask, "max_completion_tokens": 3}).json()
    assert answer["usage"]["completion_tokens"] > 3
    both = http.post("/v1/chat/completions", json={**ask, "max_completion_tokens": 3, "max_tokens": 5}).json()
    assert (both["usage"]["completion_tokens"], both["choices"][0]["finish_reason"]) == (5, "length")


@pytest.mark.parametrize("value", [5.5, "5", True, [5]])
def test_max_tokens_is_a_whole_number(http: httpx.Client, model: str, value: object) -> None:
    """*int in ChatCompletionRequest."""
    refused = http.post("/v1/chat/completions", json={"model": model, "messages": HELLO, "max_tokens": value})
    assert refused.status_code == 400
    assert "max_tokens of type int" in refused.json()["error"]["message"]
    nothing = {"model": model, "messages": HELLO, "max_tokens": None, "stop": [" "]}
    assert http.post("/v1/chat/completions", json=nothing).status_code == 200


@pytest.mark.parametrize("with_usage", [True, False])
def test_chat_stream(http: httpx.Client, model: str, with_usage: bool) -> None:
    """ChatWriter.writeResponse: chunks, then usage if it was asked for, then [DONE]."""
    body = {"model": model, "messages": HELLO, "max_tokens": 3, "stream": True}
    if with_usage:
        body["stream_options"] = {"include_usage": True}
    *chunks, done = events(http.post("/v1/chat/completions", json=body))
    assert done == "[DONE]"
    parsed = [json.loads(chunk) for chunk in chunks]
    assert len({chunk["id"] for chunk in parsed}) == 1
    usage = parsed.pop() if with_usage else None
    if usage:
        assert usage["choices"] == []
        assert usage["usage"]["completion_tokens"] == 3
    assert all("usage" not in chunk for chunk in parsed)
    assert [chunk["choices"][0]["finish_reason"] for chunk in parsed] == [None] * (len(parsed) - 1) + ["length"]
    assert all(chunk["choices"][0]["delta"]["role"] == "assistant" for chunk in parsed)
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in parsed)


def test_completion(http: httpx.Client, model: str) -> None:
    """ToCompletion, CompleteWriter."""
    body = {"model": model, "prompt": "Hello", "max_tokens": 3}
    answer = http.post("/v1/completions", json=body).json()
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["text"]
    assert answer["choices"][0]["finish_reason"] == "length"
    stream = {**body, "stream": True, "stream_options": {"include_usage": True}}
    *chunks, done = events(http.post("/v1/completions", json=stream))
    assert done == "[DONE]"
    parsed = [json.loads(chunk) for chunk in chunks]
    assert [chunk["usage"]["completion_tokens"] for chunk in parsed] == [0] * (len(parsed) - 1) + [3]


def test_embeddings(http: httpx.Client, embedding_model: str) -> None:
    """ToEmbeddingList, EmbeddingsMiddleware."""
    answer = http.post("/v1/embeddings", json={"model": embedding_model, "input": ["a", "b"]}).json()
    assert (answer["object"], answer["model"]) == ("list", embedding_model)
    assert [entry["index"] for entry in answer["data"]] == [0, 1]
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 0
    packed = http.post(
        "/v1/embeddings", json={"model": embedding_model, "input": "a", "encoding_format": "base64"}
    ).json()["data"][0]["embedding"]
    floats = struct.unpack(f"<{len(answer['data'][0]['embedding'])}f", base64.b64decode(packed))
    assert floats == pytest.approx(answer["data"][0]["embedding"], abs=1e-6)
    for wrong in ({}, {"input": []}):
        refused = http.post("/v1/embeddings", json={"model": embedding_model, **wrong})
        assert (refused.status_code, refused.json()["error"]["message"]) == (400, "invalid input")


def test_parts_of_content(http: httpx.Client, model: str) -> None:
    """FromChatRequest: text and images as parts; images by address are refused."""
    parts = [{"type": "text", "text": "Hello"}]
    body = {"model": model, "messages": [{"role": "user", "content": parts}], "max_tokens": 2}
    assert http.post("/v1/chat/completions", json=body).status_code == 200
    remote = [{"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}]
    refused = http.post("/v1/chat/completions", json={**body, "messages": [{"role": "user", "content": remote}]})
    assert refused.status_code == 400
    assert refused.json()["error"]["message"].startswith("image URLs are not currently supported")


def test_json_schema(http: httpx.Client, model: str) -> None:
    """FromChatRequest: response_format."""
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "A city in JSON, please."}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}},
    }
    content = http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    assert isinstance(json.loads(content)["city"], str)
