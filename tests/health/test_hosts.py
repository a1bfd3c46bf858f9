"""Every host: reachable, its units up, its time right, room on its disks."""

from __future__ import annotations

import time
from collections.abc import Iterable

import pytest
from testinfra.host import Host

from flexi.health.expectations import MAX_CLOCK_OFFSET_S, MAX_DISK_USE_PERCENT, STARTS_BY_ITSELF, TIME_DAEMONS, units
from flexi.plan.model.site import HostPlan


def test_reachable(target: Host) -> None:
    """answers over SSH, and its user may become root"""
    assert target.check_output("id -u") == "0", "sudo does not make the SSH user root"


def unit_states(target: Host, names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """(ActiveState, UnitFileState) of each unit; a unit that is not installed is inactive, with an empty file state."""
    text = target.run("systemctl show -p Id,ActiveState,UnitFileState " + " ".join(names)).stdout
    blocks = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in text.split("\n\n")]
    return {block["Id"]: (block["ActiveState"], block["UnitFileState"]) for block in blocks if "Id" in block}


def test_units(host_plan: HostPlan, target: Host) -> None:
    """its services run and come back after a reboot"""
    states = unit_states(target, units(host_plan))
    wrong = []
    for name in units(host_plan):
        active, boot = states.get(name, ("unknown", ""))
        if active != "active" or boot not in STARTS_BY_ITSELF:
            wrong.append(f"{name} is {active}, {boot or 'not installed'}")
    assert not wrong, "; ".join(wrong)


def test_time_daemon(target: Host) -> None:
    """something keeps its clock right"""
    states = unit_states(target, TIME_DAEMONS)
    right = [name for name, (active, boot) in states.items() if active == "active" and boot in STARTS_BY_ITSELF]
    assert right, f"none of {', '.join(TIME_DAEMONS)} is active and enabled"


def test_clock(target: Host) -> None:
    """its clock agrees with this machine's"""
    before = time.time()
    remote = float(target.check_output("date +%s.%N"))
    after = time.time()
    offset = max(before - remote, remote - after, 0.0)
    assert offset <= MAX_CLOCK_OFFSET_S, f"the clock is off by {offset:.0f} s; look at timedatectl or chronyc tracking"


@pytest.mark.parametrize("kind", ["space", "inodes"])
def test_disk(host_plan: HostPlan, target: Host, kind: str) -> None:
    """its disks have {kind} left"""
    paths = ["/", "/var", "/tmp"] + [
        instance.store for instance in (host_plan.ollama.instances if host_plan.ollama else ())
    ]
    column = "ipcent" if kind == "inodes" else "pcent"
    lines = target.check_output(f"df --output={column},target " + " ".join(paths)).splitlines()[1:]
    full = []
    for line in lines:
        percent, mount = line.split(None, 1)
        if percent != "-" and int(percent.rstrip("%")) > MAX_DISK_USE_PERCENT:
            full.append(f"{mount} is {percent} full")
    assert not full, "; ".join(sorted(set(full)))


@pytest.mark.hosts("firewall")
def test_firewall(target: Host) -> None:
    """its firewall drops what the plan does not open"""
    chain = target.run("nft list chain inet flexi input")
    assert chain.rc == 0, "flexi's nftables table is not loaded: systemctl restart flexi-firewall"
    assert "policy drop" in chain.stdout, "the input chain does not drop by default"
