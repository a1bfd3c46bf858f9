"""From the site file to the guard's settings: spellings, aliases, classes, bounds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flexi.configs.agent import catalogue_config
from flexi.configs.guard import guard_config
from flexi.plan import build_plan
from flexi.plan.model.site import Plan
from flexi.site import Site, SiteError
from flexi_host.common.fields import ConfigError
from flexi_host.guard.config import GuardConfig

MakeSite = Callable[..., Site]


def settings(site: Site) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(guard_config(build_plan(site))))
    return found


@pytest.mark.parametrize("name", ["hagen", "example", "lab"])
def test_the_guard_reads_what_the_plan_writes(inventory: Callable[[str], Plan], name: str) -> None:
    plan = inventory(name)
    read = GuardConfig.from_json(json.loads(json.dumps(guard_config(plan))))
    assert {model.name for model in read.models.values()} == {backend.model for backend in plan.gateway.backends}
    assert {model.backend for model in read.models.values()} == {backend.name for backend in plan.gateway.backends}
    assert read.hosts == {instance.group: instance.host for instance in plan.instances}
    assert read.classes["default"].options == frozenset()
    assert read.body_limit_bytes == 32 * 2**20


def test_each_spelling_means_the_model(make_site: MakeSite) -> None:
    found = settings(make_site(models="mistral, 'llama3:8b'", more=MISTRAL))["models"]
    assert {name: entry["name"] for name, entry in found.items()} == {
        "mistral": "mistral:latest",
        "mistral:latest": "mistral:latest",
        "llama3:8b": "llama3:8b",
    }


MISTRAL = (
    "models: {mistral: {parameters: 7B, weights_bytes: 4113289152, architecture: llama, layers: 32, heads: 32, "
    "kv_heads: 8, head_dim: 128, embedding_length: 4096, vocabulary: 32768, context: 32768, source: x}}"
)


def test_an_alias_is_another_spelling_for_the_guard_and_no_model_for_the_lists(make_site: MakeSite) -> None:
    site = make_site(gateway_more="aliases: {GPT-4o-mini: 'LLAMA3:8b'}")
    found = settings(site)
    for alias in ("gpt-4o-mini", "gpt-4o-mini:latest"):
        assert found["models"][alias] == found["models"]["llama3:8b"]
    lists = catalogue_config(build_plan(site))
    assert lists["models"] == ["llama3:8b"]
    assert lists["aliases"] == {"gpt-4o-mini:latest": "llama3:8b", "gpt-4o-mini": "llama3:8b"}


@pytest.mark.parametrize(
    ("aliases", "words"),
    [
        ("{gpt-4: 'llama4:8b'}", "did you mean 'llama3:8b'?"),
        ("{gpt-4: 'phi3:3.8b'}", "is in no group"),
        ("{'Llama3:8B': 'llama3:8b'}", "is a model of the site itself"),
        ("{'a b': 'llama3:8b'}", "is no model name"),
        ("{gpt-4: [x]}", "gateway.aliases"),
    ],
)
def test_an_alias_that_means_nothing_is_refused_where_it_stands(make_site: MakeSite, aliases: str, words: str) -> None:
    with pytest.raises(SiteError) as refused:
        make_site(gateway_more=f"aliases: {aliases}")
    (finding,) = refused.value.findings
    assert words in str(finding)
    assert finding.line == 13


def test_where_groups_differ_the_smallest_context_counts(make_site: MakeSite) -> None:
    """What is larger could be refused by one instance that another would have answered: so it always is."""
    more = "groups:\n      b: {gpus: [1], context: 4096, models: ['llama3:8b']}\n"
    site = make_site()
    text = site.path.read_text().replace("gpus: all,", "gpus: [0],").replace("groups:\n", more)
    site.path.write_text(text)
    assert settings_of(site.path)["models"]["llama3:8b"]["context"] == 4096


def settings_of(path: Path) -> dict[str, Any]:
    from flexi.site import load_site

    return settings(load_site(path))


@pytest.mark.parametrize(
    ("rules", "models", "options"),
    [
        ("{}", ["*"], []),
        ("{options: any}", ["*"], ["*"]),
        ("{options: [num_ctx, shift]}", ["*"], ["num_ctx", "shift"]),
        ("{models: ['LLAMA3:8B']}", ["llama3:8b"], []),
    ],
)
def test_what_a_class_may(make_site: MakeSite, rules: str, models: list[str], options: list[str]) -> None:
    found = settings(make_site(gateway_more=f"classes: {{c: {rules}}}"))["classes"]["c"]
    assert found == {"models": models, "options": options}


@pytest.mark.parametrize(
    ("gateway", "site_s", "class_s"),
    [
        ("classes: {c: {}}", 16384, None),
        ("max_answer_tokens: 4096, classes: {c: {}}", 4096, None),
        ("max_answer_tokens: 4096, classes: {c: {max_answer_tokens: 100}}", 4096, 100),
        ("max_answer_tokens: 4096, classes: {c: {max_answer_tokens: 32768}}", 4096, 32768),
    ],
)
def test_the_most_tokens_of_an_answer(make_site: MakeSite, gateway: str, site_s: int, class_s: int | None) -> None:
    """Everyone's but the class's own, the chat's and the health checks' too."""
    read = GuardConfig.from_json(settings(make_site(gateway_more=gateway)))
    assert read.max_answer_tokens == site_s
    assert read.classes["c"].max_answer_tokens == class_s
    assert {read.classes[name].max_answer_tokens for name in ("default", "anonymous", "flexi-health")} == {None}


def test_settings_of_an_earlier_flexi_have_no_ceiling(make_site: MakeSite) -> None:
    """The guard may be asked to read what the last deploy wrote."""
    old = settings(make_site(gateway_more="classes: {c: {max_answer_tokens: 5}}"))
    del old["max_answer_tokens"], old["classes"]["c"]["max_answer_tokens"]
    read = GuardConfig.from_json(old)
    assert (read.max_answer_tokens, read.classes["c"].max_answer_tokens) == (None, None)


@pytest.mark.parametrize("value", [0, -1, 2**31, 1.5, True, "5", None])
def test_a_ceiling_that_is_none_is_refused_by_name(make_site: MakeSite, value: object) -> None:
    found = settings(make_site(gateway_more="classes: {c: {}}"))
    for where, change in (
        ("guard.max_answer_tokens", {"max_answer_tokens": value}),
        (
            "guard.classes.c.max_answer_tokens",
            {"classes": {"c": {"models": ["*"], "options": [], "max_answer_tokens": value}}},
        ),
    ):
        with pytest.raises(ConfigError, match=f"{where}: expected a whole number from 1"):
            GuardConfig.from_json({**found, **change})


def test_the_body_limit_counts_mebibytes_and_bounds_what_is_held(make_site: MakeSite) -> None:
    found = settings(make_site(gateway_more="body_limit: 3"))
    assert found["body_limit_bytes"] == 3 * 2**20
    assert found["bodies_limit_bytes"] >= 4 * found["body_limit_bytes"], "several of the largest fit"
