"""OpenAI's Responses API. Sources: openai/responses.go (and its tests), middleware/openai.go at v0.24.0."""

from __future__ import annotations

import json

import httpx
import openai
import pytest

TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city.",
    "strict": False,
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def events(answer: httpx.Response) -> list[dict[str, object]]:
    """ResponsesWriter.writeEvent: the type as the event's name, and no [DONE]."""
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
    """ToResponse."""
    body = {"model": model, "input": "Hello", "instructions": "Be brief.", "max_output_tokens": 4}
    answer = http.post("/v1/responses", json=body).json()
    assert answer["id"].startswith("resp_")
    assert (answer["object"], answer["status"], answer["model"]) == ("response", "completed", model)
    (item,) = answer["output"]
    assert (item["type"], item["status"], item["role"]) == ("message", "completed", "assistant")
    (part,) = item["content"]
    assert part["type"] == "output_text"
    assert part["text"]
    assert answer["usage"]["output_tokens"] == 4
    assert answer["usage"]["total_tokens"] == answer["usage"]["input_tokens"] + 4
    assert (answer["instructions"], answer["max_output_tokens"]) == ("Be brief.", 4)
    assert (answer["store"], answer["truncation"], answer["tools"]) == (False, "disabled", [])


def test_a_stream(http: httpx.Client, model: str) -> None:
    """TestResponsesStreamConverter_TextOnly and _SequenceNumbers."""
    body = {"model": model, "input": "Hello", "max_output_tokens": 3, "stream": True}
    seen = events(http.post("/v1/responses", json=body))
    kinds = [str(event["type"]).removeprefix("response.") for event in seen]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert set(kinds[4:-4]) == {"output_text.delta"}
    assert kinds[-4:] == ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert [event["sequence_number"] for event in seen] == list(range(len(seen)))
    text = "".join(str(event["delta"]) for event in seen if event["type"] == "response.output_text.delta")
    completed = seen[-1]["response"]
    assert isinstance(completed, dict)
    assert completed["output"][0]["content"][0]["text"] == text
    assert completed["usage"]["output_tokens"] == 3


@pytest.mark.parametrize("stream", [True, False])
def test_a_tool_is_called_and_answers(http: httpx.Client, tool_model: str, stream: bool) -> None:
    """TestResponsesStreamConverter_ToolCalls, TestFromResponsesRequest_FunctionCallOutput."""
    question = {"role": "user", "content": "Use get_weather for Hagen."}
    body = {"model": tool_model, "input": [question], "tools": [TOOL], "stream": stream}
    answer = http.post("/v1/responses", json=body)
    response = events(answer)[-1]["response"] if stream else answer.json()
    (call,) = response["output"]
    assert (call["type"], call["name"], call["status"]) == ("function_call", "get_weather", "completed")
    assert isinstance(json.loads(call["arguments"])["city"], str)
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "17 degrees"}
    second = http.post("/v1/responses", json={**body, "input": [question, call, result], "stream": False}).json()
    assert "17 degrees" in second["output"][0]["content"][0]["text"]


def test_a_schema(http: httpx.Client, model: str) -> None:
    """TestFromResponsesRequest_TextFormatJsonSchema."""
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    form = {"type": "json_schema", "name": "city", "schema": schema}
    answer = http.post("/v1/responses", json={"model": model, "input": "A city.", "text": {"format": form}}).json()
    assert isinstance(json.loads(answer["output"][0]["content"][0]["text"])["city"], str)
    assert answer["text"]["format"] == form


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([{"content": "x"}], "input[0]: input item missing required 'type' field"),
        ([{"type": "cake"}], 'input[0]: unknown input item type: "cake"'),
        ([{"role": "user", "content": [{"type": "cake"}]}], "input[0]: content[0]: unknown content type: cake"),
        ([{"role": "user", "content": [{"type": "input_file"}]}], "file inputs are not currently supported"),
        (5, "input must be a string or array"),
    ],
)
def test_what_cannot_be_read(http: httpx.Client, model: str, given: object, words: str) -> None:
    """unmarshalResponsesInputItem, unmarshalResponsesContent, convertResponsesContent."""
    answer = http.post("/v1/responses", json={"model": model, "input": given})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert words in answer.json()["error"]["message"]


def test_reasoning_is_checked(http: httpx.Client, model: str) -> None:
    """TestFromResponsesRequest_ReasoningEffort."""
    answer = http.post("/v1/responses", json={"model": model, "input": "x", "reasoning": {"effort": "much"}})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith('invalid reasoning value: "much" (must be')
    none = {"model": model, "input": "x", "reasoning": {"effort": "none"}, "max_output_tokens": 1}
    assert http.post("/v1/responses", json=none).status_code == 200


def test_the_official_client(ollama_url: str, model: str) -> None:
    """It checks each event against OpenAI's own types."""
    client = openai.OpenAI(base_url=f"{ollama_url}/v1", api_key="unused", max_retries=0)
    assert client.responses.create(model=model, input="Hello", max_output_tokens=4).output_text
    with client.responses.stream(model=model, input="Hello", max_output_tokens=4) as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(pieces) == final.output_text
    with pytest.raises(openai.NotFoundError, match="not found"):
        client.responses.create(model="nope", input="Hello")
