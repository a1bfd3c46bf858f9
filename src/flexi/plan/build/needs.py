"""What a host needs from outside: the packages that its roles install, and what keeps apt's choice among them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from types import MappingProxyType

from flexi.catalog.platforms import PinPlan
from flexi.plan.model.bundle import PackageSet
from flexi.plan.model.site import HostPlan

TIME_DAEMONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "systemd-timesyncd": ("systemd-timesyncd.service",),
        "chrony": ("chrony.service", "chronyd.service"),
        "ntpsec": ("ntpsec.service",),
        "ntp": ("ntp.service",),
        "openntpd": ("openntpd.service",),
    }
)
"""Packages that provide Debian's and Ubuntu's `time-daemon`, which conflict with each other, and their units."""
TIME_DAEMON = "systemd-timesyncd"
"""Installed where a host has no time daemon."""


def package_set(host: HostPlan) -> PackageSet:
    """Every package that a deploy may ask apt for on this host, and the pins that hold meanwhile."""
    packages = {TIME_DAEMON, *host.base.packages}
    pins: list[PinPlan] = []
    if host.driver:
        packages |= set(host.driver.packages)
        pins += host.driver.pins
    if host.cuda:
        packages |= set(host.cuda.packages)
    if host.gateway:
        packages |= set(host.gateway.packages)
    if host.chat:
        packages |= {*host.chat.packages, *host.chat.front_packages}
        if host.chat.database:
            packages |= {*host.chat.database.packages, *filter(None, [host.chat.database.redis_package])}
    if host.ollama:
        packages |= set(host.ollama.packages)
    return PackageSet(platform=host.platform, packages=tuple(sorted(packages)), pins=tuple(pins))


def set_name(packages: PackageSet) -> str:
    """A short name that changes with everything in the set."""
    content = [packages.platform, packages.packages, [(pin.packages, pin.pin, pin.priority) for pin in packages.pins]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]
