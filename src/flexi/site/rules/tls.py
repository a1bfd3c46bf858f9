"""Keys of `gateway.tls` that do not go together, or not with the rest of the gateway."""

from __future__ import annotations

from collections.abc import Iterator

from flexi.catalog import ports
from flexi.configfile.findings import Problem, shown
from flexi.configfile.names import is_address
from flexi.site.model import Site
from flexi.site.schema.tls import Tls

HERE = ("gateway", "tls")
_ONE_OF = "certificate and key, or acme, or self_signed: true"


def tls_problems(site: Site) -> Iterator[Problem]:
    tls = site.content.gateway.tls
    if tls is None:
        return
    yield from _source(tls)
    if tls.acme:
        yield from _acme(site, tls)
    if site.users_port == site.http_port:
        reason = "is for plain HTTP, which tls.http says something about"
        yield Problem(("gateway", "port"), reason, "set tls.http to closed, or another port", shown(ports.HTTP))
    if tls.hsts and (tls.self_signed or tls.http == "serve"):
        reason = "does not go with " + ("self_signed" if tls.self_signed else "http: serve")
        remedy = "remove it until every client comes by HTTPS, with a certificate that it trusts"
        yield Problem((*HERE, "hsts"), reason, remedy, at_key=True)


def _source(tls: Tls) -> Iterator[Problem]:
    given = {"certificate": tls.certificate or tls.key, "acme": tls.acme, "self_signed": tls.self_signed}
    names = [name for name, value in given.items() if value]
    if not names:
        yield Problem(HERE, "says nothing of a certificate", f"add {_ONE_OF}", at_key=True)
    for name in names[1:]:
        here = (*HERE, name)
        yield Problem(here, f"stands beside {names[0]}", f"keep one: {_ONE_OF}", at_key=True)
    if bool(tls.certificate) != bool(tls.key):
        there, missing = ("certificate", "key") if tls.certificate else ("key", "certificate")
        yield Problem((*HERE, there), f"has no {missing} to go with", f"add {missing}", at_key=True)


def _acme(site: Site, tls: Tls) -> Iterator[Problem]:
    chat = site.content.chat
    for section, name in (("gateway", site.content.gateway.name), ("chat", chat.name if chat else None)):
        if name and (is_address(name) or "." not in name):
            reason = "is no name that an ACME authority certifies"
            yield Problem(
                (section, "name"), reason, "write a name with its domain, e.g. flexi.example.edu", shown(name)
            )
    if site.content.gateway.standby:
        reason = "orders for one gateway only: the authority asks where the floating address is"
        yield Problem((*HERE, "acme"), reason, "bring the certificate with certificate and key", at_key=True)
    if tls.http != "redirect":
        remedy = "remove it: the ACME authority asks on port 80, and keys have no business there"
        yield Problem((*HERE, "http"), "does not go with acme", remedy, shown(tls.http))
