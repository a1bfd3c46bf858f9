"""Whether a host has to be rebooted, now or once this deploy has changed the driver's packages, and whether it may be.

One answer for all who ask: who permits before anything is changed, who changes, who reboots, and the dry run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pyinfra import host
from pyinfra.facts.deb import DebPackages

from flexi.catalog.windows import contains
from flexi.facts.apt import Upgrades
from flexi.facts.driver import DriverTruth
from flexi.facts.host import HostTime
from flexi.plan.model.driver import DriverPlan
from flexi.plan.model.maintenance import MaintenancePlan
from flexi.probe import booting_next, is_library, kernel_releases, upstream


@dataclass(frozen=True)
class Coming:
    """What packages that are not installed yet will bring. The default is nothing."""

    library: str | None = None
    """Version of the driver's library; None where the present one stays."""
    kernels: tuple[str, ...] = ()


def brought(driver: DriverPlan, upgrades: Mapping[str, str]) -> Coming:
    """What these packages (name -> version) bring."""
    libraries = (upgrades[name] for name in upgrades if is_library(name) or name == driver.version_package)
    return Coming(next((upstream(version) for version in libraries), None), kernel_releases(upgrades))


def missing(driver: DriverPlan) -> list[str]:
    present = host.get_fact(DebPackages) or {}
    return [name for name in driver.packages if name not in present]


def coming(driver: DriverPlan, update: bool) -> Coming:
    """What the operations of the driver's role are going to install, by the index that the host has.

    With a version that must be, it is that one; else the archive's, of what is missing and, with `update`, of all.
    """
    present = host.get_fact(DebPackages) or {}
    upgrades: dict[str, str] = {}
    absent = missing(driver)
    if absent:
        upgrades = host.get_fact(Upgrades, packages=(), also=absent)
    if update:
        updates: dict[str, str] = host.get_fact(Upgrades, packages=driver.holds)
        upgrades = {**upgrades, **updates}
    found = brought(driver, upgrades)
    wanted = driver.wanted_version
    if wanted and wanted not in present.get(driver.version_package, ()):
        return Coming(upstream(wanted), found.kernels)
    return found


def must_reboot(truth: DriverTruth, major: int, library: str | None = None) -> str | None:
    """Why the host cannot serve before a reboot; None where it can. The truth is the loaded module, never a package's
    name. Of nvidia-smi's complaints only one is mended by a boot, the library that differs from the module.

    With `library`, once that version has been installed: it may be what the module lacks.
    """
    if truth.nouveau:
        return "nouveau has the cards"
    if truth.running_major != major:
        return f"the running driver is {truth.running or 'none'}, wanted {major}.x"
    if library is not None and library != truth.running:
        return f"driver {library} is to be installed, and {truth.running} runs"
    if library is None and truth.mismatch:
        return f"the driver's library was changed under its running module {truth.running}"
    return None


def better_kernel(truth: DriverTruth, coming_kernels: tuple[str, ...] = ()) -> str | None:
    """The kernel that a reboot would start instead of the running one; None where it would change nothing."""
    kernels = kernel_releases(f"linux-image-{release}" for release in (*truth.kernels, *coming_kernels))
    newest = booting_next(kernels, truth.kernel)
    return newest if newest != truth.kernel else None


def permitted(maintenance: MaintenancePlan) -> bool:
    """Whether this host may be rebooted now: the admin said so, or one of the site's windows is open."""
    if str(host.data.get("allow_reboot", "")).lower() in ("true", "yes", "1"):
        return True
    if not maintenance.reboot_windows:
        return False
    now = host.get_fact(HostTime)
    return any(contains(window, now.weekday, now.minute) for window in maintenance.reboot_windows)


def how_to_permit(maintenance: MaintenancePlan) -> str:
    windows = ", ".join(window.text for window in maintenance.reboot_windows)
    when = f"wait for {windows}" if windows else "give the site a window: maintenance.reboots"
    return f"Allow it with --allow-reboot, or {when}"
