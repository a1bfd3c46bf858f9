"""The host's firewall rules, which take themselves away where they lock the admin out."""

from __future__ import annotations

import shlex
from collections.abc import Generator, Sequence

from pyinfra import host
from pyinfra.api import FunctionCommand, QuoteString, StringCommand, operation
from pyinfra.api.host import Host
from pyinfra.api.operation import OperationMeta
from pyinfra.api.state import State

from flexi.components.stamps import stamping
from flexi.facts.firewall import NftTable
from flexi.facts.stamps import Stamp
from flexi.operations.host_failure import report_failure
from flexi.operations.prediction import changed

Commands = Generator[StringCommand | FunctionCommand, None, None]

ROLLBACK_UNIT = "flexi-firewall-rollback"
ROLLBACK_AFTER_S = 60


@operation()
def load(rules: str, table: str, after: Sequence[OperationMeta] = ()) -> Commands:
    """Load the nftables file `rules` where it is not the one in use, or its `table` is gone (somebody flushed it).

    Rules that lock the admin out take themselves away: unless a new connection comes in, a timer puts the last good
    ones back, also for the next boot.
    """
    stamp = host.get_fact(Stamp, what="firewall", inputs=(rules,))
    if stamp.stamped == stamp.present and host.get_fact(NftTable, table=table) and not changed(after):
        host.noop("the rules are in force")
        return
    good = f"{rules}.good"
    back = f"nft delete table {table}; rm -f {rules}; [ ! -f {good} ] || {{ cp {good} {rules}; nft -f {rules}; }}"
    arm = f"systemd-run --quiet --unit={ROLLBACK_UNIT} --on-active={ROLLBACK_AFTER_S} /bin/sh -c {shlex.quote(back)}"
    disarm = f"systemctl stop {ROLLBACK_UNIT}.timer 2>/dev/null || true"
    yield StringCommand("sh", "-c", QuoteString(f"{disarm}; {arm}"))
    yield StringCommand("nft", "-f", QuoteString(rules))
    yield FunctionCommand(_reconnect, (), {})
    yield StringCommand("sh", "-c", QuoteString(f"{disarm}; cp {rules} {good}; {stamping('firewall', (rules,))}"))


def _reconnect(state: State, host: Host) -> bool:
    host.disconnect()
    host.connect(show_errors=False)
    if host.connected:
        return True
    return report_failure(
        state,
        host,
        f"the new firewall rules lock this machine out; they go in {ROLLBACK_AFTER_S} s. Widen ssh.allow_from",
    )
