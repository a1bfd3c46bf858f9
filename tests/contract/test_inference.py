"""Generating, chatting and embedding over Ollama's own API. Ollama's Go files named below, at v0.24.0."""

from __future__ import annotations

import base64
import json
import math
import re
import time
from datetime import UTC, datetime

import httpx
import pytest

METRICS = {
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
}


def lines(answer: httpx.Response) -> list[dict[str, object]]:
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def running(http: httpx.Client, model: str) -> dict[str, object] | None:
    return next((m for m in http.get("/api/ps").json()["models"] if m["name"] == model), None)


def unload(http: httpx.Client, model: str) -> None:
    http.post("/api/generate", json={"model": model, "keep_alive": 0})
    deadline = time.monotonic() + 30
    while running(http, model):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def year(moment: object) -> int:
    return int(str(moment)[:4])


def test_generate_streams_ndjson(http: httpx.Client, model: str) -> None:
    """server/routes.go GenerateHandler, streamResponse; api/types.go GenerateResponse."""
    answer = http.post("/api/generate", json={"model": model, "prompt": "Hello", "options": {"num_predict": 5}})
    assert answer.headers["content-type"] == "application/x-ndjson"
    *pieces, last = lines(answer)
    assert pieces
    for piece in pieces:
        assert piece.keys() == {"model", "created_at", "response", "done"}
        assert (piece["model"], piece["done"]) == (model, False)
    assert last.keys() == {"model", "created_at", "response", "done", "done_reason", "context"} | METRICS
    assert (last["response"], last["done"], last["done_reason"]) == ("", True, "length")
    assert last["eval_count"] == 5
    assert str(last["created_at"]).endswith("Z")
    for name in METRICS:
        assert isinstance(last[name], int)
    # Nanoseconds: parts are no longer than the whole, and the whole is between a microsecond and minutes.
    assert int(str(last["eval_duration"])) <= int(str(last["total_duration"]))
    assert 10**3 < int(str(last["total_duration"])) < 10**12


def test_generate_without_stream_is_one_object(http: httpx.Client, model: str) -> None:
    """server/routes.go GenerateHandler: stream false."""
    body = {"model": model, "prompt": "Hello", "stream": False, "options": {"num_predict": 5}}
    answer = http.post("/api/generate", json=body)
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.json()["response"]
    assert answer.json()["done"] is True


def test_chat_streams_messages(http: httpx.Client, model: str) -> None:
    """server/routes.go ChatHandler; api/types.go ChatResponse."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "options": {"num_predict": 5}}
    *pieces, last = lines(http.post("/api/chat", json=body))
    for piece in pieces:
        assert piece.keys() == {"model", "created_at", "message", "done"}
        assert isinstance(piece["message"], dict)
        assert piece["message"].keys() == {"role", "content"}
        assert piece["message"]["role"] == "assistant"
    assert last.keys() == {"model", "created_at", "message", "done", "done_reason"} | METRICS
    assert last["message"] == {"role": "assistant", "content": ""}


@pytest.mark.parametrize("bound", [-1, -2, 0])
def test_a_bound_of_nothing_is_none(http: httpx.Client, model: str, llama_server: bool, bound: int) -> None:
    """llm/server.go, Completion: below 0 there are ten contexts; runner/ollamarunner/runner.go: 0 counts nothing."""
    if llama_server and bound == 0:
        pytest.skip("it is llama-server's affair")
    ask = {"model": model, "prompt": "Write the numbers from one to fifty in words.", "stream": False}
    answer = http.post("/api/generate", json={**ask, "options": {"num_predict": bound}}).json()
    assert answer["eval_count"] > 3
    for name in ("NUM_PREDICT", "num_predict "):  # FromMap knows the exact names
        assert http.post("/api/generate", json={**ask, "options": {name: 3}}).json()["eval_count"] > 3


def test_stop_sequences_end_the_answer_and_do_not_show(http: httpx.Client, model: str) -> None:
    """runner/common/stop.go."""
    ask = {"model": model, "prompt": "Count to ten.", "stream": False, "options": {"num_predict": 40, "seed": 1}}
    full = http.post("/api/generate", json=ask).json()["response"]
    word = full.split()[3]
    options = {"num_predict": 40, "seed": 1, "stop": [word]}
    short = http.post("/api/generate", json={**ask, "options": options}).json()
    assert word not in short["response"]
    assert short["done_reason"] == "stop"


def test_an_empty_prompt_loads(http: httpx.Client, model: str) -> None:
    """server/routes.go: done_reason load; docs/api.md "Load a model"."""
    unload(http, model)
    loaded = http.post("/api/generate", json={"model": model}).json()
    assert loaded.keys() == {"model", "created_at", "response", "done", "done_reason"}
    assert (loaded["response"], loaded["done"], loaded["done_reason"]) == ("", True, "load")
    chat = http.post("/api/chat", json={"model": model, "messages": []}).json()
    assert chat["message"] == {"role": "assistant", "content": ""}
    assert chat["done_reason"] == "load"
    found = running(http, model)
    assert found is not None
    assert found.keys() == {"name", "model", "size", "digest", "details", "expires_at", "size_vram", "context_length"}
    assert 0 <= int(str(found["size_vram"])) <= int(str(found["size"]))


@pytest.mark.parametrize("keep_alive", [-1, -0.5, "-1m"])
def test_negative_keep_alive_is_for_ever(http: httpx.Client, model: str, keep_alive: object) -> None:
    """api/types.go Duration.UnmarshalJSON: math.MaxInt64 nanoseconds, some 292 years."""
    http.post("/api/generate", json={"model": model, "keep_alive": keep_alive})
    found = running(http, model)
    assert found is not None
    assert year(found["expires_at"]) > 2300


@pytest.mark.parametrize(("keep_alive", "seconds"), [("5m", 300), (90, 90), ("1h30m", 5400), (0.5, 0.5)])
def test_keep_alive_is_seconds_or_a_go_duration(
    http: httpx.Client, model: str, keep_alive: object, seconds: float
) -> None:
    """api/types.go Duration.UnmarshalJSON."""
    http.post("/api/generate", json={"model": model, "keep_alive": keep_alive})
    found = running(http, model)
    if found is None:
        assert seconds < 1
        return
    text = re.sub(r"(\.\d{6})\d+", r"\1", str(found["expires_at"]))
    left = (datetime.fromisoformat(text.replace("Z", "+00:00")) - datetime.now(UTC)).total_seconds()
    assert seconds - 5 < left <= seconds


@pytest.mark.parametrize(
    ("keep_alive", "text"),
    [
        ("-1", 'time: missing unit in duration "-1"'),
        ("soon", 'time: invalid duration "soon"'),
        ("5x", 'time: unknown unit "x" in duration "5x"'),
        (True, "Unsupported type: 'bool'"),
    ],
)
def test_other_keep_alives_are_refused(http: httpx.Client, model: str, keep_alive: object, text: str) -> None:
    """api/types.go Duration.UnmarshalJSON; Go's time.ParseDuration."""
    answer = http.post("/api/generate", json={"model": model, "keep_alive": keep_alive})
    assert (answer.status_code, answer.json()) == (400, {"error": text})


def test_keep_alive_zero_unloads(http: httpx.Client, model: str) -> None:
    """server/routes.go: expireRunner, done_reason unload."""
    http.post("/api/generate", json={"model": model, "keep_alive": -1})
    answer = http.post("/api/generate", json={"model": model, "keep_alive": 0}).json()
    assert answer["done_reason"] == "unload"
    unload(http, model)
    http.post("/api/generate", json={"model": model, "keep_alive": -1})
    answer = http.post("/api/chat", json={"model": model, "messages": [], "keep_alive": 0}).json()
    assert answer["done_reason"] == "unload"


def test_another_num_ctx_reloads_the_model(http: httpx.Client, model: str) -> None:
    """server/sched.go needsReload: api.Runner options differ."""
    http.post("/api/generate", json={"model": model, "options": {"num_ctx": 2048}})
    assert (running(http, model) or {})["context_length"] == 2048
    http.post("/api/generate", json={"model": model, "options": {"num_ctx": 1024}})
    assert (running(http, model) or {})["context_length"] == 1024
    unload(http, model)


def test_format_gives_json_of_that_schema(http: httpx.Client, model: str) -> None:
    """llm/server.go Completion: format is "json" or a schema."""
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "ok": {"type": "boolean"}},
        "required": ["name", "age", "ok"],
    }
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Ann is 30. Answer in JSON."}],
        "format": schema,
        "stream": False,
    }
    data = json.loads(http.post("/api/chat", json=body).json()["message"]["content"])
    assert isinstance(data["name"], str)
    assert isinstance(data["age"], int)
    assert isinstance(data["ok"], bool)
    json.loads(http.post("/api/generate", json={"model": model, "prompt": "JSON!", "format": "json", "stream": False,
                                                "options": {"num_predict": 400}}).json()["response"])  # fmt: skip


def test_images_must_be_base64(http: httpx.Client, model: str) -> None:
    """api/types.go ImageData ([]byte)."""
    body = {"model": model, "prompt": "What is this?", "images": ["!!!"], "stream": False}
    answer = http.post("/api/generate", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("illegal base64 data")


def test_field_names_match_in_any_case_and_the_last_wins(http: httpx.Client, model: str) -> None:
    """Go's encoding/json: what a gateway that looks at bodies must know."""
    body = f'{{"model":"nope","MODEL":"{model}","Prompt":"Hello","options":{{"num_predict":2}},"stream":false}}'
    assert http.post("/api/generate", content=body).json()["model"] == model


def test_embed(http: httpx.Client, embedding_model: str) -> None:
    """server/routes.go EmbedHandler; api/types.go EmbedResponse."""
    answer = http.post("/api/embed", json={"model": embedding_model, "input": ["a dog", "a cat", "a dog"]}).json()
    assert answer.keys() == {"model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"}
    first, second, third = answer["embeddings"]
    assert len(first) == len(second)
    assert math.isclose(sum(x * x for x in first), 1, rel_tol=1e-3)
    assert math.isclose(sum(x * y for x, y in zip(first, third, strict=True)), 1, rel_tol=1e-3)
    assert sum(x * y for x, y in zip(first, second, strict=True)) < 0.999
    one = http.post("/api/embed", json={"model": embedding_model, "input": "a dog", "dimensions": 16}).json()
    assert [len(vector) for vector in one["embeddings"]] == [16]
    nothing = http.post("/api/embed", json={"model": embedding_model}).json()
    assert nothing == {"model": embedding_model, "embeddings": []}
    wrong = http.post("/api/embed", json={"model": embedding_model, "input": 5})
    assert (wrong.status_code, wrong.json()) == (400, {"error": "invalid input type"})


def test_embed_too_much(http: httpx.Client, embedding_model: str) -> None:
    """server/routes.go embedWithRetry; runner/llamarunner/runner.go errorInputTooLong."""
    body = {"model": embedding_model, "input": "word " * 20000}
    assert len(http.post("/api/embed", json=body).json()["embeddings"]) == 1
    refused = http.post("/api/embed", json={**body, "truncate": False})
    assert (refused.status_code, refused.json()) == (400, {"error": "the input length exceeds the context length"})


def test_old_embeddings(http: httpx.Client, embedding_model: str) -> None:
    """server/routes.go EmbeddingsHandler."""
    answer = http.post("/api/embeddings", json={"model": embedding_model, "prompt": "a dog"}).json()
    assert answer.keys() == {"embedding"}
    assert len(answer["embedding"]) > 100
    assert http.post("/api/embeddings", json={"model": embedding_model}).json() == {"embedding": []}


def test_png_is_accepted(http: httpx.Client, model: str) -> None:
    """api/types.go GenerateRequest.Images."""
    picture = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(64)).decode()
    shown = http.post("/api/show", json={"model": model}).json()
    if "vision" in shown["capabilities"]:
        pytest.skip("a model that sees would look at this picture, and it is none")
    body = {"model": model, "prompt": "x", "images": [picture], "stream": False, "options": {"num_predict": 2}}
    assert http.post("/api/generate", json=body).status_code == 200


def test_keys_are_matched_as_go_matches_them(http: httpx.Client, model: str) -> None:
    """Go's encoding/json, foldName: without case, long s and Kelvin sign included; the last of equal keys wins."""
    body = (
        f'{{"MODEL": "nope", "Model": "{model}", "prompt": "Hello", "ſtream": false, "optionſ": {{"num_predict": 2}}}}'
    )
    answer = http.post("/api/generate", content=body.encode())
    assert answer.status_code == 200, answer.text
    assert answer.json()["eval_count"] == 2
    loaded = http.post("/api/generate", content=f'{{"model": "{model}", "\u212aeep_alive": -1}}'.encode())
    assert loaded.json()["done_reason"] == "load"
    ps = {entry["name"]: entry["expires_at"] for entry in http.get("/api/ps").json()["models"]}
    assert int(ps[model][:4]) > 2100
