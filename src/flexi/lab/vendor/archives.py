"""What the vendors' archives hold, today and on the days that break servers. Another day is another entry.

Two kinds of change: a suite gets packages, and packages go from it, since an archive keeps the newest build only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from . import cuda, ubuntu
from .stub import Stub

TODAY = "today"
ENDED = "535-server"


def _ubuntu(release: ubuntu.Release, ended: bool = False) -> list[Stub]:
    """The release's archive, before or after branch 535 was ended."""
    left = [stub for name in ubuntu.DRIVERS if not (ended and name == ENDED) for stub in ubuntu.branch(release, name)]
    # The branch that is not `-server`: NVIDIA's packages of the same names outrank it.
    desktop = ubuntu.driver("580", release.driver_version(ubuntu.DRIVERS["580-server"]), release.codename)
    return [*ubuntu.kernels(release), *left, *desktop, *(ubuntu.ended_branch(release) if ended else [])]


def _day(ended: bool = False, kernel: bool = False, with_modules: bool = True) -> list[Stub]:
    rows = [row for name in CUDA_REPOSITORIES for row in cuda.repository(name)]
    for release in UBUNTU:
        rows += _ubuntu(release, ended)
        rows += ubuntu.next_kernel(release, with_modules) if kernel else []
    return rows


UBUNTU = (ubuntu.JAMMY,)
CUDA_REPOSITORIES = ("ubuntu2204",)

ARCHIVES: Mapping[str, Callable[[], list[Stub]]] = MappingProxyType(
    {
        TODAY: _day,
        "transitional": lambda: _day(ended=True),
        "kernel": lambda: _day(kernel=True),
        "kernel-without-modules": lambda: _day(kernel=True, with_modules=False),
    }
)
"""Name to all packages of that day's archives:

`transitional`: 535-server's real build is gone, and the security pocket has empty packages that pull 580-server.
`kernel`: the security pocket has a newer kernel, with signed modules for both branches.
`kernel-without-modules`: the same, and the modules are not there yet.
"""


def everything() -> dict[str, list[Stub]]:
    """All archives by name."""
    return {name: rows() for name, rows in ARCHIVES.items()}
