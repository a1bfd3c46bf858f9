"""GPU hosts: the wanted driver runs, every card is there, and nothing can change that by night."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest
from subjects import Hosts
from testinfra.host import Host

from flexi.plan.model import HostPlan, InstancePlan


@pytest.mark.hosts("driver")
def test_driver(host_plan: HostPlan, target: Host) -> None:
    """the driver that runs is the wanted one"""
    assert host_plan.driver is not None
    text = target.run("cat /proc/driver/nvidia/version").stdout
    version = re.search(r"\b(\d{3})\.\d+(\.\d+)*\b", text)
    assert version, "no NVIDIA driver is loaded; look at dmesg and lsmod"
    assert int(version.group(1)) == host_plan.driver.major, (
        f"driver {version.group(0)} runs, the site wants {host_plan.driver.branch}"
    )
    smi = target.run("nvidia-smi -L")
    assert smi.rc == 0, f"nvidia-smi fails: {complaint(smi.stdout + smi.stderr)}; a reboot loads what is installed"


@pytest.mark.hosts("driver")
def test_gpu_count(host_plan: HostPlan, target: Host) -> None:
    """all its GPUs are there"""
    smi = target.run("nvidia-smi --query-gpu=uuid --format=csv,noheader")
    assert smi.rc == 0, f"nvidia-smi fails: {complaint(smi.stdout + smi.stderr)}"
    seen = [line for line in smi.stdout.splitlines() if line.startswith("GPU-")]
    assert len(seen) == host_plan.gpu_count, f"nvidia-smi shows {len(seen)} of {host_plan.gpu_count} GPUs"


@pytest.mark.hosts("driver")
def test_persistence(target: Host) -> None:
    """its GPUs stay initialised while nothing uses them"""
    smi = target.run("nvidia-smi --query-gpu=index,persistence_mode --format=csv,noheader")
    assert smi.rc == 0, f"nvidia-smi fails: {complaint(smi.stdout + smi.stderr)}"
    modes = [line.partition(",") for line in smi.stdout.splitlines() if line]
    off = [index.strip() for index, _, mode in modes if mode.strip() != "Enabled"]
    assert modes, "nvidia-smi lists no GPU"
    assert not off, f"persistence mode is off on GPU {', '.join(off)}: systemctl cat nvidia-persistenced; deploy again"


def test_group_gpus(instance: InstancePlan, hosts: Hosts) -> None:
    """group {instance} has its own GPUs, and they are visible"""
    target = hosts[instance.host]
    line = target.run(f"grep ^CUDA_VISIBLE_DEVICES= {instance.environment_file}").stdout.strip()
    wanted = [uuid for uuid in line.partition("=")[2].split(",") if uuid]
    assert len(wanted) == len(instance.gpus), (
        f"{instance.environment_file} names {len(wanted)} GPUs, the plan {len(instance.gpus)}: deploy again"
    )
    smi = target.run("nvidia-smi --query-gpu=uuid --format=csv,noheader")
    missing = set(wanted) - set(smi.stdout.split())
    assert not missing, f"not visible: {', '.join(sorted(missing))}"


@pytest.mark.hosts("driver")
def test_holds(host_plan: HostPlan, target: Host) -> None:
    """the driver's packages and the kernel are held"""
    assert host_plan.driver is not None
    held = set(target.check_output("apt-mark showhold").split())
    installed = set(installed_packages(target, host_plan.driver.holds))
    assert not installed - held, f"not on hold: {', '.join(sorted(installed - held))}; deploy again"
    assert held & installed, "nothing is on hold, not even the driver"


def installed_packages(target: Host, names: Iterable[str]) -> list[str]:
    listing = target.run("dpkg-query -W -f='${db:Status-Status} ${Package}\\n' " + " ".join(names)).stdout
    return [line.split()[1] for line in listing.splitlines() if line.startswith("installed ")]


def complaint(text: str) -> str:
    """What nvidia-smi says besides the cards that it does list."""
    lines = [line for line in text.strip().splitlines() if not line.startswith("GPU")]
    return (lines or ["it says nothing"])[0]
