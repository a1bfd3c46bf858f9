"""State of the services that each host is held to, as its systemd and its firewall say: for `status` and the doctor."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from flexi.health import expectations
from flexi.plan.model.site import HostPlan, Plan
from flexi.ssh import remote

RUNNING = ("active", "activating", "reloading")
"""ActiveState of a unit that runs or is on its way (`man systemd`, Units)."""
RETRYING = "auto-restart"
"""SubState of a service that has failed and is started again in a moment."""
FIREWALL_TABLE = "nft list chain inet flexi input"
"""Prints the chain that drops what the plan does not open; fails where the table is not loaded."""
_FIREWALL_MARK = "flexi-firewall-status="


@dataclass(frozen=True)
class HostUnits:
    """The services of one host, or `error`: why they are not known."""

    host: str
    error: str | None = None
    stopped: tuple[tuple[str, str], ...] = ()
    """Unit and its state, of each that should run and does not."""
    firewall: bool = True
    """Whether the firewall's table is loaded and drops by default."""


def read_all(plan: Plan) -> list[HostUnits]:
    """Read all hosts of the plan at once."""
    return list(remote.for_each(plan.hosts, read).values())


def read(host: HostPlan) -> HostUnits:
    names = expectations.units(host)
    script = f"systemctl show -p Id,ActiveState,SubState -- {shlex.join(names)}; {FIREWALL_TABLE}; "
    answer = remote.run(host, remote.ROOT_SHELL, stdin=f"{script} echo {_FIREWALL_MARK}$?\n")
    if not answer.reached:
        return HostUnits(host.name, f"does not answer over SSH: {_last(answer.stderr)}")
    if _FIREWALL_MARK not in answer.stdout:
        return HostUnits(host.name, f"its services cannot be asked for: {_last(answer.stderr)}")
    return parse(host.name, names, answer.stdout)


def parse(host: str, names: list[str], text: str) -> HostUnits:
    """Judge what `systemctl show` and nft print. A unit that systemd does not list counts as stopped."""
    blocks = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in text.split("\n\n")]
    states = {block.get("Id"): (block.get("ActiveState", ""), block.get("SubState", "")) for block in blocks}
    stopped = []
    for name in names:
        active, sub = states.get(name, ("unknown", ""))
        if active not in RUNNING or sub == RETRYING:
            stopped.append((name, f"{active} ({sub})" if sub else active))
    loaded = f"{_FIREWALL_MARK}0" in text and "policy drop" in text
    return HostUnits(host, None, tuple(stopped), loaded)


def _last(words: str) -> str:
    return (words.splitlines() or ["no answer"])[-1]
