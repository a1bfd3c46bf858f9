"""Who may ask what of which model, and what of it an instance gets to see."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from flexi.catalog.ollama import GUARDED_OPTIONS
from flexi.configs.guard import PATHS
from flexi_host.guard.config import ConsumerClass, GuardConfig, Model
from flexi_host.guard.dialect import Refusal, error
from flexi_host.guard.policy import HELD, Order, judge

LLAMA = Model("llama3:8b", "model_llama3_8b", "show_model_llama3_8b", 8192, False)
MISTRAL = Model("mistral:latest", "model_mistral", "show_model_mistral", 4096, False)
CONFIG = GuardConfig(
    inner="/nowhere",
    ledger="/nowhere",
    body_limit_bytes=1000,
    body_timeout_s=5,
    bodies_limit_bytes=10_000,
    retries=2,
    paths=frozenset(PATHS),
    models={
        "llama3:8b": LLAMA,
        "gpt-4o-mini": LLAMA,
        "gpt-4o-mini:latest": LLAMA,
        "mistral": MISTRAL,
        "mistral:latest": MISTRAL,
    },
    classes={
        "default": ConsumerClass(None, frozenset()),
        "course": ConsumerClass(frozenset({"mistral:latest"}), frozenset()),
        "staff": ConsumerClass(None, frozenset({"num_ctx", "keep_alive"})),
        "admins": ConsumerClass(None, None),
        "anonymous": ConsumerClass(None, frozenset()),
    },
    hosts={"a": "server-a"},
)


def ask(body: dict[str, Any] | str, path: str = "/api/chat", rules: str = "default", consumer: str = "moodle") -> Order:
    text = body if isinstance(body, str) else json.dumps(body)
    return judge(CONFIG, path, consumer, rules, text.encode())


def refused(*arguments: Any, **options: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        ask(*arguments, **options)
    return caught.value


def sent(order: Order) -> Any:
    return json.loads(order.body)


SPELLINGS = ["llama3:8b", "LLAMA3:8B", "Llama3:8b", "gpt-4o-mini", "GPT-4o-mini:latest"]
SPELLINGS += ["library/llama3:8b", "registry.ollama.ai/library/llama3:8b", "Registry.Ollama.ai/Library/Llama3:8b"]


@pytest.mark.parametrize("name", SPELLINGS)
def test_each_spelling_goes_to_the_model_by_its_own_name(name: str) -> None:
    order = ask({"messages": [], "model": name})
    assert (order.model, order.backend) == (LLAMA, "model_llama3_8b")
    assert order.body.startswith(b'{"model":"llama3:8b",'), "an instance that reads the first field has it at once"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "llama3"}, 404, "model_not_found"),
        ({"model": "llama3:8b "}, 404, "model_not_found"),
        ({"model": "registry.example.org/library/llama3:8b"}, 404, "model_not_found"),
        ({"model": ""}, 400, "model_missing"),
        ({"model": None}, 400, "model_missing"),
        ({"model": ["llama3:8b"]}, 400, "model_missing"),
        ({"name": "llama3:8b"}, 400, "model_missing"),
        ({}, 400, "model_missing"),
        ('{"model":"llama3:8b","MODEL":"mistral"}', 400, "invalid_json"),
    ],
)
def test_what_cannot_be_routed_is_refused(body: Any, status: int, code: str) -> None:
    refusal = refused(body)
    assert (refusal.status, refusal.code) == (status, code)


def test_an_unknown_name_is_shown_short_and_printable() -> None:
    message = refused({"model": "\x1b[31m\u202e" + "x" * 200}).message
    assert message.isprintable()
    assert len(message) < 160


def test_the_old_name_counts_for_show_alone() -> None:
    order = ask({"name": "mistral", "verbose": True}, path="/api/show")
    assert (order.backend, sent(order)) == ("show_model_mistral", {"model": "mistral:latest", "verbose": True})
    both = ask({"name": "mistral", "model": "llama3:8b"}, path="/api/show")
    assert sent(both) == {"model": "llama3:8b"}, "as ShowHandler: model goes before name (server/routes.go)"


@pytest.mark.parametrize("path", ["/api/pull", "/api/chat/", "/api//chat", "/", "/api/tags", "/v1/models"])
def test_other_paths_are_nobodys(path: str) -> None:
    assert refused({"model": "llama3:8b"}, path=path).status == 404


def test_strangers_may_look_and_nothing_else() -> None:
    assert ask({"model": "mistral"}, path="/api/show", consumer="", rules="anonymous").model is MISTRAL
    for path in set(PATHS) - {"/api/show"}:
        assert refused({"model": "mistral"}, path=path, consumer="", rules="anonymous").status == 401


@pytest.mark.parametrize("name", ["llama3:8b", "gpt-4o-mini", "LLAMA3:8B"])
def test_a_class_keeps_to_its_models_under_every_spelling(name: str) -> None:
    refusal = refused({"model": name}, rules="course")
    assert (refusal.status, refusal.code) == (403, "model_not_allowed")
    assert "mistral:latest" in refusal.message, "it says what is allowed"
    assert ask({"model": "Mistral"}, rules="course").model is MISTRAL


def test_a_class_that_is_not_known_may_nothing() -> None:
    assert refused({"model": "llama3:8b"}, rules="").status == 403
    assert refused({"model": "llama3:8b"}, rules="new").code == "unknown_class"


def test_the_plan_and_the_guard_hold_the_same_options() -> None:
    assert set(GUARDED_OPTIONS) == HELD


EVERYTHING_HELD = {
    "keep_alive": "60m",
    "shift": False,
    "options": {
        "num_ctx": 2048,
        "num_batch": 1,
        "num_gpu": 0,
        "main_gpu": 1,
        "use_mmap": False,
        "num_thread": 64,
        "draft_num_predict": 0,
    },
}


@pytest.mark.parametrize("path", PATHS)
def test_what_would_load_the_model_anew_is_set_aside_and_named(path: str) -> None:
    body = {**EVERYTHING_HELD, "model": "llama3:8b", "prompt": "x", "raw": True}
    body["options"] = {**EVERYTHING_HELD["options"], "temperature": 0}  # type: ignore[dict-item]
    order = ask(body, path=path)
    assert sent(order) == {"model": "llama3:8b", "options": {"temperature": 0}, "prompt": "x", "raw": True}
    wanted = {"keep_alive", "shift", *(f"options.{name}" for name in EVERYTHING_HELD["options"])}  # type: ignore[attr-defined]
    assert set(order.set_aside) == wanted


@pytest.mark.parametrize(
    "text",
    [
        '{"model":"llama3:8b","KEEP_ALIVE":-1,"prompt":"x"}',
        '{"model":"llama3:8b","\u212aeep_alive":-1,"prompt":"x"}',
        '{"model":"llama3:8b","OPTIONS":{"num_gpu":0}}',
        '{"model":"llama3:8b","Option\u017f":{"num_gpu":0}}',
        '{"model":"llama3:8b","options":{"NUM_GPU":0,"num_gpu":0,"Num_Ctx":1}}',
    ],
)
def test_no_spelling_gets_them_past(text: str) -> None:
    order = ask(text)
    assert order.set_aside
    for name in (b"num_gpu", b"num_ctx", b"keep_alive"):
        assert name not in order.body.lower()


def test_a_class_may_have_been_given_some_of_them() -> None:
    order = ask({**EVERYTHING_HELD, "model": "llama3:8b"}, rules="staff")
    assert sent(order) == {"model": "llama3:8b", "keep_alive": "60m", "options": {"num_ctx": 2048}}
    whole = ask({**EVERYTHING_HELD, "model": "llama3:8b"}, rules="admins")
    assert sent(whole) == {"model": "llama3:8b", **EVERYTHING_HELD}
    assert whole.set_aside == ()


def test_a_context_that_is_there_is_enough_and_a_larger_one_is_refused() -> None:
    for tokens in (1, 8192, 8192.0):
        assert "num_ctx" not in sent(ask({"model": "llama3:8b", "options": {"num_ctx": tokens}}))["options"]
    refusal = refused({"model": "llama3:8b", "options": {"num_ctx": 8193}})
    assert (refusal.status, refusal.code) == (403, "option_not_allowed")
    assert "8192 tokens" in refusal.message
    assert refused({"model": "mistral", "options": {"num_ctx": 8192}}).status == 403, "each model has its own"
    for value in (True, "9999999", [1], {}):
        assert refused({"model": "llama3:8b", "options": {"num_ctx": value}}).status == 400


@pytest.mark.parametrize("keep", [0, 0.0, -0.0, "0", "0s", "0m0s", "-0s", "0.0s", "0h", 1e-300])
@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
def test_nobody_unloads_a_model(keep: object, path: str) -> None:
    """`ollama stop` and scripts: no prompt, keep_alive 0 (server/routes.go, GenerateHandler and ChatHandler)."""
    refusal = refused({"model": "llama3:8b", "keep_alive": keep}, path=path)
    assert (refusal.status, refusal.code) == (403, "option_not_allowed")
    assert ask({"model": "llama3:8b", "keep_alive": keep}, path=path, rules="staff").model is LLAMA


@pytest.mark.parametrize("keep", [0, -1, "60m", "-1m", None, True, "nonsense"])
def test_with_a_prompt_a_keep_alive_does_no_harm(keep: object) -> None:
    order = ask({"model": "llama3:8b", "keep_alive": keep, "prompt": "x"}, path="/api/generate")
    assert sent(order) == {"model": "llama3:8b", "prompt": "x"}


@pytest.mark.parametrize(
    ("path", "stream", "streams"),
    [
        ("/api/generate", None, True),
        ("/api/chat", False, False),
        ("/api/embed", None, False),
        ("/v1/chat/completions", None, False),
        ("/v1/chat/completions", True, True),
    ],
)
def test_whether_an_answer_streams(path: str, stream: bool | None, streams: bool) -> None:
    body = {"model": "llama3:8b"} if stream is None else {"model": "llama3:8b", "stream": stream}
    assert ask(body, path=path).stream is streams


def test_refusals_speak_the_dialect_of_their_path() -> None:
    refusal = Refusal(404, "model_not_found", "model 'x' not found")
    assert error("/api/chat", refusal) == {"error": "model 'x' not found"}
    wanted = {"message": "model 'x' not found", "type": "not_found_error", "param": None, "code": "model_not_found"}
    assert error("/v1/chat/completions", refusal) == {"error": wanted}
    assert error("/v1/messages", refusal) == {
        "type": "error",
        "error": {"type": "not_found_error", "message": "model 'x' not found"},
    }


def test_a_path_that_the_site_has_not_is_not_there() -> None:
    config = replace(CONFIG, paths=frozenset({"/api/chat"}))
    with pytest.raises(Refusal) as caught:
        judge(config, "/v1/responses", "moodle", "default", b'{"model":"mistral"}')
    assert caught.value.status == 404
