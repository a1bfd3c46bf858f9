"""The gateway's certificate, and what it speaks on which port."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import TYPE_CHECKING

from flexi.catalog import ports
from flexi.plan.model.firewall import FirewallRule
from flexi.plan.model.gateway import AcmePlan, TlsPlan

if TYPE_CHECKING:
    from flexi.site.model import Site
    from flexi.site.schema.tls import Acme

HSTS_S = 63_072_000
"""Two years, as Mozilla's guideline 6.0 asks for at least (ssl-config.mozilla.org/guidelines/6.0.json)."""


def http_rules(site: Site) -> Iterator[FirewallRule]:
    """What the firewall opens for plain HTTP beside HTTPS: to everyone where an authority has to look."""
    gateway = site.content.gateway
    if site.http_port is not None and gateway.tls:
        sources = () if gateway.tls.acme else gateway.allow_from
        yield FirewallRule(port=site.http_port, sources=sources, purpose="gateway, HTTP")


def tls_plan(site: Site) -> TlsPlan | None:
    tls = site.content.gateway.tls
    if tls is None:
        return None
    acme = _acme(site, tls.acme) if tls.acme else None
    chat = site.content.chat
    domains = (site.content.gateway.name, *([chat.name] if chat else []))
    return TlsPlan(
        source="acme" if acme else "self-signed" if tls.self_signed else "files",
        names=tuple(_subject(name) for name in dict.fromkeys((*domains, site.users_address))),
        domains=domains,
        certificate=site.beside(tls.certificate),
        key=site.beside(tls.key),
        acme=acme,
        redirect_port=site.http_port if tls.http == "redirect" else None,
        plain_port=site.http_port if tls.http == "serve" else None,
        hsts_s=HSTS_S if tls.hsts else 0,
    )


def _acme(site: Site, acme: Acme) -> AcmePlan:
    return AcmePlan(
        email=acme.email,
        directory=acme.directory,
        account=site.beside(acme.account),
        responder_port=ports.ACME_RESPONDER,
    )


def _subject(name: str) -> str:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return f"DNS:{name}"
    return f"IP:{name}"
