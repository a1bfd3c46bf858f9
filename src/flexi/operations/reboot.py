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

from flexi.facts.driver import REBOOT_MARK, BootId, NvidiaDriver
from flexi.operations import drain
from flexi.operations.host_failure import fail_host, report_failure
from flexi.operations.prediction import changed
from flexi.operations.reboot_rules import (
    PendingVersions,
    missing_packages,
    newer_kernel,
    pending_versions,
    permission_hint,
    reboot_allowed,
    reboot_reason,
)
from flexi.plan.model.driver import DriverPlan
from flexi.plan.model.maintenance import MaintenancePlan

Commands = Generator[StringCommand | FunctionCommand, None, None]


@operation()
def fail_unless_allowed(
    driver: DriverPlan, maintenance: MaintenancePlan, update: bool, untouched: str = "Nothing was changed here"
) -> Commands:
    """Fail the host before it is changed where this deploy would have to reboot it and may not.

    Asked first of all, and again at the beginning of the host's turn: a window may have closed meanwhile. A driver of
    which packages are missing comes at the archive's version, whatever it may be; `untouched` says what was left.
    """
    reason = reboot_reason(host.get_fact(NvidiaDriver), driver.major, pending_versions(driver, update).library)
    absent = missing_packages(driver)
    if reason is None and absent:
        reason = f"{absent[0]} is not installed, and the driver that runs is loaded anew with it"
    if reason is None or reboot_allowed(maintenance):
        host.noop("no reboot is due, or it is allowed")
        return
    yield fail_host(f"needs a reboot: {reason}. {untouched}. {permission_hint(maintenance)}")


@operation()
def if_needed(
    driver: DriverPlan,
    maintenance: MaintenancePlan,
    interrupts: drain.Interruption,
    update: bool = False,
    after: Sequence[OperationMeta] = (),
    timeout_s: int = 1200,
) -> Commands:
    """Reboot where the running driver is not the wanted one, or another kernel waits; afterwards the driver must run,
    or the host fails.

    A boot that did not help is remembered until one does: a host with a broken driver, or one whose boot loader starts
    an older kernel, is not rebooted on every run. Where the operations `after` have changed packages in this run, the
    reboot needs no further permission: the host is drained, and half of a change serves nobody.
    """
    driver_state = host.get_fact(NvidiaDriver)
    ahead = PendingVersions() if host.state.is_executing else pending_versions(driver, update)
    reason = reboot_reason(driver_state, driver.major, ahead.library)
    tried = driver_state.tried_boot_id == driver_state.boot_id
    if reason is not None and tried and driver_state.tried_kernel is None:
        yield fail_host(
            f"{reason}, and the last reboot did not change that "
            f"({driver_state.smi_error or 'nvidia-smi says nothing'}). "
            f"Look at `dmesg | grep -i nvrm`; remove {REBOOT_MARK} to allow another reboot"
        )
        return
    allowed = reboot_allowed(maintenance)
    kernel = newer_kernel(driver_state, ahead.kernels)
    if reason is None and kernel and allowed:
        if tried and driver_state.tried_kernel == kernel:
            _warn_of_other_kernel(host, kernel, driver_state.kernel)
        else:
            reason = f"kernel {kernel} is installed, {driver_state.kernel} runs"
    if reason is None:
        host.noop(f"driver {driver_state.running} runs")
        return
    if not allowed and not (host.state.is_executing and changed(after)):
        yield fail_host(f"needs a reboot: {reason}. {permission_hint(maintenance)}")
        return
    if not host.state.is_executing:
        host.log_styled(f"would be rebooted: {reason}", fg="yellow", log_func=logger.warning)
    yield from drain.running_instances(interrupts)
    yield StringCommand("sh", "-c", QuoteString("( sleep 1 && systemctl reboot ) </dev/null >/dev/null 2>&1 &"))
    yield FunctionCommand(_wait_for_new_boot, (driver_state.boot_id, timeout_s), {})
    # SSH answers before the boot has ended: what is only on its way up must not look as if it was stopped.
    yield StringCommand("sh", "-c", QuoteString("timeout 180 systemctl is-system-running --wait >/dev/null; true"))
    yield StringCommand(
        "sh", "-c", QuoteString(f"mkdir -p /var/lib/flexi && cp /proc/sys/kernel/random/boot_id {REBOOT_MARK}")
    )
    yield FunctionCommand(_check_driver, (driver.major,), {})
    yield FunctionCommand(_remember_kernel, (), {})


def _warn_of_other_kernel(host: Host, wanted: str, running: str) -> None:
    host.log_styled(
        f"kernel {wanted} is installed, and this host's boot loader starts {running}: not rebooted for that again. "
        "Look at GRUB_DEFAULT in /etc/default/grub",
        fg="yellow",
        log_func=logger.warning,
    )


def _remember_kernel(state: State, host: Host) -> bool:
    """Keep the kernel that this boot was to start and did not; the driver is right, so the rest of the mark goes."""
    driver_state = host.get_fact(NvidiaDriver)
    if driver_state.next_kernel is None:
        command = StringCommand("rm", "-f", REBOOT_MARK)
    else:
        command = StringCommand("sh", "-c", QuoteString(f"echo {driver_state.next_kernel} >>{REBOOT_MARK}"))
        _warn_of_other_kernel(host, driver_state.next_kernel, driver_state.kernel)
    done, _ = host.run_shell_command(command, _sudo=True)
    return done


def _wait_for_new_boot(state: State, host: Host, old_boot_id: str, timeout_s: int) -> bool:
    """Wait for another boot id: pyinfra's own reboot compares uptimes, which a container shares with its host."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        host.disconnect()
        time.sleep(1)
        host.connect(show_errors=False)
        if host.connected and _boot_id(host) not in (None, old_boot_id):
            return True
    return report_failure(state, host, f"did not come back within {timeout_s} s of its reboot; look at its console")


def _boot_id(host: Host) -> str | None:
    """Read the boot id below pyinfra's facts, which would fail the host when the connection breaks meanwhile."""
    try:
        answered, output = host.run_shell_command(BootId().command(), _timeout=10)
    except (OSError, EOFError, TimeoutError, SSHException):
        return None
    return BootId().process(output.stdout_lines) if answered and output.stdout_lines else None


def _check_driver(state: State, host: Host, major: int) -> bool:
    deadline = time.monotonic() + 120
    while True:
        driver_state = host.get_fact(NvidiaDriver)
        if driver_state.running_major == major and not driver_state.mismatch:
            return True
        if time.monotonic() > deadline:
            return report_failure(
                state,
                host,
                f"rebooted, but the running driver is {driver_state.running or 'none'}, wanted {major}.x "
                f"({driver_state.smi_error or 'no error from nvidia-smi'})",
            )
        time.sleep(2)
