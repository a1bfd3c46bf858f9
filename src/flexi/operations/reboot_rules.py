"""Rules for reboots: when a host needs one, now or once the driver's packages are changed, and when it is allowed.

One answer for every operation: the check before anything is changed, the change, the reboot, and the dry run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pyinfra import host
from pyinfra.facts.deb import DebPackages

from flexi.catalog.windows import contains
from flexi.facts.apt import Upgrades
from flexi.facts.driver import DriverState
from flexi.facts.host import HostTime
from flexi.plan.model.driver import DriverPlan
from flexi.plan.model.maintenance import MaintenancePlan
from flexi.probe import booting_next, is_library, kernel_releases, upstream


@dataclass(frozen=True)
class PendingVersions:
    """Driver library and kernels of packages that are not installed yet; none by default."""

    library: str | None = None
    """Version of the driver's library; None where the present one stays."""
    kernels: tuple[str, ...] = ()


def versions_in(driver: DriverPlan, upgrades: Mapping[str, str]) -> PendingVersions:
    """Return the driver library and kernels of these packages (name -> version)."""
    libraries = (upgrades[name] for name in upgrades if is_library(name) or name == driver.version_package)
    return PendingVersions(next((upstream(version) for version in libraries), None), kernel_releases(upgrades))


def missing_packages(driver: DriverPlan) -> list[str]:
    present = host.get_fact(DebPackages) or {}
    return [name for name in driver.packages if name not in present]


def pending_versions(driver: DriverPlan, update: bool) -> PendingVersions:
    """Return what the operations of the driver's role are going to install, by the index that the host has.

    With a version that must be, it is that one; else the archive's, of what is missing and, with `update`, of all.
    """
    present = host.get_fact(DebPackages) or {}
    upgrades: dict[str, str] = {}
    absent = missing_packages(driver)
    if absent:
        upgrades = host.get_fact(Upgrades, packages=(), also=absent)
    if update:
        updates: dict[str, str] = host.get_fact(Upgrades, packages=driver.holds)
        upgrades = {**upgrades, **updates}
    found = versions_in(driver, upgrades)
    wanted = driver.wanted_version
    if wanted and wanted not in present.get(driver.version_package, ()):
        return PendingVersions(upstream(wanted), found.kernels)
    return found


def reboot_reason(driver_state: DriverState, major: int, library: str | None = None) -> str | None:
    """Return why the host cannot serve before a reboot; None where it can.

    The loaded module decides, never a package's name. Of nvidia-smi's errors a boot fixes one alone, the library that
    differs from the module.

    With `library`, once that version has been installed: it may be what the module lacks.
    """
    if driver_state.nouveau:
        return "nouveau has the cards"
    if driver_state.running_major != major:
        return f"the running driver is {driver_state.running or 'none'}, wanted {major}.x"
    if library is not None and library != driver_state.running:
        return f"driver {library} is to be installed, and {driver_state.running} runs"
    if library is None and driver_state.mismatch:
        return f"the driver's library was changed under its running module {driver_state.running}"
    return None


def newer_kernel(driver_state: DriverState, coming_kernels: tuple[str, ...] = ()) -> str | None:
    """Return the kernel that a reboot would start instead of the running one; None where it would change nothing."""
    kernels = kernel_releases(f"linux-image-{release}" for release in (*driver_state.kernels, *coming_kernels))
    newest = booting_next(kernels, driver_state.kernel)
    return newest if newest != driver_state.kernel else None


def reboot_allowed(maintenance: MaintenancePlan) -> bool:
    """Return whether this host may be rebooted now: the admin allowed it, or one of the site's windows is open."""
    if str(host.data.get("allow_reboot", "")).lower() in ("true", "yes", "1"):
        return True
    if not maintenance.reboot_windows:
        return False
    now = host.get_fact(HostTime)
    return any(contains(window, now.weekday, now.minute) for window in maintenance.reboot_windows)


def permission_hint(maintenance: MaintenancePlan) -> str:
    windows = ", ".join(window.text for window in maintenance.reboot_windows)
    when = f"wait for {windows}" if windows else "give the site a window: maintenance.reboots"
    return f"Allow it with --allow-reboot, or {when}"
