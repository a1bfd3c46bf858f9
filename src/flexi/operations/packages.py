"""Packages of apt, their holds, and signing keys of repositories."""

from __future__ import annotations

import shlex
from collections.abc import Generator, Sequence

from pyinfra import host
from pyinfra.api import FunctionCommand, QuoteString, StringCommand, operation
from pyinfra.api.operation import OperationMeta
from pyinfra.facts.deb import DebPackages
from pyinfra.facts.files import File

from flexi.facts.apt import HOLDS, HeldPackages, KeyFingerprints
from flexi.operations.apt_locks import APT_LOCK_OPTIONS, retry_while_locked, update_index
from flexi.operations.prediction import predicted
from flexi.plan.build.needs import TIME_DAEMON, TIME_DAEMONS

Commands = Generator[StringCommand | FunctionCommand, None, None]


@operation()
def present(names: Sequence[str]) -> Commands:
    """Install what is missing of `packages`, with a fresh index; a host that has all of them is left alone."""
    present = host.get_fact(DebPackages) or {}
    absent = [name for name in names if name not in present]
    if not absent:
        host.noop("all of them are installed")
        return
    yield update_index()
    yield install_command(absent)


def install_command(packages: Sequence[str], *options: str) -> StringCommand:
    return StringCommand(
        "DEBIAN_FRONTEND=noninteractive",
        *("apt-get", "-y", *APT_LOCK_OPTIONS, "install", "--no-install-recommends", *options),
        *("-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"),
        *(QuoteString(name) for name in packages),
    )


@operation()
def time_daemon() -> Generator[StringCommand, None, None]:
    """Install systemd-timesyncd where no other time daemon is: a university's own chrony stays."""
    present = host.get_fact(DebPackages) or {}
    if any(name in present for name in TIME_DAEMONS):
        host.noop("a time daemon is installed")
        return
    yield update_index()
    yield install_command([TIME_DAEMON])


@operation()
def holds_released(except_for: Sequence[str]) -> Generator[StringCommand, None, None]:
    """Let go of what flexi itself holds and no longer wants to: another branch must be able to replace the old one."""
    unwanted = sorted(host.get_fact(HeldPackages).set_by_flexi - set(except_for))
    if not unwanted:
        host.noop("no hold is left over")
        return
    yield StringCommand("sh", "-c", QuoteString(retry_while_locked(f"apt-mark unhold {shlex.join(unwanted)}")))


@operation()
def hold(
    names: Sequence[str], coming: Sequence[str] = (), after: Sequence[OperationMeta] = ()
) -> Generator[StringCommand, None, None]:
    """Hold those of `packages` that are installed: an upgrade of them is then a decision, not a night's accident.

    For the prediction of a dry run: `coming` are those that operations before install, `after` operations that lift
    holds.
    """
    present = host.get_fact(DebPackages) or {}
    holds = host.get_fact(HeldPackages)
    wanted = [name for name in names if name in present]
    predicted_installs = (
        [] if host.state.is_executing else [name for name in coming if name in names and name not in present]
    )
    if set(wanted) <= holds.set_by_flexi and not predicted_installs and not predicted(after):
        host.noop("all of them are on hold")
        return
    names = " ".join(wanted)
    script = (
        f"set -e{retry_while_locked(f'apt-mark hold {names}')}mkdir -p /var/lib/flexi; printf '%s\\n' {names} >{HOLDS}"
    )
    yield StringCommand("sh", "-c", QuoteString(script))


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
