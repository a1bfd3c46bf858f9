"""What the site file's `tls` becomes: ports, firewall, packages, and the address that people are shown."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flexi.plan import build_plan
from flexi.plan.model.firewall import FirewallRule
from flexi.plan.model.site import Plan
from flexi.site import Site

MakeSite = Callable[..., Site]
ACME = "tls: {acme: {email: flexi@example.edu}}"
ALLOWED = "allow_from: [198.51.100.0/24]"


def plan_with(make_site: MakeSite, *more: str) -> Plan:
    return build_plan(make_site(gateway_more=", ".join(more)))


@pytest.mark.parametrize(
    ("more", "url"),
    [
        ("", "http://192.0.2.2"),
        ("port: 8080", "http://192.0.2.2:8080"),
        ("tls: {self_signed: true}", "https://flexi.example.edu"),
        ("port: 8443, tls: {self_signed: true}", "https://flexi.example.edu:8443"),
    ],
)
def test_the_address_that_people_are_shown(more: str, url: str, make_site: MakeSite) -> None:
    assert plan_with(make_site, more).gateway.url == url


@pytest.mark.parametrize(
    ("more", "open_ports"),
    [
        ("", {80: ("198.51.100.0/24",)}),
        ("tls: {self_signed: true}", {443: ("198.51.100.0/24",), 80: ("198.51.100.0/24",)}),
        ("tls: {self_signed: true, http: serve}", {443: ("198.51.100.0/24",), 80: ("198.51.100.0/24",)}),
        ("tls: {self_signed: true, http: closed}", {443: ("198.51.100.0/24",)}),
        # The authority comes from addresses that nobody knows.
        (ACME, {443: ("198.51.100.0/24",), 80: ()}),
    ],
)
def test_what_the_firewall_opens(more: str, open_ports: dict[int, tuple[str, ...]], make_site: MakeSite) -> None:
    rules = plan_with(make_site, ALLOWED, more).host("two").firewall.rules
    assert {rule.port: rule.sources for rule in rules if rule.purpose != "SSH"} == open_ports
    assert FirewallRule(port=22, sources=(), purpose="SSH") in rules


def test_packages_follow_from_where_the_certificate_comes_from(make_site: MakeSite) -> None:
    def packages(more: str) -> tuple[str, ...]:
        host = plan_with(make_site, more).host("two")
        assert host.gateway is not None
        return host.gateway.packages

    assert packages("") == ("haproxy",)
    assert packages("tls: {self_signed: true}") == ("haproxy", "openssl")
    assert packages(ACME) == ("haproxy", "openssl", "certbot")


def test_a_self_signed_certificate_is_for_name_and_address(make_site: MakeSite) -> None:
    tls = plan_with(make_site, "tls: {self_signed: true}").gateway.tls
    assert tls is not None
    assert tls.names == ("DNS:flexi.example.edu", "IP:192.0.2.2")


def test_one_certificate_is_for_the_api_and_for_the_chat(make_site: MakeSite) -> None:
    chat = "}\nchat: {host: two, name: chat.example.edu"
    tls = build_plan(make_site(gateway_more="tls: {self_signed: true}" + chat)).gateway.tls
    assert tls is not None
    assert tls.names == ("DNS:flexi.example.edu", "DNS:chat.example.edu", "IP:192.0.2.2")
    assert tls.domains == ("flexi.example.edu", "chat.example.edu")


def test_files_and_the_authoritys_secret_are_named_and_not_read(make_site: MakeSite) -> None:
    site = make_site(gateway_more="tls: {certificate: a.pem, key: ./b.key}")
    tls = build_plan(site).gateway.tls
    assert tls is not None
    assert (tls.source, tls.certificate, tls.key) == (
        "files",
        str(site.path.parent / "a.pem"),
        str(site.path.parent / "b.key"),
    )


def test_pages_of_the_gateway_itself_may_ask_the_instances(make_site: MakeSite) -> None:
    instance = plan_with(make_site, "tls: {self_signed: true}").instances[0]
    origins = dict(instance.environment)["OLLAMA_ORIGINS"].split(",")
    assert {"https://flexi.example.edu", "https://192.0.2.2"} <= set(origins)
