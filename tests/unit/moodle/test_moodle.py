"""Moodle in the site file and in the plan; what a person is told to enter; whose key it is."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api.exceptions import PyinfraError
from support.fake_host import Fake
from support.site_text import GOOD

from flexi.cli.main import cli
from flexi.inventory import pyinfra_hosts
from flexi.keys.store import KeysStore
from flexi.moodle import provider
from flexi.moodle.steps import Step, steps
from flexi.operations import moodle as moodle_operations
from flexi.plan import build_plan
from flexi.plan.model.moodle import MoodlePlan
from flexi.plan.model.site import Plan
from flexi.site import Site, SiteError, load_site

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
SSH = {"address": "192.0.2.40", "config": "/var/www/moodle/config.php"}


def load(folder: Path, moodle: Mapping[str, Any], gateway: str = "") -> Site:
    path = folder / "uni.yaml"
    section = {"url": "https://moodle.example.edu/lms", "model": "llama3:8b", **moodle}
    path.write_text(f"{GOOD}{gateway}moodle: {json.dumps(section)}\n")
    return load_site(path)


def planned(folder: Path, moodle: Mapping[str, Any], gateway: str = "") -> tuple[Plan, MoodlePlan]:
    plan = build_plan(load(folder, moodle, gateway))
    assert plan.moodle is not None
    return plan, plan.moodle


def names(plan: Plan) -> dict[str, str]:
    return {alias: backend.model for backend in plan.gateway.backends for alias in backend.aliases}


def test_nothing_of_the_gateway_changes_without_plugins(tmp_path: Path) -> None:
    plan, _ = planned(tmp_path, {})
    assert names(plan) == {}
    assert (plan.gateway.cors, plan.gateway.anonymous_paths) == ((), ())


@pytest.mark.parametrize("plugin", ["local_ai_manager", "block_ai_chat", "qbank_questiongen"])
def test_one_switch_gives_plugins_the_names_that_they_insist_on(tmp_path: Path, plugin: str) -> None:
    plan, moodle = planned(tmp_path, {"plugins": [plugin]}, "  aliases: {gpt-4o: 'mistral:7b'}\n")
    # The site file's own alias wins.
    expected = {
        "gemma": "gemma:7b",
        "llama3": "llama3:8b",
        "mistral": "mistral:7b",
        "gpt-4o": "mistral:7b",
        "gpt-4o-mini": "llama3:8b",
    }
    # Each with and without the tag that Ollama takes for granted, and none for two models.
    assert names(plan) == {**expected, **{f"{alias}:latest": model for alias, model in expected.items()}}
    assert len([alias for backend in plan.gateway.backends for alias in backend.aliases]) == 2 * len(expected)
    assert plan.gateway.cors == ()
    assert moodle.aliases == expected


def test_one_switch_opens_what_pages_ask_without_a_key(tmp_path: Path) -> None:
    plan, _ = planned(tmp_path, {"plugins": ["mod_openchat"]}, "  cors: ['https://a.example.edu']\n")
    assert plan.gateway.cors == ("https://a.example.edu", "https://moodle.example.edu")
    assert plan.gateway.anonymous_paths == ("/api/tags", "/api/show")
    assert names(plan) == {}


@pytest.mark.parametrize(
    ("moodle", "words"),
    [
        ({"model": "llama3:70b"}, ("moodle.model", "is in no group")),
        ({"actions": {"explain_text": {"model": "nomic-embed-text"}}}, ("moodle.actions.explain_text.model",)),
        ({"actions": {"generate_image": {}}}, ("moodle.actions",)),
        ({"class": "nobody"}, ("moodle.class", "no class")),
        ({"plugins": ["block_openai_chat"]}, ("moodle.plugins",)),
        ({"url": "moodle.example.edu"}, ("moodle.url",)),
        ({"ssh": {"address": "192.0.2.40", "config": "config.php"}}, ("moodle.ssh.config", "from the root")),
        ({"ssh": {**SSH, "php": "php; rm -rf /"}}, ("moodle.ssh.php",)),
        ({"actions": {"generate_text": {"instruction": "a\u0000b"}}}, ("instruction",)),
        ({"provider": "azure"}, ("moodle.provider",)),
    ],
)
def test_what_does_not_fit_is_a_finding_with_its_line(
    tmp_path: Path, moodle: Mapping[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(SiteError) as refused:
        load(tmp_path, moodle)
    for word in words:
        assert word in str(refused.value)
    assert "uni.yaml:" in str(refused.value)


def test_a_class_that_may_not_use_the_model(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="may not be used by the class few"):
        load(tmp_path, {"class": "few"}, "  classes: {few: {models: ['mistral:7b']}}\n")


# By hand


def shown(todo: tuple[Step, ...]) -> str:
    return "\n".join(f"{step.title}\n{step.fields}\n{step.notes}" for step in todo)


def test_the_steps_have_the_values_filled_in(tmp_path: Path) -> None:
    _, moodle = planned(
        tmp_path,
        {"actions": {"summarise_text": {"model": "mistral:7b", "instruction": "Kurz."}}, "per_user_hour": 30},
        "  tls: {self_signed: true}\n  port: 8443\n",
    )
    text = shown(steps(moodle, "uni", has_key=False))
    for value in (
        "https://flexi.example.edu:8443/v1/chat/completions",
        "'mistral:7b'",
        "Kurz.",
        "yes, 30",
        "a line 8443",
    ):
        assert value in text
    assert "./flexi keys add uni moodle --class default" in text
    assert "Generate text, Explain text, Generate image" in text
    assert "local_ai_manager" not in text
    assert "keys rotate uni moodle" in shown(steps(moodle, "uni", has_key=True))


def test_the_steps_warn_of_the_form_that_sends_no_key(tmp_path: Path) -> None:
    _, moodle = planned(tmp_path, {"provider": "ollama"})
    text = shown(steps(moodle, "uni", has_key=False))
    assert "the key is never sent" in text
    assert "http://flexi.example.edu'" in text


def test_the_steps_name_what_the_plugins_may_choose(tmp_path: Path) -> None:
    _, moodle = planned(tmp_path, {"plugins": ["qbank_questiongen", "mod_openchat"]})
    text = shown(steps(moodle, "uni", has_key=False))
    assert "llama3 (gets llama3:8b)" in text
    assert "gpt-4o (gets llama3:8b)" in text
    assert "http://flexi.example.edu/api/chat" in text
    assert "mod_openchat" in text


@pytest.mark.parametrize("command", ["deploy", "steps"])
def test_a_site_without_a_moodle_says_so(tmp_path: Path, command: str) -> None:
    path = tmp_path / "uni.yaml"
    path.write_text(GOOD)
    with pytest.raises(Exception, match="names no Moodle"):
        cli.main(["moodle", command, str(path)], standalone_mode=False)


def test_without_a_machine_there_is_only_the_hand(tmp_path: Path) -> None:
    load(tmp_path, {})
    with pytest.raises(Exception, match="names no machine"):
        cli.main(["moodle", "deploy", str(tmp_path / "uni.yaml")], standalone_mode=False)


# By Moodle's PHP


def test_moodles_machine_is_none_of_the_sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(tmp_path, {"ssh": SSH})
    # A site may be called like the script.
    (tmp_path / "uni.yaml").rename(tmp_path / "moodle.yaml")
    inventory = tmp_path / "moodle.py"
    monkeypatch.setattr(sys, "argv", ["pyinfra", str(inventory), "deploy.py"])
    assert "192.0.2.40" not in [data["ssh_hostname"] for _, data in pyinfra_hosts(str(inventory))]
    monkeypatch.setattr(sys, "argv", ["pyinfra", str(inventory), "moodle.py"])
    ((name, data),) = pyinfra_hosts(str(inventory))
    assert (name, data["ssh_hostname"]) == ("moodle", "192.0.2.40")
    assert "flexi_host" not in data


def answer(**found: Any) -> list[str]:
    report = {"schema": 1, "moodle": "5.1.3", "changes": [], "key_sha256": None, "problems": [], **found}
    return ["Notice: a plugin says something", json.dumps(report, separators=(",", ":"))]


def test_the_operation_applies_what_the_fact_foretold(tmp_path: Path) -> None:
    _, moodle = planned(tmp_path, {"ssh": SSH})
    for found, predicted, applied in [
        ({}, False, False),
        ({"changes": ["make a key"]}, True, True),
        ({"problems": ["no AI subsystem"]}, True, False),
    ]:
        fake = Fake({"FLEXI_MOODLE_PROVIDER": answer(**found)})
        with nullcontext() if "problems" not in found else pytest.raises(PyinfraError):
            outcome, commands = fake.run(moodle_operations.configure_provider, moodle=moodle)
            assert outcome is predicted
            assert [command for command in commands if '"apply": true' in command] == commands[-1:] * applied
        ran = [str(command) for command in fake.host.connector.executed_commands]
        assert any('"apply": true' in command for command in ran) is applied


def test_no_secret_is_told_and_any_text_survives_the_shell(tmp_path: Path) -> None:
    text = 'it\'s „so“ $HOME `x` \\ "y"\nzwei'
    _, moodle = planned(tmp_path, {"ssh": SSH, "actions": {"generate_text": {"instruction": text}}})
    told = provider.script(moodle, apply=True).partition("<<")[0]
    assert told.count("'") == 2
    assert json.loads(told.split("'")[1])["actions"]["generate_text"]["instruction"] == text


@pytest.mark.parametrize(("lines", "words"), [([], "printed nothing"), (["Parse error", "x at line 3", ""], "line 3")])
def test_a_php_that_dies_is_a_problem(lines: list[str], words: str) -> None:
    assert words in provider.read(lines).problems[0]


# The key


def adopt(site: Site, digest: str, now: datetime = NOW) -> bool:
    with KeysStore(site, now) as store:
        return store.adopt("moodle", digest, "default", purpose="Moodle", keep_old=timedelta(days=1))


def test_the_key_that_moodle_made_is_known_and_the_one_before_for_a_day(tmp_path: Path) -> None:
    site = load(tmp_path, {})
    first, second = "a" * 64, "b" * 64
    assert adopt(site, first)
    assert not adopt(site, first)
    assert adopt(site, second, NOW + timedelta(hours=1))
    (consumer,) = load_site(site.path).consumers
    assert [grant.sha256 for grant in consumer.grants] == [second, first]
    assert consumer.grants[1].expires == int((NOW + timedelta(hours=25)).timestamp())
    (entry,) = load_site(site.path).entries
    assert (entry.name, entry.purpose) == ("moodle", "Moodle")


def test_others_keys_stay_as_they_are(tmp_path: Path) -> None:
    site = load(tmp_path, {})
    with KeysStore(site, NOW) as store:
        store.add("ada")
    before = load_site(site.path).entries
    adopt(site, "a" * 64)
    assert load_site(site.path).entries[0] == before[0]
