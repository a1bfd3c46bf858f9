"""`chat:` in a site file: what is refused, where, and what follows from what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexi.health import expectations
from flexi.plan import build_plan
from flexi.plan.build.needs import package_set
from flexi.probe import PROBE
from flexi.site import SiteError, load_site

SITE = """\
site: {name: test}
ssh: {user: admin}
hosts:
  one:
    address: 192.0.2.1
    gpus: {model: RTX A5000, count: 4}
    groups:
      a: {gpus: all, models: [gemma:7b, llama3:8b, nomic-embed-text]}
  two: {address: 192.0.2.2}
  three: {address: 192.0.2.3}
gateway: {host: two, name: flexi.example.edu}
chat:
  host: three
  name: chat.example.edu
"""
THREE = "  three: {address: 192.0.2.3}\n"


def site_file(directory: Path, text: str) -> Path:
    path = directory / "test.yaml"
    path.write_text(text)
    return path


# (the line of `chat:` that is added or replaced, path, words of the message)
WRONG = {
    "no such host": ("  host: threee", "chat.host", "did you mean 'three'?"),
    "the gateway's name": ("  name: flexi.example.edu", "chat.name", "is gateway.name too"),
    "an unknown release": ("  version: 0.12.2", "chat.version", "did you mean '0.12.4'?"),
    "no version": ("  version: latest", "chat.version", "is no version of Open WebUI"),
    "a model of no group": ("  models: [llama3:70b]", "chat.models[0]", "did you mean 'llama3:8b'?"),
    "one that cannot talk": ("  task_model: nomic-embed-text", "chat.task_model", "makes embeddings only"),
    "one that cannot embed": ("  embedding_model: gemma:7b", "chat.embedding_model", "is no embedding model"),
    "a default that is not offered": (
        "  models: [gemma:7b]\n  default_model: llama3:8b",
        "chat.default_model",
        "write one of gemma:7b",
    ),
    "workers on SQLite": ("  workers: 2", "chat.workers", "set database: postgresql"),
    "a database nobody uses": ("  database_url: {file: x}", "chat.database_url", "does not go with sqlite"),
    "no secret": ("  database: postgresql\n  database_url: {}", "chat.database_url", "names no secret"),
    "two secrets": (
        "  database: postgresql\n  database_url: {file: x, command: y}",
        "chat.database_url",
        "names two secrets",
    ),
    "an agreement without a text": ("  agreement: {version: a}", "chat.agreement", "has no text"),
    "passwords behind Apache": (
        "  sign_in: {trusted_headers: {apache: x.conf}}",
        "chat.sign_in.trusted_headers",
        "set sign_in.local: false",
    ),
    "no way in": ("  sign_in: {local: false}", "chat.sign_in", "lets nobody in"),
    "no recipient": ("  backup: {recipients: [age1xyz]}", "chat.backup.recipients[0]", "is no public key of age"),
    "the API's port": ("  port: 80", "chat.port", "is taken by the API"),
    "a port of flexi's": ("  port: 8405", "chat.port", "is taken by HAProxy's metrics"),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG.keys())
def test_what_does_not_go_is_refused(tmp_path: Path, case: tuple[str, str, str]) -> None:
    added, path, words = case
    key = added.split(":")[0]
    lines = [line for line in SITE.splitlines() if not line.startswith(f"{key}:")]
    with pytest.raises(SiteError) as caught:
        load_site(site_file(tmp_path, "\n".join([*lines, added]) + "\n"))
    (finding,) = (finding for finding in caught.value.findings if finding.path == path)
    assert finding.line >= len(lines)
    assert words in str(finding)


def test_a_bundle_has_no_packages_for_it(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match=r"chat needs Python packages.*set mirrors\.pypi"):
        load_site(site_file(tmp_path, SITE + "mirrors: {bundle: ./bundle}\n"))
    load_site(site_file(tmp_path, SITE + "mirrors: {bundle: ./bundle, pypi: https://mirror.example.edu/simple}\n"))


def test_what_follows_from_little(tmp_path: Path) -> None:
    plan = build_plan(load_site(site_file(tmp_path, SITE)))
    chat = plan.chat
    assert chat is not None
    assert (chat.url, chat.own_port) == ("http://chat.example.edu", False)
    assert chat.models == ("gemma:7b", "llama3:8b")
    assert (chat.default_model, chat.task_model) == ("gemma:7b", "gemma:7b")
    assert chat.embedding_model == "nomic-embed-text:latest"
    # Not the gateway's host: the gateway comes to it, and it to the gateway.
    assert chat.address == "192.0.2.3"
    here = plan.host("three")
    assert here.chat is not None
    assert here.chat.gateway_url == "http://192.0.2.2:80"
    assert [(rule.port, rule.sources) for rule in here.firewall.rules] == [(22, ()), (8095, ("192.0.2.2",))]
    assert [rule.name for rule in plan.gateway.classes][-1] == "flexi-chat"


def test_beside_the_gateway_nothing_is_opened_for_it(tmp_path: Path) -> None:
    text = SITE.replace("  host: three", "  host: two\n  port: 8080").replace("  three: {address: 192.0.2.3}\n", "")
    plan = build_plan(load_site(site_file(tmp_path, text)))
    assert plan.chat is not None
    assert (plan.chat.address, plan.chat.url) == ("127.0.0.1", "http://chat.example.edu:8080")
    here = plan.host("two")
    assert here.chat is not None
    assert here.chat.gateway_url == "http://127.0.0.1:8094"
    assert [rule.port for rule in here.firewall.rules] == [22, 80, 8080]


def test_a_site_without_a_chat_has_nothing_of_it(tmp_path: Path) -> None:
    text = SITE.split("chat:")[0].replace("  three: {address: 192.0.2.3}\n", "")
    plan = build_plan(load_site(site_file(tmp_path, text)))
    assert plan.chat is None
    assert all(host.chat is None and "chat" not in host.roles for host in plan.hosts)
    assert "flexi-chat" not in [rule.name for rule in plan.gateway.classes]


def test_a_chat_elsewhere_is_let_through_to_the_api(tmp_path: Path) -> None:
    """Once: nftables takes no address beside a network that holds it."""
    gateway = "name: flexi.example.edu, allow_from: [198.51.100.0/24]"
    text = SITE.replace("name: flexi.example.edu", gateway)
    for site, sources in (
        (text, ("198.51.100.0/24", "192.0.2.3")),
        (text.replace("host: three", "host: two").replace(THREE, ""), ("198.51.100.0/24",)),
        (text.replace("198.51.100.0/24", "192.0.2.0/24"), ("192.0.2.0/24",)),
    ):
        plan = build_plan(load_site(site_file(tmp_path, site)))
        assert [rule.sources for rule in plan.host("two").firewall.rules if rule.port == 80] == [sources]


def test_a_chat_elsewhere_needs_a_certificate_that_is_trusted(tmp_path: Path) -> None:
    text = SITE.replace("name: flexi.example.edu", "name: flexi.example.edu, tls: {self_signed: true}")
    with pytest.raises(SiteError) as caught:
        load_site(site_file(tmp_path, text))
    (finding,) = caught.value.findings
    assert (finding.path, finding.value) == ("chat.host", "'three'")
    load_site(site_file(tmp_path, text.replace("host: three", "host: two").replace(THREE, "")))


def test_apache_is_asked_for_where_it_says_who_comes(tmp_path: Path) -> None:
    behind = SITE + "  sign_in: {local: false, trusted_headers: {apache: x.conf}}\n"
    for text, wanted in ((SITE, False), (behind, True)):
        here = build_plan(load_site(site_file(tmp_path, text))).host("three")
        assert ("apache2" in package_set(here).packages) is wanted
        assert ("flexi-chat-front.service" in expectations.units(here)) is wanted
    assert " flexi-chat-front.service " in PROBE


def test_what_the_chat_needs_is_expected_to_run(tmp_path: Path) -> None:
    more = "  workers: 2\n  database: postgresql\n"
    always = ["flexi-firewall.service", "flexi-chat.service", "flexi-chat-cleaning.timer", "flexi-courses.timer"]
    for text, units in ((SITE, []), (SITE + more, ["postgresql.service", "flexi-chat-redis.service"])):
        here = build_plan(load_site(site_file(tmp_path, text))).host("three")
        assert expectations.units(here) == [*always, *units]
        assert all(f" {unit} " in PROBE for unit in units + always)
