"""A second gateway: what each of the two is told, and who may reach whom."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexi.plan import build_plan
from flexi.plan.model.gateway import FailoverPlan
from flexi.plan.model.site import Plan
from flexi.site import SiteError, load_site

SITE = """\
site: {{name: pair}}
ssh: {{user: admin}}
hosts:
  one:
    address: 192.0.2.1
    gpus: {{model: RTX A5000, count: 1}}
    groups:
      a: {{gpus: all, models: ['llama3:8b']}}
  two: {{address: 192.0.2.2}}
  three: {{address: 192.0.2.3}}
gateway: {{host: two, name: flexi.example.edu, {more}}}
"""
PAIR = "standby: three, floating_address: 192.0.2.9"


def plan_with(directory: Path, more: str) -> Plan:
    path = directory / "pair.yaml"
    path.write_text(SITE.format(more=more))
    return build_plan(load_site(path))


@pytest.fixture
def pair(tmp_path: Path) -> Plan:
    return plan_with(tmp_path, PAIR)


def test_users_reach_the_floating_address(pair: Plan) -> None:
    assert pair.gateway.hosts == ("two", "three")
    assert pair.gateway.url == "http://192.0.2.9"
    origins = dict(pair.instances[0].environment)["OLLAMA_ORIGINS"]
    assert "http://192.0.2.9" in origins.split(",")


def test_each_knows_the_other(pair: Plan) -> None:
    first, standby = pair.host("two").gateway, pair.host("three").gateway
    assert first is not None
    assert standby is not None
    assert [(peer.name, peer.address) for peer in first.peers] == [("two", "192.0.2.2"), ("three", "192.0.2.3")]
    assert standby.peers == first.peers
    assert first.failover == FailoverPlan(
        address="192.0.2.9", own_address="192.0.2.2", peer_address="192.0.2.3", priority=150, router_id=51
    )
    assert standby.failover == FailoverPlan(
        address="192.0.2.9", own_address="192.0.2.3", peer_address="192.0.2.2", priority=100, router_id=51
    )
    assert "keepalived" in first.packages


def test_instances_let_both_in_and_gateways_each_other(pair: Plan) -> None:
    rules = pair.host("one").firewall.rules
    assert {rule.sources for rule in rules if rule.purpose != "SSH"} == {("192.0.2.2", "192.0.2.3")}
    assert pair.host("one").firewall.vrrp_from == ()
    for name, other in (("two", "192.0.2.3"), ("three", "192.0.2.2")):
        firewall = pair.host(name).firewall
        assert firewall.vrrp_from == (other,)
        peers = pair.host(name).gateway
        assert peers is not None
        assert [rule.sources for rule in firewall.rules if rule.port == peers.peers_port] == [(other,)]


def test_one_gateway_shares_nothing_and_tells_itself(tmp_path: Path) -> None:
    path = tmp_path / "pair.yaml"
    path.write_text(SITE.format(more="").replace("  three: {address: 192.0.2.3}\n", ""))
    plan = build_plan(load_site(path))
    alone = plan.host("two").gateway
    assert alone is not None
    assert (alone.failover, alone.packages) == (None, ("haproxy",))
    assert [(peer.name, peer.address) for peer in alone.peers] == [("two", "127.0.0.1")]
    firewall = plan.host("two").firewall
    assert {rule.port for rule in firewall.rules} == {22, 80}
    assert firewall.vrrp_from == ()


@pytest.mark.parametrize(
    ("more", "path", "reason"),
    [
        ("standby: four, floating_address: 192.0.2.9", "gateway.standby", "is none of the hosts"),
        ("standby: two, floating_address: 192.0.2.9", "gateway.standby", "is gateway.host too"),
        (PAIR + ", tls: {acme: {email: a@example.edu}}", "gateway.tls.acme", "orders for one gateway only"),
        ("standby: three", "gateway.standby", "has no address to take over"),
        ("floating_address: 192.0.2.9", "gateway.floating_address", "has one gateway only"),
        ("standby: three, floating_address: 192.0.2.1", "gateway.floating_address", "is the own address of one"),
        ("standby: three, floating_address: 192.0.2.9, port: 11431", "gateway.port", "is taken by the gateways' peers"),
    ],
)
def test_what_does_not_go_together(more: str, path: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(SiteError) as error:
        plan_with(tmp_path, more)
    found = {(finding.path, finding.reason.split(" on ")[0].split(":")[0]) for finding in error.value.findings}
    assert (path, reason) in found
