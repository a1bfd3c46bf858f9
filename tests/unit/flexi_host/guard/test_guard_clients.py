"""What the guard makes of bodies as real clients write them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flexi_host.guard.config import ConsumerClass, GuardConfig, Model
from flexi_host.guard.policy import judge

MODEL = Model("nomic-embed-text:latest", "m-nomic", "s-nomic", 2048, True)
CONFIG = GuardConfig(
    inner="/run/inner",
    ledger="/run/ledger",
    body_limit_bytes=1 << 20,
    body_timeout_s=10,
    bodies_limit_bytes=1 << 24,
    retries=1,
    paths=frozenset({"/api/embed", "/api/generate"}),
    models={"nomic-embed-text": MODEL},
    classes={"default": ConsumerClass(None, frozenset())},
    hosts={},
)


def ordered(path: str, body: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    order = judge(CONFIG, path, "course", "default", json.dumps(body).encode())
    return json.loads(order.body), order.set_aside


def test_options_that_are_null_are_not_given() -> None:
    """langchain-ollama 1.1.0, OllamaEmbeddings: every option that it knows, null where nobody set it."""
    options = dict.fromkeys(("mirostat", "num_ctx", "num_gpu", "num_thread", "temperature", "stop", "top_k"))
    sent = {"model": "nomic-embed-text", "input": ["x"], "options": options, "keep_alive": None}
    body, set_aside = ordered("/api/embed", sent)
    assert set_aside == ()
    assert body["input"] == ["x"]
    assert "keep_alive" not in body
    assert not {"num_ctx", "num_gpu", "num_thread"} & body["options"].keys()


@pytest.mark.parametrize("keep_alive", ["60m", -1, 300])
def test_a_keep_alive_by_habit_does_no_harm(keep_alive: object) -> None:
    """Moodle's local_ai_manager sends 60m with every request."""
    sent = {"model": "nomic-embed-text", "prompt": "x", "keep_alive": keep_alive}
    body, set_aside = ordered("/api/generate", sent)
    assert set_aside == ("keep_alive",)
    assert "keep_alive" not in body
