"""How many tokens an answer may have: by which name an instance is told, and which spelling would get around it.

What Ollama reads: openai/openai.go, openai/responses.go, anthropic/anthropic.go, api/types.go (FromMap) at v0.24.0. The
test reads an order as Go would, with its own small reader, so that it does not repeat the guard's.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_guard_policy import CONFIG, LLAMA

from flexi_host.guard.config import ConsumerClass
from flexi_host.guard.dialect import Refusal
from flexi_host.guard.policy import Order, judge

CEILING, CONTEXT = 1000, LLAMA.context
SITE = replace(
    CONFIG,
    max_answer_tokens=CEILING,
    classes={
        "default": ConsumerClass(None, frozenset()),
        "brief": ConsumerClass(None, frozenset(), max_answer_tokens=20),
        "long": ConsumerClass(None, frozenset(), max_answer_tokens=1_000_000),
        "admins": ConsumerClass(None, None, max_answer_tokens=1_000_000),
    },
)
UNBOUNDED = math.inf
QUESTIONS: dict[str, dict[str, Any]] = {
    "/api/generate": {"prompt": "x"},
    "/api/chat": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/completions": {"prompt": "x"},
    "/v1/responses": {"input": "x"},
    "/v1/messages": {"messages": [{"role": "user", "content": "x"}]},
}
NATIVE = ("/api/generate", "/api/chat")
OPENAI = ("/v1/chat/completions", "/v1/completions", "/v1/responses")


def read_by_ollama(path: str, body: bytes) -> float:
    """The most tokens that 0.24.0 would write for `body`; UNBOUNDED where the request does not bound them."""
    fields = json.loads(body)
    if path in NATIVE:
        value = (fields.get("options") or {}).get("num_predict", -1)
    else:
        value = fields.get("max_output_tokens" if path == "/v1/responses" else "max_tokens")
        # *int in Go: whole numbers or null, anything else is refused.
        assert value is None or type(value) is int
    return UNBOUNDED if value is None or int(value) <= 0 else int(value)


def ask(path: str, more: dict[str, Any] | str, rules: str = "default", config: Any = SITE) -> Order:
    whole = {"model": "llama3:8b", **QUESTIONS[path]}
    text = json.dumps(whole)[:-1] + ", " + more + "}" if isinstance(more, str) else json.dumps({**whole, **more})
    return judge(config, path, "moodle", rules, text.encode())


def bound(path: str, more: dict[str, Any] | str, rules: str = "default", config: Any = SITE) -> float:
    return read_by_ollama(path, ask(path, more, rules, config).body)


def named(path: str, tokens: object) -> dict[str, Any]:
    """A bound by the name that the API has for it."""
    if path in NATIVE:
        return {"options": {"num_predict": tokens}}
    return {"max_output_tokens" if path == "/v1/responses" else "max_tokens": tokens}


@pytest.mark.parametrize("config", [SITE, CONFIG], ids=["ceiling", "no ceiling"])
@pytest.mark.parametrize("stream", [True, False])
def test_max_completion_tokens_reaches_the_instance(config: Any, stream: bool) -> None:
    """langchain-openai 1.7.3 sends it for `max_tokens` (ChatOpenAI._get_request_payload)."""
    order = ask("/v1/chat/completions", {"max_completion_tokens": 5, "stream": stream}, config=config)
    assert read_by_ollama("/v1/chat/completions", order.body) == 5
    assert b"max_completion_tokens" not in order.body, "a release that reads both would have to choose"
    assert order.answer_limit is None, "nothing was lowered"


@pytest.mark.parametrize("path", QUESTIONS)
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict"])
def test_a_bound_counts_under_the_names_of_other_apis(path: str, name: str) -> None:
    assert bound(path, {name: 7}) == 7
    assert bound(path, {"options": {"num_predict": 7}, name: 9}) == 7


@pytest.mark.parametrize(
    ("more", "tokens"),
    [
        ({"max_tokens": 100, "max_completion_tokens": 5}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 100}, 5),
        ({"max_tokens": None, "max_completion_tokens": 5}, 5),
        ({"max_tokens": 5, "max_completion_tokens": None}, 5),
        ({"max_tokens": 5, "max_completion_tokens": -1}, 5),
        ({"max_tokens": 0, "max_completion_tokens": 5000}, CEILING),
    ],
)
def test_of_two_bounds_the_smaller_keeps_to_both(more: dict[str, Any], tokens: int) -> None:
    """OpenAI itself refuses the two at once (invalid_parameter_combination; langchain-ai/langgraph#5943)."""
    assert bound("/v1/chat/completions", more) == tokens


@pytest.mark.parametrize("path", [path for path in QUESTIONS if path != "/v1/messages"])
@pytest.mark.parametrize("asked", [None, -1, -2, -3, 0, 0.0, -0.0, 0.5, -0.5, -1e300, -(10**300)])
def test_an_answer_without_a_bound_has_the_sites(path: str, asked: object) -> None:
    """-1 and -2 are ten times the context and 0 has no end in 0.24.0 (llm/server.go, runner/ollamarunner/runner.go); a
    fraction is cut to its whole part (FromMap)."""
    order = ask(path, named(path, asked))
    assert read_by_ollama(path, order.body) == CEILING
    assert order.answer_limit == CEILING
    assert bound(path, {}) == CEILING
    assert bound(path, {"options": None}) == CEILING


@pytest.mark.parametrize("path", QUESTIONS)
@pytest.mark.parametrize("asked", [CEILING + 1, 5000.0, 1e6, 1e300, 2**31, 2**63, 2**64 + 1, 10**300])
def test_what_is_asked_above_the_ceiling_is_lowered_and_said(path: str, asked: float) -> None:
    order = ask(path, named(path, asked))
    assert read_by_ollama(path, order.body) == CEILING
    assert order.answer_limit == CEILING


@pytest.mark.parametrize("path", QUESTIONS)
@pytest.mark.parametrize(("asked", "tokens"), [(1, 1), (5, 5), (5.0, 5), (5.9, 5), (CEILING, CEILING)])
def test_what_is_asked_below_the_ceiling_stays(path: str, asked: float, tokens: int) -> None:
    order = ask(path, named(path, asked))
    assert read_by_ollama(path, order.body) == tokens
    assert order.answer_limit is None


@pytest.mark.parametrize("path", QUESTIONS)
@pytest.mark.parametrize("asked", [True, False, "5", "", "-1", [5], {}, {"a": 1}])
def test_what_is_no_number_is_refused(path: str, asked: object) -> None:
    with pytest.raises(Refusal) as caught:
        ask(path, named(path, asked))
    assert (caught.value.status, caught.value.code) == (400, "option_invalid")
    assert "must be a number of tokens" in caught.value.message


@pytest.mark.parametrize("path", NATIVE)
@pytest.mark.parametrize("options", ["[]", '"x"', "5", "true", '[["num_predict", -1]]'])
def test_options_that_are_no_object_are_refused(path: str, options: str) -> None:
    with pytest.raises(Refusal) as caught:
        ask(path, f'"options": {options}')
    assert caught.value.status == 400


@pytest.mark.parametrize("more", [{}, {"max_tokens": None}, {"max_tokens": 0}, {"max_tokens": -1}, {"max_tokens": 0.5}])
def test_anthropics_api_needs_a_bound(more: dict[str, Any]) -> None:
    """The words of middleware/anthropic.go, AnthropicMessagesMiddleware."""
    with pytest.raises(Refusal) as caught:
        ask("/v1/messages", more)
    assert (caught.value.status, caught.value.message) == (400, "max_tokens is required and must be positive")


@pytest.mark.parametrize("path", QUESTIONS)
def test_a_class_has_a_ceiling_of_its_own(path: str) -> None:
    assert bound(path, named(path, 500), "brief") == 20
    assert bound(path, named(path, 5000), "long") == 5000
    if path != "/v1/messages":
        assert bound(path, {}, "brief") == 20


@pytest.mark.parametrize("path", QUESTIONS)
def test_no_answer_gets_more_than_the_models_context(path: str) -> None:
    order = ask(path, named(path, 900_000), "long")
    assert read_by_ollama(path, order.body) == order.answer_limit == CONTEXT


def test_who_may_set_the_context_gets_answers_that_fill_it() -> None:
    for path in NATIVE:
        assert bound(path, {"options": {"num_ctx": 50_000, "num_predict": -1}}, "admins") == 50_000
        assert bound(path, {"options": {"num_ctx": True}}, "admins") == CONTEXT
        assert bound(path, {"options": {"num_ctx": 1e300}}, "admins") == CONTEXT
        assert bound(path, {"options": {"num_ctx": 4096}}) == CEILING, "set aside for others"
    assert bound("/v1/chat/completions", {"options": {"num_ctx": 50_000}}, "admins") == CONTEXT, "not read there"


SPELLINGS = [
    '"Max_Tokens": 900000',
    '"MAX_TOKENS": -1',
    '"max_token\u017f": 900000',
    '"max_to\u212aens": 900000',
    '"max_to\\u212aens": 900000',
    '"ma\\u0078_tokens": 900000',
    '"Max_Completion_Tokens": 900000',
    '"max_completion_to\u212aen\u017f": 900000',
    '"MAX_OUTPUT_TOKENS": 900000',
    '"NUM_PREDICT": -1',
    '"options": {"NUM_PREDICT": -1}',
    '"options": {"Num_Predict": 900000}',
    '"options": {"num_predict": -1}',
    '"Option\u017f": {"num_predict": -1}',
    '"OPTIONS": {"num_predict": 900000, "NUM_PREDICT": 900000}',
    '"options": {"num\\u005fpredict": 9e5}',
    '"max_tokens": 9e5',
    '"max_tokens": 900000.0',
    '"max_tokens": 1e300',
    '"max_tokens": -0',
]


@pytest.mark.parametrize("path", QUESTIONS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_spelling_gets_around_the_ceiling(path: str, spelling: str) -> None:
    if path == "/v1/messages" and (": -1" in spelling or ": -0" in spelling):
        with pytest.raises(Refusal):
            ask(path, spelling)
        return
    order = ask(path, spelling)
    assert read_by_ollama(path, order.body) == CEILING
    fields = json.loads(order.body)
    assert len({key.casefold() for key in fields}) == len(fields)
    assert sum("tokens" in key.casefold() or "predict" in key.casefold() for key in fields) == (path not in NATIVE)


@pytest.mark.parametrize("path", QUESTIONS)
@pytest.mark.parametrize(
    "text",
    [
        '"max_tokens": 5, "Max_Tokens": -1',
        '"max_tokens": 5, "max_tokens": -1',
        '"max_tokens": 5, "max_to\u212aens": -1',
        '"options": {"num_predict": 5, "num_predict": -1}',
        '"options": {"num_predict": 5}, "option\u017f": {"num_predict": -1}',
        '"max_tokens": 1e400',
        '"max_tokens": 0x10',
        '"max_tokens": 05',
        '"max_tokens": NaN',
        '"options": {"num_predict": -Infinity}',
    ],
)
def test_a_bound_that_two_readers_read_in_two_ways_is_refused(path: str, text: str) -> None:
    with pytest.raises(Refusal) as caught:
        ask(path, text)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/generate", {"prompt": ""}),
        ("/api/generate", {"prompt": None}),
        ("/api/generate", {}),
        ("/api/chat", {"messages": []}),
        ("/api/chat", {"messages": None}),
        ("/api/chat", {}),
        ("/api/embed", {"input": "x", "options": {"temperature": 0}}),
        ("/api/embeddings", {"prompt": "x"}),
        ("/v1/embeddings", {"input": "x"}),
        ("/api/show", {"verbose": True}),
    ],
)
def test_what_writes_no_answer_is_left_alone(path: str, body: dict[str, Any]) -> None:
    """Without a prompt, or a message, a model is loaded and nothing written (server/routes.go)."""
    order = judge(SITE, path, "moodle", "default", json.dumps({"model": "llama3:8b", **body}).encode())
    assert json.loads(order.body) == {"model": "llama3:8b", **body}
    assert order.answer_limit is None


@pytest.mark.parametrize("path", QUESTIONS)
@pytest.mark.parametrize("asked", [7, -1, 0])
def test_a_site_without_a_ceiling_leaves_the_bound(path: str, asked: int) -> None:
    order = ask(path, named(path, asked), config=CONFIG)
    assert json.loads(order.body) == {"model": "llama3:8b", **QUESTIONS[path], **named(path, asked)}
    assert order.answer_limit is None


def test_the_rest_of_a_request_stays_as_it_was() -> None:
    options = {"temperature": 0, "stop": ["a"], "num_predict": 5000}
    sent = json.loads(ask("/api/chat", {"options": options, "think": True, "format": {"max_tokens": 9}}).body)
    assert sent["options"] == {**options, "num_predict": CEILING}
    assert (sent["think"], sent["format"]) == (True, {"max_tokens": 9})


_NAMES = ["max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict", "options", "num_ctx", "x"]
_letters = {"s": "s\u017fS", "k": "k\u212aK"}


def _respelled(name: str) -> st.SearchStrategy[str]:
    return st.tuples(*[st.sampled_from(_letters.get(c, c + c.upper())) for c in name]).map("".join)


_names = st.sampled_from(_NAMES).flatmap(_respelled)
_values = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.just("5")
_bodies = st.lists(
    st.tuples(_names, _values | st.lists(st.tuples(_names, _values), max_size=3)), max_size=4, unique_by=lambda p: p[0]
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(QUESTIONS)), _bodies, st.sampled_from(["default", "brief", "long"]))
def test_no_body_gets_more_than_the_ceiling(path: str, members: list[tuple[str, Any]], rules: str) -> None:
    more = {key: dict(value) if isinstance(value, list) else value for key, value in members}
    try:
        order = ask(path, more, rules)
    except Refusal:
        return
    most = {"default": CEILING, "brief": 20, "long": CONTEXT}[rules]
    assert 1 <= read_by_ollama(path, order.body) <= most
