"""Strict Jinja2: an undefined variable is an error, and templates decide nothing."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from flexi.paths import ROOT


def by_family(addresses: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Group addresses and networks by nftables' family keyword: [("ip", [...]), ("ip6", [...])]."""
    families: dict[str, list[str]] = {}
    for address in addresses:
        family = "ip" if ipaddress.ip_network(address, strict=False).version == 4 else "ip6"
        families.setdefault(family, []).append(address)
    return sorted(families.items())


def environment(templates: Path = ROOT / "templates") -> Environment:
    env = Environment(
        loader=FileSystemLoader(templates),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # configuration files, not HTML
    )
    env.filters["by_family"] = by_family
    return env


def render(template: str, **values: object) -> str:
    """Render `templates/<template>`; jinja2.UndefinedError where a value is missing."""
    return environment().get_template(template).render(**values)
