"""Every host: reachable, its units up, its time right, room on its disks."""

from __future__ import annotations

import time

import pytest
from testinfra.host import Host

from flexi.plan.model import HostPlan

MAX_CLOCK_OFFSET_S = 5
"""Far below the five minutes at which Kerberos and signed tokens fail, far above what a slow SSH answer explains."""
MAX_DISK_USE_PERCENT = 90


def units(host_plan: HostPlan) -> list[str]:
    names = ["flexi-firewall.service", "systemd-timesyncd.service"]
    if host_plan.driver:
        names.append("nvidia-persistenced.service")
    if host_plan.ollama:
        names += [instance.unit for instance in host_plan.ollama.instances] + ["flexi-agent.service"]
    if "gateway" in host_plan.roles:
        names += ["haproxy.service", "flexi-catalogue.service"]
    return names


def test_reachable(target: Host) -> None:
    """answers over SSH, and its user may become root"""
    assert target.check_output("id -u") == "0", "sudo does not make the SSH user root"


def test_units(host_plan: HostPlan, target: Host) -> None:
    """its services run and come back after a reboot"""
    names = units(host_plan)
    active = target.run("systemctl is-active " + " ".join(names)).stdout.split()
    enabled = target.run("systemctl is-enabled " + " ".join(names)).stdout.split()
    wrong = [
        f"{name} is {state}, {boot}"
        for name, state, boot in zip(names, active, enabled, strict=True)
        if state != "active" or boot not in ("enabled", "static", "enabled-runtime")
    ]
    assert not wrong, "; ".join(wrong)


def test_clock(target: Host) -> None:
    """its clock agrees with this machine's"""
    before = time.time()
    remote = float(target.check_output("date +%s.%N"))
    after = time.time()
    offset = max(before - remote, remote - after, 0.0)
    assert offset <= MAX_CLOCK_OFFSET_S, f"the clock is off by {offset:.0f} s; look at timedatectl timesync-status"


@pytest.mark.parametrize("kind", ["space", "inodes"])
def test_disk(host_plan: HostPlan, target: Host, kind: str) -> None:
    """its disks have {kind} left"""
    paths = ["/", "/var"] + [instance.store for instance in (host_plan.ollama.instances if host_plan.ollama else ())]
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
