"""GPU hosts: the wanted driver runs, every card is there, and nothing can change that by night."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence

import pytest
from subjects import Hosts
from testinfra.host import Host

from flexi.plan.model.ollama import InstancePlan
from flexi.plan.model.site import HostPlan
from flexi.probe import SMI, parse_cards
from flexi_host.agent import smi
from flexi_host.agent.smi import Cards

PERSISTENCE = ("index", "uuid", "persistence_mode")


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
    errors = cards(target).errors
    assert not errors, f"nvidia-smi fails: {errors[0]}; a reboot loads what is installed"


@pytest.mark.hosts("driver")
def test_gpu_count(host_plan: HostPlan, target: Host) -> None:
    """all its GPUs are there and usable"""
    seen = cards(target)
    broken = [f"{gpu.called} is not usable: {gpu.fault}" for gpu in seen.gpus if gpu.fault]
    assert not broken, "; ".join(broken)
    errors = f" ({seen.errors[0]})" if seen.errors else ""
    assert len(seen.gpus) == host_plan.gpu_count, (
        f"nvidia-smi shows {len(seen.gpus)} of {host_plan.gpu_count} GPUs{errors}"
    )


@pytest.mark.hosts("driver")
def test_gpu_model(host_plan: HostPlan, target: Host) -> None:
    """its GPUs are those of the site file"""
    expected = host_plan.expected_gpus
    assert expected is not None
    others = [words for gpu in cards(target).gpus if (words := smi.other(gpu, expected))]
    assert not others, f"{'; '.join(others)} ({host_plan.gpu_place}); the plan's memory rests on it"


@pytest.mark.hosts("driver")
def test_persistence(target: Host) -> None:
    """its GPUs stay initialised while nothing uses them"""
    seen = cards(target, PERSISTENCE)
    assert seen.gpus, f"nvidia-smi fails: {(*seen.errors, 'it lists no GPU')[0]}"
    off = [str(gpu.index) for gpu in seen.usable if gpu.persistence is False]
    assert not off, f"persistence mode is off on GPU {', '.join(off)}: systemctl cat nvidia-persistenced; deploy again"


def test_group_gpus(instance: InstancePlan, hosts: Hosts) -> None:
    """group {instance} has its own GPUs, and they are usable"""
    target = hosts[instance.host]
    line = target.run(f"grep ^CUDA_VISIBLE_DEVICES= {instance.environment_file}").stdout.strip()
    wanted = [uuid for uuid in line.partition("=")[2].split(",") if uuid]
    assert len(wanted) == len(instance.gpus), (
        f"{instance.environment_file} names {len(wanted)} GPUs, the plan {len(instance.gpus)}: deploy again"
    )
    seen = cards(target)
    broken = [f"{gpu.called} is not usable: {gpu.fault}" for gpu in seen.gpus if gpu.uuid in wanted and gpu.fault]
    assert not broken, "; ".join(broken)
    missing = set(wanted) - {gpu.uuid for gpu in seen.gpus}
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


def cards(target: Host, fields: Sequence[str] = smi.FIELDS) -> Cards:
    """The host's cards as nvidia-smi lists them, judged as the agent does."""
    # A shell of its own: testinfra's sudo takes one command.
    script = f"{SMI}\nthe_cards {','.join(fields)}\n"
    done = target.run(f"sh -c {shlex.quote(script)}")
    seen = parse_cards(done.stdout)
    assert seen is not None, "nvidia-smi is not installed"
    return seen
