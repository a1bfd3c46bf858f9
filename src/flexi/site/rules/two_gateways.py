"""Two gateways: what the site file says of them has to go together."""

from __future__ import annotations

from collections.abc import Iterator

from flexi.configfile.findings import Problem, shown, suggestion
from flexi.site.model import Site


def pair_problems(site: Site) -> Iterator[Problem]:
    gateway, hosts = site.content.gateway, site.content.hosts
    standby, floating = gateway.standby, gateway.floating_address
    if standby is not None:
        here = ("gateway", "standby")
        if standby not in hosts:
            yield Problem(here, "is none of the hosts", suggestion(standby, list(hosts)), shown(standby))
        elif standby == gateway.host:
            yield Problem(here, "is gateway.host too", "name another host, or remove it", shown(standby))
        if floating is None:
            remedy = "add gateway.floating_address, which the two share and gateway.name leads to"
            yield Problem(here, "has no address to take over", remedy, shown(standby))
    elif floating is not None:
        here = ("gateway", "floating_address")
        remedy = "name a second one in gateway.standby, or remove it"
        yield Problem(here, "has one gateway only", remedy, shown(floating))
    for name, host in hosts.items():
        if floating == host.address:
            reason = f"is the own address of {name}"
            remedy = "write one that no host has: it moves between the two"
            yield Problem(("gateway", "floating_address"), reason, remedy, shown(floating))
