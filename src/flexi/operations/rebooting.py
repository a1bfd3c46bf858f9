"""Reboots: only where the running driver is not the wanted one, only with permission, and never twice in vain."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence

from paramiko import SSHException
from pyinfra import host, logger
from pyinfra.api import FunctionCommand, QuoteString, StringCommand, operation
from pyinfra.api.host import Host
from pyinfra.api.operation import OperationMeta
from pyinfra.api.state import State
from pyinfra.facts.deb import DebPackages

from flexi.facts import REBOOT_MARK, BootId, DriverTruth, HostTime, NvidiaDriver
from flexi.operations.draining import Interruption, drain
from flexi.operations.foresight import announced
from flexi.operations.refusal import refuse, say
from flexi.plan.maintenance import contains
from flexi.plan.model import MaintenancePlan

Commands = Generator[StringCommand | FunctionCommand, None, None]


def must_reboot(truth: DriverTruth, major: int) -> str | None:
    """Why the host cannot serve before a reboot; None where it can. The truth is the loaded module, never a package's
    name. Of nvidia-smi's complaints only one is mended by a boot, the library that differs from the module."""
    if truth.nouveau:
        return "nouveau has the cards"
    if truth.running_major != major:
        return f"the running driver is {truth.running or 'none'}, wanted {major}.x"
    if truth.mismatch:
        return f"the driver's library was changed under its running module {truth.running}"
    return None


def may_reboot(truth: DriverTruth) -> str | None:
    """Why a reboot would be good; None where it would change nothing."""
    return f"kernel {truth.next_kernel} is installed, {truth.kernel} runs" if truth.next_kernel else None


def permitted(maintenance: MaintenancePlan) -> bool:
    """Whether this host may be rebooted now: the admin said so, or one of the site's windows is open."""
    if str(host.data.get("allow_reboot", "")).lower() in ("true", "yes", "1"):
        return True
    if not maintenance.reboot_windows:
        return False
    now = host.get_fact(HostTime)
    return any(contains(window, now.weekday, now.minute) for window in maintenance.reboot_windows)


@operation()
def reboot_permitted(major: int, packages: Sequence[str], maintenance: MaintenancePlan) -> Commands:
    """Fail the host before anything on it is changed where this deploy would have to reboot it and may not.

    A driver whose `packages` are missing is installed, and only a reboot brings what was installed into use.
    """
    truth = host.get_fact(NvidiaDriver)
    reason = must_reboot(truth, major)
    missing = [name for name in packages if name not in (host.get_fact(DebPackages) or {})]
    if reason is None and missing:
        reason = f"{missing[0]} is not installed, and the driver that runs is loaded anew with it"
    if reason is None or permitted(maintenance):
        host.noop("no reboot is due, or it is allowed")
        return
    windows = ", ".join(window.text for window in maintenance.reboot_windows)
    when = f" or wait for {windows}" if windows else " or give the site a window: maintenance.reboots"
    yield refuse(f"needs a reboot: {reason}. Nothing was changed here. Allow it with --allow-reboot,{when}")


@operation()
def rebooted(
    major: int,
    maintenance: MaintenancePlan,
    interrupts: Interruption,
    after: Sequence[OperationMeta] = (),
    timeout_s: int = 1200,
) -> Commands:
    """Reboot where the running driver is not of branch `major`, or another kernel waits; afterwards the driver must
    run, or the host fails.

    A boot that did not help is remembered until one does, so that a host with a broken driver is not rebooted on
    every run. `after` are the operations that install the driver, for a dry run's sake.
    """
    truth = host.get_fact(NvidiaDriver)
    reason = must_reboot(truth, major)
    if reason is None and permitted(maintenance):
        reason = may_reboot(truth)
    if reason is None and announced(after):
        reason = "the driver's packages change"
    if reason is None:
        host.noop(f"driver {truth.running} runs")
        return
    if truth.tried_boot_id == truth.boot_id:
        yield refuse(
            f"{reason}, and the last reboot did not change that ({truth.smi_error or 'nvidia-smi says nothing'}). "
            f"Look at `dmesg | grep -i nvrm`; remove {REBOOT_MARK} to allow another reboot"
        )
        return
    if not permitted(maintenance):
        yield refuse(f"needs a reboot: {reason}. Allow it with --allow-reboot")
        return
    if not host.state.is_executing:
        host.log_styled(f"would be rebooted: {reason}", fg="yellow", log_func=logger.warning)
    yield from drain(interrupts)
    yield StringCommand("sh", "-c", QuoteString("( sleep 1 && systemctl reboot ) </dev/null >/dev/null 2>&1 &"))
    yield FunctionCommand(_wait_for_new_boot, (truth.boot_id, timeout_s), {})
    # SSH answers before the boot has ended: what is only on its way up must not look as if it was stopped.
    yield StringCommand("sh", "-c", QuoteString("timeout 180 systemctl is-system-running --wait >/dev/null; true"))
    yield StringCommand(
        "sh", "-c", QuoteString(f"mkdir -p /var/lib/flexi && cp /proc/sys/kernel/random/boot_id {REBOOT_MARK}")
    )
    yield FunctionCommand(_check_driver, (major,), {})
    yield StringCommand("rm", "-f", REBOOT_MARK)


def _wait_for_new_boot(state: State, host: Host, old_boot_id: str, timeout_s: int) -> bool:
    """pyinfra's own reboot compares uptimes, which a container shares with its host: the boot id is exact."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        host.disconnect()
        time.sleep(1)
        host.connect(show_errors=False)
        if host.connected and _boot_id(host) not in (None, old_boot_id):
            return True
    return say(state, host, f"did not come back within {timeout_s} s of its reboot; look at its console")


def _boot_id(host: Host) -> str | None:
    """Asked below pyinfra's facts, which would fail the host when the connection breaks under the question."""
    try:
        answered, output = host.run_shell_command(BootId().command(), _timeout=10)
    except (OSError, EOFError, TimeoutError, SSHException):
        return None
    return BootId().process(output.stdout_lines) if answered and output.stdout_lines else None


def _check_driver(state: State, host: Host, major: int) -> bool:
    deadline = time.monotonic() + 120
    while True:
        truth = host.get_fact(NvidiaDriver)
        if truth.running_major == major and not truth.mismatch:
            return True
        if time.monotonic() > deadline:
            return say(
                state,
                host,
                f"rebooted, but the running driver is {truth.running or 'none'}, wanted {major}.x "
                f"({truth.smi_error or 'no error from nvidia-smi'})",
            )
        time.sleep(2)
