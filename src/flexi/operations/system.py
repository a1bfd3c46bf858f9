"""Reboots, firewalls and files that must be right before they replace the old ones."""

from __future__ import annotations

import shlex
import time
from collections.abc import Generator
from io import StringIO

from paramiko import SSHException
from pyinfra import host
from pyinfra.api import FileUploadCommand, FunctionCommand, QuoteString, StringCommand, operation
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.facts.files import FileContents

from flexi.facts import REBOOT_MARK, BootId, NftTable, NvidiaDriver, Stamp
from flexi.operations.applying import stamping
from flexi.operations.refusal import refuse, say

Commands = Generator[StringCommand | FileUploadCommand | FunctionCommand, None, None]


@operation()
def validated_file(dest: str, content: str, check: str, mode: str = "0644") -> Commands:
    """Write `content` to `dest` once the shell command `check` (with `{}` for the new file's path) accepts it.

    A file that fails its check never replaces the one in use, and the host fails with the checker's words.
    """
    current = host.get_fact(FileContents, path=dest)
    if current is not None and "\n".join(current) == content.rstrip("\n"):
        host.noop(f"{dest} is up to date")
        return
    new = f"{dest}.new"
    yield FileUploadCommand(StringIO(content), new, remote_temp_filename=host.get_temp_filename(new))
    yield StringCommand("sh", "-c", QuoteString(f"{check.format(new)} || {{ rm -f {new}; exit 1; }}"))
    yield StringCommand("chmod", mode, QuoteString(new))
    yield StringCommand("mv", "-f", QuoteString(new), QuoteString(dest))


@operation()
def running_driver(major: int, timeout_s: int = 1200) -> Commands:
    """Reboot when the running NVIDIA driver is not of branch `major`; afterwards it must be, or the host fails.

    The truth is the loaded module, never a package's name. Of nvidia-smi's complaints only one is mended by a boot,
    the library that differs from the module; a lost card is not, and other cards may serve. A boot that did not help
    is remembered until one does, so that a host with a broken driver is not rebooted on every run.
    """
    truth = host.get_fact(NvidiaDriver)
    if truth.running_major == major and not truth.nouveau and not truth.mismatch:
        host.noop(f"driver {truth.running} runs")
        return
    if truth.tried_boot_id == truth.boot_id:
        yield refuse(
            f"the running NVIDIA driver is {truth.running or 'none'}, wanted {major}.x, and the last reboot did not "
            f"change that ({truth.smi_error or 'nvidia-smi says nothing'}). Look at `dmesg | grep -i nvrm`; "
            f"remove {REBOOT_MARK} to allow another reboot"
        )
        return
    yield StringCommand("sh", "-c", QuoteString("( sleep 1 && systemctl reboot ) </dev/null >/dev/null 2>&1 &"))
    yield FunctionCommand(_wait_for_new_boot, (truth.boot_id, timeout_s), {})
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


ROLLBACK = "flexi-firewall-rollback"
ROLLBACK_AFTER_S = 60


@operation()
def firewall_raised(rules: str, table: str) -> Commands:
    """Load the nftables file `rules` where it is not the one in use, or its `table` is gone (somebody flushed it).

    Rules that lock the admin out take themselves away: unless a new connection comes in, a timer puts the last good
    ones back, also for the next boot.
    """
    truth = host.get_fact(Stamp, what="firewall", inputs=(rules,))
    if truth.stamped == truth.present and host.get_fact(NftTable, table=table):
        host.noop("the rules are in force")
        return
    good = f"{rules}.good"
    back = f"nft delete table {table}; rm -f {rules}; [ ! -f {good} ] || {{ cp {good} {rules}; nft -f {rules}; }}"
    arm = f"systemd-run --quiet --unit={ROLLBACK} --on-active={ROLLBACK_AFTER_S} /bin/sh -c {shlex.quote(back)}"
    disarm = f"systemctl stop {ROLLBACK}.timer 2>/dev/null || true"
    yield StringCommand("sh", "-c", QuoteString(f"{disarm}; {arm}"))
    yield StringCommand("nft", "-f", QuoteString(rules))
    yield FunctionCommand(_reconnect, (), {})
    yield StringCommand("sh", "-c", QuoteString(f"{disarm}; cp {rules} {good}; {stamping('firewall', (rules,))}"))


def _reconnect(state: State, host: Host) -> bool:
    host.disconnect()
    host.connect(show_errors=False)
    if host.connected:
        return True
    return say(
        state,
        host,
        f"the new firewall rules lock this machine out; they go in {ROLLBACK_AFTER_S} s. Widen ssh.allow_from",
    )
