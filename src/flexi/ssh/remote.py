"""Commands on a site's hosts over OpenSSH, one connection for each host, shared by everything that reads."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from flexi.errors import FlexiError
from flexi.plan.model.site import HostPlan
from flexi.plan.model.ssh import SshPlan

Result = TypeVar("Result")

UNREACHABLE = 255
"""OpenSSH's own exit status when it could not connect (`man ssh`)."""

ROOT_SHELL = 'if [ "$(id -u)" = 0 ]; then exec sh -s; else exec sudo -n sh -s; fi'
"""A command that runs the script on its standard input as root: nothing of it is an argument or in sudo's log."""


@dataclass(frozen=True)
class Answer:
    status: int
    stdout: str
    stderr: str

    @property
    def reached(self) -> bool:
        return self.status != UNREACHABLE

    @property
    def last_words(self) -> str:
        """Last line of standard error: OpenSSH's and most programs' reason."""
        return last_line(self.stderr)

    @property
    def unreachable(self) -> str:
        """Message for a host that was not reached, without its name."""
        return unreachable(self.last_words)


def last_line(text: str) -> str:
    """Return the last line of a program's standard error; "no answer" where it wrote nothing."""
    return (text.strip().splitlines() or ["no answer"])[-1]


def unreachable(reason: str) -> str:
    """Return the message for a host that was not reached, without its name."""
    return f"does not answer over SSH: {reason}"


def control_path(ssh: SshPlan) -> str:
    """A short literal socket path (testinfra cannot take OpenSSH's %-escapes), private to this user.

    Configurations differ between sites with equal addresses, so all that names a target goes into it.
    """
    target = f"{ssh.user}@{ssh.address}:{ssh.port}:{ssh.config}"
    return str(_socket_directory() / hashlib.sha256(target.encode()).hexdigest()[:16])


def _socket_directory() -> Path:
    """A directory that is this user's alone; XDG_RUNTIME_DIR may be unset, gone, or somebody else's (after su)."""
    bases = [Path(base) for base in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir()) if base]
    for base in bases:
        directory = base / f"flexi-ssh-{os.getuid()}"
        with contextlib.suppress(OSError):
            directory.mkdir(mode=0o700, exist_ok=True)
            found = directory.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and os.access(directory, os.W_OK):
                return directory
    places = " or ".join(str(base) for base in bases)
    raise FlexiError(
        f"cannot make flexi-ssh-{os.getuid()} for SSH's sockets in {places}: set TMPDIR to a directory of yours"
    )


def ssh_options(ssh: SshPlan, connect_timeout_s: int = 10) -> list[str]:
    options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={connect_timeout_s}"]
    options += ["-o", "ControlMaster=auto", "-o", f"ControlPath={control_path(ssh)}", "-o", "ControlPersist=30"]
    # A host that vanished in the middle of a long answer is given up, not waited for.
    options += ["-o", "ServerAliveInterval=15"]
    if ssh.config:
        options += ["-F", ssh.config]
    if ssh.identity:
        options += ["-i", ssh.identity]
    return options


def ssh_command(ssh: SshPlan, command: str) -> list[str]:
    """The arguments that run a shell command on a host as the site's SSH user."""
    return ["ssh", *ssh_options(ssh), "-p", str(ssh.port), f"{ssh.user}@{ssh.address}", command]


def _ssh(argv: list[str], timeout_s: float | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False)
    except FileNotFoundError as error:
        raise FlexiError("OpenSSH's client is missing on this machine: apt-get install openssh-client") from error


def direct_address(ssh: SshPlan) -> str | None:
    """Where OpenSSH itself would connect to (its configuration may rename a host); None behind a jump host."""
    argv = ["ssh", "-G", *(["-F", ssh.config] if ssh.config else []), ssh.address]
    settings = _ssh(argv).stdout
    values = dict(line.partition(" ")[::2] for line in settings.splitlines())
    if any(values.get(jump, "none") != "none" for jump in ("proxyjump", "proxycommand")):
        return None
    return values.get("hostname", ssh.address)


def run(host: HostPlan, command: str, timeout_s: float = 30, stdin: str = "") -> Answer:
    """Run a shell command on the host as the site's SSH user. Status 255 where the host cannot be reached, or gives no
    whole answer in time: `stdout` is then what came until the end."""
    return run_at(host.ssh, command, timeout_s, stdin)


def run_at(ssh: SshPlan, command: str, timeout_s: float = 30, stdin: str = "") -> Answer:
    """As `run`, on a machine that need not be a host of the site."""
    try:
        done = _ssh(ssh_command(ssh, command), timeout_s, stdin)
    except subprocess.TimeoutExpired as late:
        # Bytes even in text mode (bpo-43423).
        so_far = late.stdout.decode(errors="replace") if isinstance(late.stdout, bytes) else late.stdout or ""
        return Answer(UNREACHABLE, so_far, f"no answer within {timeout_s:.0f} s")
    return Answer(done.returncode, done.stdout, done.stderr.strip())


def for_each(hosts: Sequence[HostPlan], work: Callable[[HostPlan], Result]) -> dict[str, Result]:
    """`work` on all hosts at once; results by host name, in the plan's order."""
    if not hosts:
        return {}
    with ThreadPoolExecutor(max_workers=min(32, len(hosts))) as pool:
        return dict(zip((host.name for host in hosts), pool.map(work, hosts), strict=True))
