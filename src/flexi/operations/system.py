"""Firewalls and files that must be right before they replace the old ones."""

from __future__ import annotations

import shlex
from collections.abc import Generator, Sequence
from io import StringIO

from pyinfra import host
from pyinfra.api import FileUploadCommand, FunctionCommand, QuoteString, StringCommand, operation
from pyinfra.api.host import Host
from pyinfra.api.operation import OperationMeta
from pyinfra.api.state import State
from pyinfra.facts.files import FileContents

from flexi.components.stamps import stamping
from flexi.facts.firewall import NftTable
from flexi.facts.stamps import Stamp
from flexi.operations.foresight import happened
from flexi.operations.refusal import say

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


ROLLBACK = "flexi-firewall-rollback"
ROLLBACK_AFTER_S = 60


@operation()
def firewall_raised(rules: str, table: str, after: Sequence[OperationMeta] = ()) -> Commands:
    """Load the nftables file `rules` where it is not the one in use, or its `table` is gone (somebody flushed it).

    Rules that lock the admin out take themselves away: unless a new connection comes in, a timer puts the last good
    ones back, also for the next boot.
    """
    truth = host.get_fact(Stamp, what="firewall", inputs=(rules,))
    if truth.stamped == truth.present and host.get_fact(NftTable, table=table) and not happened(after):
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
