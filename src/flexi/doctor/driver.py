"""The driver, the kernel that loads it, and the packages that bring both."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator

from flexi.probe import Candidate, Module, Package

from . import kinds
from .case import Case, Finding

VENDOR_LABEL = "NVIDIA CUDA"
"""`l=` of NVIDIA's CUDA repository, as in its own preferences file (and in `plan.platforms.cuda_pins`)."""
SHOWN = 4


def diagnose(case: Case) -> Iterator[Finding]:
    """On a host that flexi has not deployed to, only what an existing driver makes wrong."""
    if case.plan.driver is None:
        return
    if case.truth.deployed or _driver_packages(case):
        yield from _running(case)
        yield from _next_boot(case)
        yield from _packages(case)
    if case.truth.deployed:
        yield from _guards(case)
    yield from _reboot(case)


def _running(case: Case) -> Iterator[Finding]:
    truth, wanted = case.truth, case.plan.driver
    assert wanted is not None
    words = "; ".join(truth.smi_words) or "it says nothing"
    if truth.nouveau:
        yield case.finding(kinds.NOUVEAU, "nouveau is loaded" + ("" if truth.driver else ", NVIDIA's driver is not"))
    elif truth.driver is None:
        bare = truth.kernel in truth.kernels and not truth.has_modules(truth.kernel)
        why = f"kernel {truth.kernel} runs" + (" and has no module" if bare else "")
        yield case.finding(kinds.NOT_LOADED, f"no NVIDIA driver is loaded; {why}")
    elif truth.driver_major != wanted.major:
        what = f"driver {truth.driver} runs, the site wants {wanted.branch}"
        yield case.finding(kinds.OTHER_BRANCH, what)
    if truth.driver and truth.mismatch:
        library = truth.library or "another version"
        yield case.finding(kinds.MISMATCH, f"the module {truth.driver} is loaded, the library is {library} ({words})")
    elif truth.driver and truth.complete and truth.smi_status not in (0, None) and not truth.gpus:
        yield case.finding(kinds.SMI_FAILS, f"nvidia-smi ends with {truth.smi_status}: {words}")


def _next_boot(case: Case) -> Iterator[Finding]:
    truth, wanted = case.truth, case.plan.driver
    assert wanted is not None
    kernel = truth.next_kernel
    built = [module for module in truth.modules if module.kernel == kernel]
    if kernel in truth.kernels and not truth.has_modules(kernel):
        what = f"kernel {kernel} is the next to boot and has no NVIDIA module"
        package = wanted.module_package.format(release=kernel)
        yield case.finding(kinds.KERNEL_WITHOUT_MODULES, what, package=package, kernel=kernel)
    if truth.secure_boot and built and not any(_accepted(module, truth.enrolled_keys) for module in built):
        signer = built[0].signer or "nobody"
        yield case.finding(kinds.SECURE_BOOT, f"{built[0].path} is signed by {signer}, and Secure Boot is on")
    versions = {module.version for module in built if module.version}
    if versions and truth.library and not truth.mismatch and truth.library not in versions:
        found = ", ".join(sorted(versions))
        what = f"the next boot loads the module {found}, the library is {truth.library}"
        yield case.finding(kinds.MODULES_DIFFER, what)


def _accepted(module: Module, enrolled: Iterable[str]) -> bool:
    """Prebuilt modules carry the distribution's signature, which its kernel trusts; those of DKMS the machine's own
    key, which the firmware has to know."""
    return bool(module.signer) and (not module.by_dkms or any(module.signer in key for key in enrolled))


def _reboot(case: Case) -> Iterator[Finding]:
    truth = case.truth
    if truth.kernel in truth.kernels and truth.next_kernel != truth.kernel:
        what = f"kernel {truth.next_kernel} is installed, {truth.kernel} runs"
        if truth.tried == (truth.boot_id, truth.next_kernel):
            yield case.finding(kinds.OTHER_KERNEL, f"{what}, also after a deploy's reboot")
        else:
            yield case.finding(kinds.REBOOT_PENDING, what)
    reasons = []
    on_disk = {module.version for module in truth.modules if module.kernel == truth.kernel and module.version}
    if truth.driver and on_disk and truth.driver not in on_disk and not truth.mismatch:
        reasons.append(f"the module {truth.driver} is loaded, {', '.join(sorted(on_disk))} is on disk")
    others = [name for name in truth.reboot_packages if not name.startswith("linux-")]
    if truth.reboot_required and (others or not truth.reboot_packages):
        reasons.append("asked for by " + (_some(others) or "an update"))
    if reasons:
        yield case.finding(kinds.REBOOT_WANTED, "; ".join(reasons))


def _driver_packages(case: Case) -> list[Package]:
    """Installed packages of the plan's driver set, and others that are a driver's by their names."""
    assert case.plan.driver is not None
    planned = {name for name in (*case.plan.driver.packages, *case.plan.driver.holds) if "nvidia" in name}
    prefixes = ("nvidia-", "libnvidia-", "linux-modules-nvidia-", "libcuda1", "xserver-xorg-video-nvidia")
    others = ("nvidia-cuda-", "nvidia-container", "libnvidia-container", "nvidia-modprobe", "nvidia-settings")
    return [
        package
        for package in case.truth.packages
        if package.name in planned or (package.name.startswith(prefixes) and not package.name.startswith(others))
    ]


def _packages(case: Case) -> Iterator[Finding]:
    truth = case.truth
    packages = {package.name: package for package in _driver_packages(case)}
    empty = [name for name, package in packages.items() if package.transitional]
    if empty:
        yield case.finding(
            kinds.TRANSITIONAL,
            f"{_some(empty)} {_is(empty)} transitional ({packages[empty[0]].version}); {_instead(case)}",
        )
    candidates = [candidate for candidate in truth.candidates if candidate.name in packages]
    free = [candidate for candidate in candidates if candidate.changes and not packages[candidate.name].held]
    coming = [candidate for candidate in free if candidate.transitional and candidate.name not in empty]
    if coming:
        what = f"apt would take {_versions(coming)}: transitional, and not on hold"
        yield case.finding(kinds.TRANSITIONAL_COMING, what)
    vendor = [candidate for candidate in candidates if candidate.changes and candidate.label == VENDOR_LABEL]
    if vendor:
        yield case.finding(kinds.VENDOR_COMING, f"apt would take {_versions(vendor)} from NVIDIA's CUDA repository")
    theirs = [candidate for candidate in candidates if candidate.installed_labels == (VENDOR_LABEL,)]
    if theirs:
        names = [candidate.name for candidate in theirs]
        quoted = shlex.join(names)
        what = f"{_some(names)} {_is(names)} NVIDIA's own, not the distribution's"
        yield case.finding(kinds.VENDOR_INSTALLED, what, packages=quoted)


def _instead(case: Case) -> str:
    library = case.truth.library
    return f"the library is {library} now" if library else "no library of a driver is installed"


def _guards(case: Case) -> Iterator[Finding]:
    truth, wanted = case.truth, case.plan.driver
    assert wanted is not None
    installed = {package.name: package for package in truth.packages if package.state == "installed"}
    loose = [name for name in wanted.holds if name in installed and not installed[name].held]
    if loose:
        yield case.finding(kinds.UNHELD, f"not on hold: {_some(loose)}")
    present = {(pin.packages, pin.pin, pin.priority) for pin in truth.pins}
    pins = (*wanted.pins, *(case.plan.cuda.pins if case.plan.cuda else ()))
    absent = [pin for pin in pins if (" ".join(pin.packages.split()), pin.pin, pin.priority) not in present]
    if absent:
        called = [f"{pin.packages.split()[0]} ({pin.pin})" for pin in absent]
        yield case.finding(kinds.PINS_MISSING, f"{len(absent)} of {len(pins)} pins are missing: {_some(called)}")
    open_ = [name for name in case.plan.base.unattended_blacklist if name not in truth.blacklist]
    if open_:
        yield case.finding(kinds.UPGRADES_OPEN, f"not excluded: {_some(open_)}")
    if not truth.needrestart:
        yield case.finding(kinds.RESTARTS_OPEN, "flexi's limits for needrestart are not in place")


def _some(names: list[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _is(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _versions(candidates: list[Candidate]) -> str:
    return _some([f"{candidate.name} {candidate.version}" for candidate in candidates])
