"""The driver's packages: installed, updated and held back as a pair with the kernel that they are built for."""

from __future__ import annotations

import re
import shlex
from collections.abc import Generator, Mapping, Sequence

from pyinfra import host
from pyinfra.api import FunctionCommand, QuoteString, StringCommand, operation
from pyinfra.api.host import Host
from pyinfra.api.operation import OperationMeta
from pyinfra.api.state import State
from pyinfra.facts.deb import DebPackages

from flexi.facts.apt import RealPackage, Upgrades
from flexi.facts.driver import NvidiaDriver
from flexi.operations import drain
from flexi.operations.apt_locks import APT_LOCK_OPTIONS, update_index
from flexi.operations.host_failure import fail_host, report_failure
from flexi.operations.packages import install_command
from flexi.operations.prediction import predicted
from flexi.operations.reboot_rules import (
    missing_packages,
    newer_kernel,
    permission_hint,
    reboot_allowed,
    reboot_reason,
    versions_in,
)
from flexi.plan.model.driver import DriverPlan
from flexi.plan.model.maintenance import MaintenancePlan
from flexi.probe import kernel_releases

Commands = Generator[StringCommand | FunctionCommand, None, None]


@operation()
def install(driver: DriverPlan, interrupts: drain.Interruption) -> Commands:
    """Install what is missing of the driver, what it interrupts drained first, and with it the modules of the kernel
    that boots next.

    Of a branch with a wanted version all is installed anew where the host has another one: the empty packages of an
    ended branch have the names of the real ones. Which versions come is for the pins to say, which must be in place.
    """
    present = host.get_fact(DebPackages) or {}
    wanted = driver.wanted_version
    other = wanted is not None and wanted not in present.get(driver.version_package, {wanted})
    absent = missing_packages(driver)
    if not absent and not other:
        host.noop("all of them are installed")
        return
    yield update_index()
    _, package, comes = _pending_modules(driver)
    modules = [] if comes else [package]
    names = [*(driver.packages if other else absent), *modules]
    options = ["--allow-downgrades", "--allow-change-held-packages"] if other else []
    yield _rehearse(names, options)
    yield from drain.running_instances(interrupts)
    yield install_command(names, *options)
    yield from _mark_automatic(modules)


_REHEARSAL = """
said=$(LC_ALL=C apt-get -s -y install --no-install-recommends {arguments} 2>&1) && exit 0
held=$(apt-mark showhold | grep nvidia | tr '\n' ' ')
echo "apt cannot install the driver: $(printf '%s' "$said" | grep '^E: ' | tail -n 1)" >&2
[ -z "$held" ] || echo "On hold by hand: $held(apt-mark unhold lets go of them)" >&2
echo "Nothing of the driver was changed" >&2
exit 1
"""


def _rehearse(packages: Sequence[str], options: Sequence[str]) -> StringCommand:
    """Fail while the host still serves where apt would fail: it exchanges nothing for what an admin holds, and flexi
    lets go of its own holds alone."""
    return StringCommand("sh", "-c", QuoteString(_REHEARSAL.format(arguments=shlex.join([*options, *packages]))))


def _mark_automatic(modules: Sequence[str]) -> Generator[StringCommand, None, None]:
    """Let apt count packages of single kernels as if a meta package had brought them. What an admin asked for by name
    stays for ever, and keeps the kernel that it depends on: /boot fills. Those of the kernel that runs and of the
    newest ones apt never removes (apt-pkg/algorithms.cc, GetProtectedKernelsRegex)."""
    if modules:
        yield StringCommand("apt-mark", "auto", *(QuoteString(name) for name in modules))


@operation()
def require_version(package: str, version: str) -> Generator[StringCommand, None, None]:
    """Fail in one sentence, before the driver is changed, where `version` is neither installed nor to be had."""
    if version in (host.get_fact(DebPackages) or {}).get(package, ()):
        host.noop(f"{package} {version} is installed")
        return
    words = (
        f"no archive of this host has {package} {version} any more: Ubuntu replaced it by a transitional package. "
        "Nothing of the driver was changed. Name a mirror or snapshot that still has it in mirrors.apt, or set "
        "driver.branch to 580-server, which runs Ollama 0.24.0 and all later ones (docs/reference/platforms.md)"
    )
    yield update_index()
    check = f"apt-cache madison {package} | grep -qF ' {version} ' || {{ echo '{words}' >&2; exit 1; }}"
    yield StringCommand("sh", "-c", QuoteString(check))


def kernels_without_modules(upgrades: Mapping[str, str], module_package: str) -> list[str]:
    """Return kernel releases among `upgrades` that would come without the driver's modules."""
    images = (re.fullmatch(r"linux-image-(?:unsigned-)?(\d.*)", name) for name in upgrades)
    releases = [match.group(1) for match in images if match]
    return [release for release in releases if module_package.format(release=release) not in upgrades]


@operation()
def update(driver: DriverPlan, maintenance: MaintenancePlan, interrupts: drain.Interruption) -> Commands:
    """Bring the driver and the kernel to the newest of their branch although they are on hold; what runs is drained
    first. A kernel that has no modules yet, or a driver that needs a reboot which is not allowed, fails the host, and
    nothing is changed.

    A dry run asks the index that the host has; the run itself fetches a fresh one, which counts as no change.
    """
    if host.state.is_executing:
        # pyinfra gives a command of its own kind only what the call names: with a bundle apt knows it by _env alone.
        fetched, output = host.run_shell_command(update_index(), _sudo=True, _env=dict(host.data.get("_env") or {}))
        if not fetched:
            words = " ".join(output.stderr_lines[-1:])
            yield fail_host(f"apt cannot read its repositories, nothing was updated: {words}")
            return
    module_package = driver.module_package
    upgrades = host.get_fact(Upgrades, packages=driver.holds)
    if not upgrades:
        host.noop("driver and kernel are the newest")
        return
    bare = kernels_without_modules(upgrades, module_package)
    modules: list[str] = []
    if bare:
        # No meta package brought them: those of an ended branch do not.
        modules = [module_package.format(release=release) for release in bare]
        upgrades = host.get_fact(Upgrades, packages=driver.holds, also=modules)
        bare = [release for release in bare if module_package.format(release=release) not in upgrades]
    if bare:
        yield fail_host(f"kernel {bare[0]} has no modules of this driver branch yet: nothing was updated, try later")
        return
    reason = reboot_reason(host.get_fact(NvidiaDriver), driver.major, versions_in(driver, upgrades).library)
    if reason and not reboot_allowed(maintenance):
        yield fail_host(f"needs a reboot: {reason}. Nothing was updated. {permission_hint(maintenance)}")
        return
    yield from drain.running_instances(interrupts)
    # Not the kernels themselves: those that their meta packages bring, apt removes when they are old.
    asked = {*driver.holds, *modules}
    names = [f"{name}={version}" for name, version in sorted(upgrades.items()) if name in asked]
    yield install_command(names, "--allow-change-held-packages")
    yield from _mark_automatic(modules)


@operation()
def install_kernel_modules(module_package: str, after: Sequence[OperationMeta]) -> Commands:
    """Install modules for a kernel that came past our holds and boots next: without them that boot has no GPUs.

    With the driver's own packages (`after`) its modules have come. A kernel that is in no package (a container's, an
    admin's own) is left to whoever put it there.
    """
    kernel, package = _next_modules(module_package)
    if package is None or predicted(after):
        host.noop("the kernel that boots next has them")
        return
    yield update_index()
    words = _no_modules(kernel, package)
    install = f"apt-get -y {' '.join(APT_LOCK_OPTIONS)} install --no-install-recommends {package}"
    script = f"{install} || {{ echo '{words}' >&2; exit 1; }}"
    yield StringCommand("DEBIAN_FRONTEND=noninteractive", "sh", "-c", QuoteString(script))
    yield from _mark_automatic([package])


@operation()
def require_kernel_modules(driver: DriverPlan) -> Commands:
    """Fail in one sentence, before the driver is changed, where the kernel that boots next will have no modules.

    That may be one that comes with the driver's packages, by their meta packages; the pins must be in place.
    """
    if _next_modules(driver.module_package)[1] is None:
        host.noop("the kernel that boots next has them")
        return
    yield update_index()
    yield FunctionCommand(_find_modules, (driver,), {})


def _find_modules(state: State, host: Host, driver: DriverPlan) -> bool:
    kernel, package, comes = _pending_modules(driver)
    if comes or host.get_fact(RealPackage, package=package):
        return True
    return report_failure(state, host, f"{_no_modules(kernel, package)}. Nothing of the driver was changed")


def _pending_modules(driver: DriverPlan) -> tuple[str, str, bool]:
    """Return the kernel that boots once the driver's missing packages are there, the package of its modules, and
    whether that needs no care: it is installed, comes with them, or the kernel is in no package."""
    absent = missing_packages(driver)
    upgrades = host.get_fact(Upgrades, packages=(), also=absent) if absent else {}
    driver_state = host.get_fact(NvidiaDriver)
    coming = kernel_releases(upgrades)
    kernel = newer_kernel(driver_state, coming) or driver_state.kernel
    package = driver.module_package.format(release=kernel)
    known = kernel in (*driver_state.kernels, *coming)
    return kernel, package, not known or package in upgrades or package in (host.get_fact(DebPackages) or {})


def _next_modules(module_package: str) -> tuple[str, str | None]:
    """Return the kernel that boots next, and the package of its modules where it is to be installed."""
    driver_state = host.get_fact(NvidiaDriver)
    kernel = driver_state.next_kernel or driver_state.kernel
    package = module_package.format(release=kernel)
    known = kernel in driver_state.kernels and package not in (host.get_fact(DebPackages) or {})
    return kernel, package if known else None


def _no_modules(kernel: str, package: str) -> str:
    return (
        f"kernel {kernel} boots next and no archive of this host has {package}: name one that has it in mirrors.apt "
        f"(of a bundle: ./flexi bundle --kernel {kernel}), or let another kernel boot "
        f"(apt-get purge linux-image-{kernel})"
    )
