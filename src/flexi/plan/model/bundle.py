"""The plan's part for hosts that get everything from a prepared folder."""

from __future__ import annotations

from flexi.catalog.frozen import Frozen as _Frozen
from flexi.catalog.platforms import PinPlan, PlatformName


class PackageSet(_Frozen):
    """What a host's roles ask apt for, and the pins that hold meanwhile: what a bundle's repository is made for."""

    platform: PlatformName
    packages: tuple[str, ...]
    pins: tuple[PinPlan, ...]


class BundlePlan(_Frozen):
    """The prepared folder from which a host gets everything, without the internet."""

    folder: str
    """On the admin's machine, absolute."""
    home: str
    """On the host."""
    apt_uri: str
    """On the host: the base of its apt repository."""
    apt_suite: str
    """The index of what this host needs; a name that changes with its packages and pins."""
    apt_config: str
    """On the host: with this file in APT_CONFIG, apt knows the repository above and no other."""
    apt_lists: str
    """On the host: apt's lists of that repository, beside the host's own."""
