"""What the vendors' archives hold, today and on the days that break servers. Another day is another entry.

Two kinds of change: a suite gets packages, and packages go from it, since an archive keeps the newest build only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from . import cuda, debian, ubuntu
from .stub import Stub

TODAY = "today"
ENDED = "535-server"


UBUNTU = (ubuntu.JAMMY, ubuntu.NOBLE)
CUDA_REPOSITORIES = ("ubuntu2204", "ubuntu2404", "debian12")


@dataclass(frozen=True)
class Day:
    """What is different from today."""

    ended: bool = False
    """Ubuntu has ended branch 535."""
    kernel: bool = False
    """A newer kernel is there …"""
    modules: bool = True
    """… and what the driver needs for it: Ubuntu's signed modules, Debian's headers."""
    driver: bool = False
    """A newer build of the driver is there: 580-server's on Ubuntu, 535's on Debian."""


DAYS: Mapping[str, Day] = MappingProxyType(
    {
        TODAY: Day(),
        "transitional": Day(ended=True),
        "kernel": Day(kernel=True),
        "kernel-without-modules": Day(kernel=True, modules=False),
        "driver": Day(driver=True),
    }
)


def _ubuntu(release: ubuntu.Release, day: Day) -> list[Stub]:
    branches = [name for name in ubuntu.DRIVERS if not (day.ended and name == ENDED)]
    # The branch that is not `-server`: NVIDIA's packages of the same names outrank it.
    desktop = ubuntu.driver("580", release.driver_version(ubuntu.DRIVERS["580-server"]), release.codename)
    return [
        *ubuntu.kernels(release),
        *(stub for name in branches for stub in ubuntu.branch(release, name)),
        *desktop,
        *(ubuntu.ended_branch(release) if day.ended else []),
        *(ubuntu.next_kernel(release, day.modules) if day.kernel else []),
        *(ubuntu.next_driver(release) if day.driver else []),
    ]


def _debian(day: Day) -> list[Stub]:
    image = debian.NEWER_KERNEL if day.kernel else debian.KERNEL
    headers = image if day.modules else debian.KERNEL
    return [
        *debian.tools(),
        *debian.driver(debian.OLD_DRIVER, debian.MAIN),
        *debian.driver(debian.NEWER_DRIVER if day.driver else debian.DRIVER, debian.SECURITY),
        *debian.kernel(debian.KERNEL, debian.MAIN),
        *debian.headers(debian.KERNEL, debian.MAIN),
        *(debian.kernel(image, debian.SECURITY) if image != debian.KERNEL else []),
        *(debian.headers(headers, debian.SECURITY) if headers != debian.KERNEL else []),
    ]


def packages(name: str) -> list[Stub]:
    """All packages of that day's archives."""
    day = DAYS[name]
    rows = [row for repository in CUDA_REPOSITORIES for row in cuda.repository(repository)]
    for release in UBUNTU:
        rows += _ubuntu(release, day)
    return rows + _debian(day)


def everything() -> dict[str, list[Stub]]:
    """All archives by name."""
    return {name: packages(name) for name in DAYS}
