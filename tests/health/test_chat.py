"""The chat as its users meet it at the gateway, and its own way to the models."""

from __future__ import annotations

import json

import pytest
from subjects import Hosts
from testinfra.host import Host

from flexi.components.chat import SECRETS
from flexi.components.chat_programs import chat_program
from flexi.configs.courses import courses_config
from flexi.configs.gateway import curl_here
from flexi.facts.chat import COURSES, CourseBots
from flexi.facts.releases import ChatReleases
from flexi.operations import courses
from flexi.plan.model.site import Plan
from flexi_chat.courses.wanted import difference


@pytest.fixture
def front(plan: Plan, hosts: Hosts) -> Host:
    return hosts[plan.gateway.host]


def ask(front: Host, plan: Plan, path: str) -> tuple[int, str]:
    """Status and body, asked for as a browser would: by the chat's name, at the port that users reach."""
    assert plan.chat is not None
    answer = front.run(f"curl -sS -m 30 -w '\\n%{{http_code}}' {curl_here(plan.gateway, path, plan.chat)}")
    assert answer.rc == 0, f"the gateway does not answer for it: {answer.stderr.strip()}"
    text, _, status = answer.stdout.rpartition("\n")
    return int(status), text.strip()


def test_page(chat: str, plan: Plan, front: Host) -> None:
    """{chat} answers through the gateway, in the site's name"""
    assert plan.chat is not None
    status, text = ask(front, plan, "/api/config")
    assert status == 200, f"status {status}: {text[:200]}"
    config = json.loads(text)
    assert config["name"].startswith(plan.chat.title), f"it calls itself {config['name']}"
    assert config["version"] == plan.chat.version, f"it is Open WebUI {config['version']}"
    assert not config["features"]["enable_signup"], "anybody may register"


def test_nobody_without_an_account(chat: str, plan: Plan, front: Host) -> None:
    """{chat} shows nothing to who has not signed in"""
    for path in ("/api/models", "/api/v1/chats/", "/ollama/api/tags"):
        status, text = ask(front, plan, path)
        assert status in (401, 403), f"{path} answers {status}: {text[:100]}"


def test_models(chat: str, plan: Plan, hosts: Hosts) -> None:
    """{chat} reaches the models, with a key that the gateway knows"""
    assert plan.chat is not None
    here = plan.host(plan.chat.host).chat
    assert here is not None
    # The key travels over standard input, into no argument.
    key = f"sed -n 's/^RAG_OLLAMA_API_KEY=/Authorization: Bearer /p' {SECRETS}"
    answer = hosts[plan.chat.host].run(
        f"{key} | curl -sS -m 30 -w '\\n%{{http_code}}' -H @- {here.gateway_url}/api/tags"
    )
    text, _, status = answer.stdout.rpartition("\n")
    assert status == "200", f"status {status or answer.stderr.strip()}: {text[:200]}"
    listed = {model["name"] for model in json.loads(text)["models"]}
    missing = sorted(set(plan.chat.models) - listed)
    assert not missing, f"the gateway does not list {', '.join(missing)}"


def test_release(chat: str, plan: Plan, hosts: Hosts) -> None:
    """{chat} runs the planned release with the planned settings"""
    assert plan.chat is not None
    here = plan.host(plan.chat.host).chat
    assert here is not None
    target = hosts[plan.chat.host]
    current = target.file(f"{ChatReleases.root}/current").linked_to.rsplit("/", 1)[-1]
    assert current == here.release, f"{current} is current, planned is {here.release}"
    # What is asked for and no more: the others are secrets, which never leave their host.
    names = "|".join(name for name, _ in here.environment)
    process = "$(systemctl show -p MainPID --value flexi-chat.service)"
    running = target.check_output(f"grep -zE '^({names})=' /proc/{process}/environ | tr '\\0' '\\n'")
    written = [f"{name}={value}" for name, value in here.environment]
    others = sorted(set(written) - set(running.splitlines()))
    assert not others, f"it runs with other settings than the site's: {others[0].partition('=')[0]}; deploy"


def test_course_bots(chat: str, plan: Plan, hosts: Hosts) -> None:
    """{chat} has each course bot with all its material, for those who may use it"""
    assert plan.chat is not None
    answer = hosts[plan.chat.host].run(chat_program(COURSES, "--url", plan.chat.inside_url, "state"))
    found = CourseBots().process(answer.stdout.splitlines())
    assert found is not None, f"it does not say what bots it has: {(answer.stdout or answer.stderr).strip()[:200]}"
    steps = difference(courses_config(plan.chat, courses.digests(plan.chat.courses)), found)
    assert not steps, f"a deploy would {steps[0]}" + (f", and {len(steps) - 1} things more" if steps[1:] else "")
