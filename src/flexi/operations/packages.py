"""apt: packages, holds and signing keys."""

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
from pyinfra.facts.files import File

from flexi.facts.apt import HOLDS, HeldPackages, KeyFingerprints, Real, Upgrades
from flexi.facts.driver import NvidiaDriver
from flexi.operations.apt_locks import PATIENCE, fresh_index, waiting
from flexi.operations.draining import Interruption, drain
from flexi.operations.due import better_kernel, brought, how_to_permit, missing, must_reboot, permitted
from flexi.operations.foresight import announced
from flexi.operations.refusal import refuse, say
from flexi.plan.build.needs import TIME_DAEMON, TIME_DAEMONS
from flexi.plan.model.driver import DriverPlan
from flexi.plan.model.maintenance import MaintenancePlan
from flexi.probe import kernel_releases

Commands = Generator[StringCommand | FunctionCommand, None, None]


@operation()
def installed(packages: Sequence[str]) -> Commands:
    """Install what is missing of `packages`, with a fresh index; a host that has all of them is left alone."""
    present = host.get_fact(DebPackages) or {}
    absent = [name for name in packages if name not in present]
    if not absent:
        host.noop("all of them are installed")
        return
    yield fresh_index()
    yield install_command(absent)


@operation()
def driver_installed(driver: DriverPlan, interrupts: Interruption) -> Commands:
    """Install what is missing of the driver, what it interrupts drained first, and with it the modules of the kernel
    that boots next.

    Of a branch with a wanted version all is installed anew where the host has another one: the empty packages of an
    ended branch have the names of the real ones. Which versions come is for the pins to say, which must be in place.
    """
    present = host.get_fact(DebPackages) or {}
    wanted = driver.wanted_version
    other = wanted is not None and wanted not in present.get(driver.version_package, {wanted})
    absent = missing(driver)
    if not absent and not other:
        host.noop("all of them are installed")
        return
    yield fresh_index()
    _, package, comes = _modules_to_come(driver)
    modules = [] if comes else [package]
    names = [*(driver.packages if other else absent), *modules]
    options = ["--allow-downgrades", "--allow-change-held-packages"] if other else []
    yield _rehearsed(names, options)
    yield from drain(interrupts)
    yield install_command(names, *options)
    yield from _going_with_their_kernel(modules)


def install_command(packages: Sequence[str], *options: str) -> StringCommand:
    return StringCommand(
        "DEBIAN_FRONTEND=noninteractive",
        *("apt-get", "-y", *PATIENCE, "install", "--no-install-recommends", *options),
        *("-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"),
        *(QuoteString(name) for name in packages),
    )


_REHEARSAL = """
said=$(LC_ALL=C apt-get -s -y install --no-install-recommends {arguments} 2>&1) && exit 0
held=$(apt-mark showhold | grep nvidia | tr '\n' ' ')
echo "apt cannot install the driver: $(printf '%s' "$said" | grep '^E: ' | tail -n 1)" >&2
[ -z "$held" ] || echo "On hold by hand: $held(apt-mark unhold lets go of them)" >&2
echo "Nothing of the driver was changed" >&2
exit 1
"""


def _rehearsed(packages: Sequence[str], options: Sequence[str]) -> StringCommand:
    """Fail while the host still serves where apt would fail: it exchanges nothing for what an admin holds, and flexi
    lets go of its own holds alone."""
    return StringCommand("sh", "-c", QuoteString(_REHEARSAL.format(arguments=shlex.join([*options, *packages]))))


def _going_with_their_kernel(modules: Sequence[str]) -> Generator[StringCommand, None, None]:
    """Let apt count packages of single kernels as if a meta package had brought them. What an admin asked for by name
    stays for ever, and keeps the kernel that it depends on: /boot fills. Those of the kernel that runs and of the
    newest ones apt never removes (apt-pkg/algorithms.cc, GetProtectedKernelsRegex)."""
    if modules:
        yield StringCommand("apt-mark", "auto", *(QuoteString(name) for name in modules))


@operation()
def time_daemon() -> Generator[StringCommand, None, None]:
    """Install systemd-timesyncd where no other time daemon is: a university's own chrony stays."""
    present = host.get_fact(DebPackages) or {}
    if any(name in present for name in TIME_DAEMONS):
        host.noop("a time daemon is installed")
        return
    yield fresh_index()
    yield install_command([TIME_DAEMON])


@operation()
def obtainable(package: str, version: str) -> Generator[StringCommand, None, None]:
    """Fail in one sentence, before the driver is changed, where `version` is neither installed nor to be had."""
    if version in (host.get_fact(DebPackages) or {}).get(package, ()):
        host.noop(f"{package} {version} is installed")
        return
    words = (
        f"no archive of this host has {package} {version} any more: Ubuntu replaced it by a transitional package. "
        "Nothing of the driver was changed. Name a mirror or snapshot that still has it in mirrors.apt, or set "
        "driver.branch to 580-server, which runs Ollama 0.24.0 and all later ones (docs/reference/platforms.md)"
    )
    yield fresh_index()
    check = f"apt-cache madison {package} | grep -qF ' {version} ' || {{ echo '{words}' >&2; exit 1; }}"
    yield StringCommand("sh", "-c", QuoteString(check))


@operation()
def unheld_but(packages: Sequence[str]) -> Generator[StringCommand, None, None]:
    """Let go of what flexi itself holds and no longer wants to: another branch must be able to replace the old one."""
    unwanted = sorted(host.get_fact(HeldPackages).ours - set(packages))
    if not unwanted:
        host.noop("no hold is left over")
        return
    yield StringCommand("sh", "-c", QuoteString(waiting(f"apt-mark unhold {shlex.join(unwanted)}")))


@operation()
def held(
    packages: Sequence[str], coming: Sequence[str] = (), after: Sequence[OperationMeta] = ()
) -> Generator[StringCommand, None, None]:
    """Hold those of `packages` that are installed: an upgrade of them is then a decision, not a night's accident.

    For a dry run's sake: `coming` are those that operations before install, `after` are operations that lift holds.
    """
    present = host.get_fact(DebPackages) or {}
    holds = host.get_fact(HeldPackages)
    wanted = [name for name in packages if name in present]
    foretold = [] if host.state.is_executing else [name for name in coming if name in packages and name not in present]
    if set(wanted) <= holds.ours and not foretold and not announced(after):
        host.noop("all of them are on hold")
        return
    names = " ".join(wanted)
    script = f"set -e{waiting(f'apt-mark hold {names}')}mkdir -p /var/lib/flexi; printf '%s\\n' {names} >{HOLDS}"
    yield StringCommand("sh", "-c", QuoteString(script))


def kernels_without_modules(upgrades: Mapping[str, str], module_package: str) -> list[str]:
    """Kernel releases among `upgrades` that would come without the driver's modules."""
    images = (re.fullmatch(r"linux-image-(?:unsigned-)?(\d.*)", name) for name in upgrades)
    releases = [match.group(1) for match in images if match]
    return [release for release in releases if module_package.format(release=release) not in upgrades]


@operation()
def updated(driver: DriverPlan, maintenance: MaintenancePlan, interrupts: Interruption) -> Commands:
    """Bring the driver and the kernel to the newest of their branch although they are on hold; what runs is drained
    first. A kernel that has no modules yet, or a driver that needs a reboot which is not allowed, fails the host, and
    nothing is changed.

    A dry run asks the index that the host has; the run itself fetches a fresh one, which counts as no change.
    """
    if host.state.is_executing:
        # pyinfra gives a command of its own kind only what the call names: with a bundle apt knows it by _env alone.
        fetched, output = host.run_shell_command(fresh_index(), _sudo=True, _env=dict(host.data.get("_env") or {}))
        if not fetched:
            words = " ".join(output.stderr_lines[-1:])
            yield refuse(f"apt cannot read its repositories, nothing was updated: {words}")
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
        yield refuse(f"kernel {bare[0]} has no modules of this driver branch yet: nothing was updated, try later")
        return
    reason = must_reboot(host.get_fact(NvidiaDriver), driver.major, brought(driver, upgrades).library)
    if reason and not permitted(maintenance):
        yield refuse(f"needs a reboot: {reason}. Nothing was updated. {how_to_permit(maintenance)}")
        return
    yield from drain(interrupts)
    # Not the kernels themselves: those that their meta packages bring, apt removes when they are old.
    asked = {*driver.holds, *modules}
    names = [f"{name}={version}" for name, version in sorted(upgrades.items()) if name in asked]
    yield install_command(names, "--allow-change-held-packages")
    yield from _going_with_their_kernel(modules)


@operation()
def kernel_modules(module_package: str, after: Sequence[OperationMeta]) -> Commands:
    """What a kernel needs that came past our holds and boots next: without modules that boot has no GPUs.

    With the driver's own packages (`after`) its modules have come. A kernel that is in no package (a container's, an
    admin's own) is left to whoever put it there.
    """
    kernel, package = _next_modules(module_package)
    if package is None or announced(after):
        host.noop("the kernel that boots next has them")
        return
    yield fresh_index()
    words = _no_modules(kernel, package)
    install = f"apt-get -y {' '.join(PATIENCE)} install --no-install-recommends {package}"
    script = f"{install} || {{ echo '{words}' >&2; exit 1; }}"
    yield StringCommand("DEBIAN_FRONTEND=noninteractive", "sh", "-c", QuoteString(script))
    yield from _going_with_their_kernel([package])


@operation()
def modules_obtainable(driver: DriverPlan) -> Commands:
    """Fail in one sentence, before the driver is changed, where the kernel that boots next will have no modules.

    That may be one that comes with the driver's packages, by their meta packages; the pins must be in place.
    """
    if _next_modules(driver.module_package)[1] is None:
        host.noop("the kernel that boots next has them")
        return
    yield fresh_index()
    yield FunctionCommand(_find_modules, (driver,), {})


def _find_modules(state: State, host: Host, driver: DriverPlan) -> bool:
    kernel, package, comes = _modules_to_come(driver)
    if comes or host.get_fact(Real, package=package):
        return True
    return say(state, host, f"{_no_modules(kernel, package)}. Nothing of the driver was changed")


def _modules_to_come(driver: DriverPlan) -> tuple[str, str, bool]:
    """The kernel that boots once the driver's missing packages are there, the package of its modules, and whether that
    is installed, comes with them, or is nobody's affair: of a kernel that is in no package."""
    absent = missing(driver)
    upgrades = host.get_fact(Upgrades, packages=(), also=absent) if absent else {}
    truth = host.get_fact(NvidiaDriver)
    coming = kernel_releases(upgrades)
    kernel = better_kernel(truth, coming) or truth.kernel
    package = driver.module_package.format(release=kernel)
    known = kernel in (*truth.kernels, *coming)
    return kernel, package, not known or package in upgrades or package in (host.get_fact(DebPackages) or {})


def _next_modules(module_package: str) -> tuple[str, str | None]:
    """The kernel that boots next, and the package of its modules where it is to be installed."""
    truth = host.get_fact(NvidiaDriver)
    kernel = truth.next_kernel or truth.kernel
    package = module_package.format(release=kernel)
    known = kernel in truth.kernels and package not in (host.get_fact(DebPackages) or {})
    return kernel, package if known else None


def _no_modules(kernel: str, package: str) -> str:
    return (
        f"kernel {kernel} boots next and no archive of this host has {package}: name one that has it in mirrors.apt "
        f"(of a bundle: ./flexi bundle --kernel {kernel}), or let another kernel boot "
        f"(apt-get purge linux-image-{kernel})"
    )


@operation()
def signing_key(url: str, dest: str, fingerprint: str | None) -> Generator[StringCommand, None, None]:
    """Fetch a repository's OpenPGP key to `dest`; with `fingerprint` it must hold exactly that primary key.

    The key is checked beside its place and moved there afterwards, so a wrong one never becomes trusted.
    """
    if host.get_fact(File, path=dest):
        present = host.get_fact(KeyFingerprints, path=dest)
        if fingerprint is None or present == [fingerprint]:
            host.noop(f"{dest} is there")
            return
    new = f"{dest}.new"
    yield StringCommand("curl", "-fsSL", "--retry", "3", "-o", QuoteString(new), QuoteString(url))
    if fingerprint is not None:
        check = (
            f'found=$(gpg --batch --with-colons --show-keys "{new}" | awk -F: '
            '\'$1=="pub"{p=1} $1=="sub"{p=0} $1=="fpr"&&p{print $10}\'); '
            f'[ "$found" = "{fingerprint}" ] || {{ rm -f "{new}"; '
            f'echo "{url} holds the key $found, expected {fingerprint}: not trusted" >&2; exit 1; }}'
        )
        yield StringCommand("sh", "-c", QuoteString(check))
    yield StringCommand("chmod", "0644", QuoteString(new))
    yield StringCommand("mv", "-f", QuoteString(new), QuoteString(dest))
