"""The official Python clients, unchanged, against the server under test."""

from __future__ import annotations

import ollama
import openai
import pytest


@pytest.fixture
def native(ollama_url: str) -> ollama.Client:
    return ollama.Client(host=ollama_url)


@pytest.fixture
def compatible(ollama_url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{ollama_url}/v1", api_key="unused", max_retries=0)


def test_ollama_lists_and_shows(native: ollama.Client, model: str) -> None:
    assert model in [entry.model for entry in native.list().models]
    assert "completion" in (native.show(model).capabilities or [])


def test_ollama_writes(native: ollama.Client, model: str) -> None:
    options = {"num_predict": 4}
    assert native.generate(model, "Hello", options=options).response
    pieces = list(native.chat(model, [{"role": "user", "content": "Hello"}], stream=True, options=options))
    assert "".join(piece.message.content or "" for piece in pieces)
    assert pieces[-1].done_reason == "length"
    assert pieces[-1].eval_count == 4


def test_ollama_embeds(native: ollama.Client, embedding_model: str) -> None:
    assert len(native.embed(embedding_model, ["a", "b"]).embeddings) == 2


def test_ollama_loads_and_lists_what_runs(native: ollama.Client, model: str) -> None:
    native.generate(model, keep_alive=-1)
    found = next(entry for entry in native.ps().models if entry.model == model)
    assert found.expires_at is not None
    assert found.expires_at.year > 2300


def test_ollama_raises_for_unknown_models(native: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="model 'nope' not found") as caught:
        native.generate("nope", "Hello")
    assert caught.value.status_code == 404


def test_openai_writes(compatible: openai.OpenAI, model: str) -> None:
    answer = compatible.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Hello"}], max_tokens=4
    )
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4


def test_openai_streams_with_usage(compatible: openai.OpenAI, model: str) -> None:
    chunks = list(
        compatible.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "Hello"}],
            max_tokens=4,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 4


def test_openai_embeds(compatible: openai.OpenAI, embedding_model: str) -> None:
    """This client asks for base64 by itself."""
    assert len(compatible.embeddings.create(model=embedding_model, input="a").data[0].embedding) > 100


def test_openai_lists_models(compatible: openai.OpenAI, model: str) -> None:
    assert model in [entry.id for entry in compatible.models.list().data]


def test_openai_raises_for_unknown_models(compatible: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="not found"):
        compatible.chat.completions.create(model="nope", messages=[{"role": "user", "content": "Hello"}])
