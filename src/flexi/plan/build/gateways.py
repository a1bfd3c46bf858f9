"""The hosts that are gateways: what each needs, and how two of them stand in for each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from flexi.catalog import ports
from flexi.plan.model.firewall import FirewallRule
from flexi.plan.model.gateway import FailoverPlan, GatewayHostPlan, PeerPlan

if TYPE_CHECKING:
    from flexi.site.model import Site

PRIORITIES = (150, 100)
"""Of the first gateway and its standby; RFC 5798 leaves 1 to 254 to choose from."""


def gateway_host(site: Site, name: str) -> GatewayHostPlan | None:
    """A host's part as a gateway; None where it is none."""
    if name not in site.gateways:
        return None
    failover = _failover(site, name)
    tls = site.content.gateway.tls
    packages = ["haproxy"]
    if tls:
        packages.append("openssl")
    if tls and tls.acme:
        packages.append("certbot")
    if failover:
        packages.append("keepalived")
    return GatewayHostPlan(
        packages=tuple(packages),
        peers=tuple(
            PeerPlan(name=other, address=host.address if failover else "127.0.0.1")
            for other, host in site.gateways.items()
        ),
        peers_port=ports.PEERS,
        failover=failover,
    )


def _failover(site: Site, name: str) -> FailoverPlan | None:
    """None on a host that is no gateway, and on one that is the only one."""
    gateway = site.content.gateway
    names = list(site.gateways)
    if gateway.floating_address is None or len(names) < 2 or name not in names:
        return None
    (peer,) = (other for other in names if other != name)
    return FailoverPlan(
        address=gateway.floating_address,
        own_address=site.gateways[name].address,
        peer_address=site.gateways[peer].address,
        priority=PRIORITIES[names.index(name)],
        router_id=gateway.vrrp_id,
    )


def peer_rules(site: Site, name: str) -> Iterator[FirewallRule]:
    """What a gateway opens to the other one."""
    failover = _failover(site, name)
    if failover:
        yield FirewallRule(port=ports.PEERS, sources=(failover.peer_address,), purpose="the other gateway")


def vrrp_sources(site: Site, name: str) -> tuple[str, ...]:
    failover = _failover(site, name)
    return (failover.peer_address,) if failover else ()
