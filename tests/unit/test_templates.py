"""Every template is strict, and the gateway's and firewall's say what the plan says."""

from __future__ import annotations

import re

import jinja2
import pytest

from flexi.paths import ROOT
from flexi.plan.model import Backend, BackendServer, Consumer, FirewallRule, GatewayPlan, Grant, LedgerPlan
from flexi.rendering import render

TEMPLATES = sorted(path.relative_to(ROOT / "templates") for path in (ROOT / "templates").rglob("*.j2"))


@pytest.mark.parametrize("template", TEMPLATES, ids=str)
def test_a_missing_value_is_an_error(template: object) -> None:
    with pytest.raises(jinja2.UndefinedError):
        render(str(template))


GATEWAY = GatewayPlan(
    host="gateway",
    address="192.0.2.1",
    name="flexi.example.org",
    port=8080,
    catalogue_port=11432,
    metrics_port=8405,
    ledger=LedgerPlan(port=8406, socket="/run/flexi-ledger/ledger.sock", retention_days=7, usage_days=400),
    max_connections=1000,
    queue_length=20,
    body_limit_bytes=2**20,
    guard_sockets=("/run/flexi-guard/1.sock", "/run/flexi-guard/2.sock"),
    inner_socket="/run/haproxy/flexi-inner.sock",
    timeout_s=600,
    queue_timeout_s=60,
    anonymous_paths=("/api/tags",),
    backends=(
        Backend(
            name="model_llama3_8b",
            model="llama3:8b",
            names=("llama3:8b",),
            context=8192,
            embedding=False,
            servers=(
                BackendServer(
                    name="a", group="a", address="192.0.2.2", port=11434, agent_port=11433, max_connections=4
                ),
                BackendServer(
                    name="b", group="b", address="192.0.2.3", port=11435, agent_port=11433, max_connections=2
                ),
            ),
        ),
    ),
    consumers=(Consumer(name="moodle", class_name="default", grants=(Grant(sha256="ab" * 32),)),),
)


def haproxy(gateway: GatewayPlan = GATEWAY) -> str:
    return render("gateway/haproxy.cfg.j2", gateway=gateway, maps="/etc/haproxy/flexi")


def test_each_server_takes_what_its_instance_runs_at_once() -> None:
    servers = re.findall(
        r"^    server (\S+) (\S+) check maxconn (\d+) agent-port (\d+) agent-send (.*)$", haproxy(), re.M
    )
    assert servers == [
        ("a", "192.0.2.2:11434", "4", "11433", r'"a llama3:8b\n"'),
        ("b", "192.0.2.3:11435", "2", "11433", r'"b llama3:8b\n"'),
    ]


def test_without_anonymous_paths_nothing_is_anonymous() -> None:
    config = haproxy(GATEWAY.model_copy(update={"anonymous_paths": ()}))
    assert "is_anonymous" not in config
    assert "is_anonymous" in haproxy()


def test_no_key_is_in_a_map_or_the_configuration() -> None:
    keys = render("gateway/keys.map.j2", consumers=GATEWAY.consumers)
    assert f"{'ab' * 32} moodle:default" in keys.splitlines()
    assert "moodle" not in haproxy()


def test_firewall_rules_by_address_family() -> None:
    rules = (
        FirewallRule(port=22, sources=(), purpose="SSH"),
        FirewallRule(port=11434, sources=("192.0.2.1", "2001:db8::/32", "198.51.100.0/24"), purpose="Ollama"),
    )
    lines = [line.strip() for line in render("firewall/firewall.nft.j2", rules=rules).splitlines()]
    assert 'tcp dport 22 accept comment "SSH"' in lines
    assert 'ip saddr { 192.0.2.1, 198.51.100.0/24 } tcp dport 11434 accept comment "Ollama"' in lines
    assert 'ip6 saddr { 2001:db8::/32 } tcp dport 11434 accept comment "Ollama"' in lines
    assert not [line for line in lines if line.startswith("tcp dport 11434")], "the Ollama port is open to everyone"
