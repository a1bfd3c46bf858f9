"""The plan's part for the firewall."""

from __future__ import annotations

from flexi.catalog.frozen import Frozen as _Frozen


class FirewallRule(_Frozen):
    """Accept TCP to `port` from `sources` (addresses or networks; empty means everyone)."""

    port: int
    sources: tuple[str, ...]
    purpose: str


class FirewallPlan(_Frozen):
    rules: tuple[FirewallRule, ...]
    vrrp_from: tuple[str, ...] = ()
    """Addresses that VRRP (protocol 112, RFC 5798) is taken from."""
