"""The NVIDIA driver in the plan."""

from __future__ import annotations

from flexi.catalog import platforms
from flexi.plan.model.driver import DriverPlan
from flexi.site.model import Site
from flexi.site.schema.site_file import Host


def driver_plan(site: Site, host: Host) -> DriverPlan:
    wanted = site.content.driver
    branch = platforms.BRANCHES[wanted.branch]
    platform = platforms.PLATFORMS[host.platform]
    shipped = platform.drivers[wanted.branch]
    kernel = platform.kernels[wanted.kernel]

    def flavoured(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name.format(kernel=kernel) for name in names))

    return DriverPlan(
        branch=branch.name,
        major=branch.major,
        packages=flavoured(shipped.packages),
        holds=flavoured(shipped.holds),
        pins=shipped.pins,
        version_package=shipped.version_package,
        kernel=kernel,
        module_package=shipped.module_package,
        kernel_packages=flavoured(shipped.kernel_packages),
        wanted_version=shipped.version,
    )
