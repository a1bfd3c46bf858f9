"""The node /dev/nvidia-uvm: what keeps an instance from it, and the program and unit that make it."""

from __future__ import annotations

import errno
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.agent_fakes import UUIDS, smi_line

from flexi.paths import ROOT
from flexi_host.agent import devices, gate
from flexi_host.agent.assess import Observation, Server, assess
from flexi_host.agent.config import InstanceConfig
from flexi_host.agent.state import Phase

NODES = ROOT / "templates/driver/flexi-gpu-nodes.service"
PROGRAM = ROOT / "templates/driver/flexi-gpu-nodes"
INSTANCE = ROOT / "templates/ollama/ollama@.service"

# The names that NVIDIA/open-gpu-kernel-modules registers at 535.183.01 and 580.65.06 (nv-frontend.c, nv.c, nv-caps.c).
BRANCH_535 = """Character devices:
  1 mem
 10 misc
195 nvidia-frontend
{uvm}
Block devices:
  7 loop
510 nvidia-uvm
"""
BRANCH_580 = """Character devices:
  1 mem
195 nvidia
195 nvidia-modeset
195 nvidiactl
234 nvidia-caps-imex-channels
235 nvidia-caps
{uvm}
Block devices:
259 blkext
"""


class Host:
    """A host's files below a directory. Its node is one that everybody can open: /dev/null, of major number 1."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "dev").mkdir()
        (root / "proc").mkdir()
        self.node = root / "dev/nvidia-uvm"
        self.loaded(1)
        self.node.symlink_to("/dev/null")

    def loaded(self, major: int | None, text: str = BRANCH_535) -> None:
        line = f"{major:3} nvidia-uvm\n" if major is not None else ""
        (self.root / "proc/devices").write_text(text.format(uvm=line))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def refuse(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def opened(path: Any, *rest: Any) -> int:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "open", opened)


@pytest.mark.parametrize("text", [BRANCH_535, BRANCH_580])
def test_a_node_that_opens_refuses_nothing(host: Host, text: str) -> None:
    host.loaded(1, text)
    assert devices.refusal(host.root) is None


@pytest.mark.parametrize("text", [BRANCH_535, BRANCH_580])
def test_a_module_that_is_not_loaded_is_named(host: Host, text: str) -> None:
    """Neither a block device of the name nor nvidia-uvm's longer namesakes count."""
    host.loaded(None, text)
    (host.root / "proc/devices").write_text(
        (host.root / "proc/devices").read_text().replace("misc", "nvidia-uvm-tools")
    )
    reason = devices.refusal(host.root)
    assert reason is not None
    assert "module nvidia-uvm is not loaded" in reason
    assert "journalctl -u flexi-gpu-nodes" in reason
    assert len(reason) < 120, "HAProxy's log takes no more (flexi_host.agent.drain)"


def test_a_missing_node_is_named(host: Host) -> None:
    host.node.unlink()
    assert "/dev/nvidia-uvm is missing although nvidia-uvm is loaded" in str(devices.refusal(host.root))


@pytest.mark.parametrize("left", ["number", "file"])
def test_a_stale_node_is_never_opened(host: Host, left: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of the load before may be another driver's by now, a watchdog's for one."""
    if left == "number":
        host.loaded(511)
    else:
        host.node.unlink()
        host.node.touch()
    refuse(monkeypatch, errno.EBUSY)
    assert "is not the node of nvidia-uvm" in str(devices.refusal(host.root))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EPERM, "the unit's device cgroup refuses /dev/nvidia-uvm"),
        (errno.EACCES, r"may not open /dev/nvidia-uvm, which is c[rwx-]{9} and belongs to user 0 and group 0"),
        (errno.ENXIO, "no driver stands behind /dev/nvidia-uvm"),
        (errno.ENODEV, "no driver stands behind /dev/nvidia-uvm"),
        (errno.EIO, r"/dev/nvidia-uvm does not open \(Input/output error\)"),
    ],
)
def test_each_reason_has_its_sentence(host: Host, number: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, number)
    reason = devices.refusal(host.root)
    assert reason is not None
    assert re.search(words, reason)
    assert "\n" not in reason
    # The agent tells the same of the host, less what holds for its own process alone.
    assert devices.missing(host.root) is None


def test_a_unit_without_proc_devices_asks_sysfs(host: Host) -> None:
    """ProcSubset=pid hides the one, a container may have another of it; the node still has to open."""
    (host.root / "proc/devices").unlink()
    assert "not loaded" in str(devices.refusal(host.root))
    (host.root / "sys/module/nvidia_uvm").mkdir(parents=True)
    assert devices.refusal(host.root) is None
    host.node.unlink()
    assert "is missing" in str(devices.refusal(host.root))


def test_the_gate_wants_the_node_as_well(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nvidia-smi never opens it: all of its GPUs, and yet Ollama would serve from the CPU."""
    smi = tmp_path / "bin/nvidia-smi"
    smi.parent.mkdir()
    smi.write_text(f"#!/bin/sh\necho '{smi_line(0, UUIDS[0])}'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{smi.parent}:{os.environ['PATH']}")
    env_file = tmp_path / "a.env"
    env_file.write_text(f"CUDA_VISIBLE_DEVICES={UUIDS[0]}\n")
    assert gate.refusal(env_file, host.root) is None
    host.loaded(None)
    assert "nvidia-uvm is not loaded" in str(gate.refusal(env_file, host.root))


@pytest.mark.parametrize(("away_s", "phase"), [(5.0, Phase.STARTING), (90.0, Phase.FAULT)])
def test_the_agent_says_why_an_instance_is_not_there(away_s: float, phase: Phase, tmp_path: Path) -> None:
    config = InstanceConfig("a", "http://127.0.0.1:9", tmp_path / "a.env", tmp_path, ())
    seen = Observation(server=Server.NOT_RUNNING, words="connection refused", away_s=away_s, start_fault="no node")
    view = assess(config, seen, {})
    assert view.phase is phase
    assert str(view.reason).endswith(": no node")


CGROUP = Path("/sys/fs/cgroup/devices")
real_cgroup = pytest.mark.skipif(
    os.geteuid() != 0 or not os.access(CGROUP / "devices.allow", os.W_OK), reason="needs root and cgroup v1's devices"
)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mknod is root's")


@pytest.fixture
def closed() -> Iterator[Path]:
    """A device cgroup as systemd makes it for DevicePolicy=closed where a name resolves to nothing."""
    group = CGROUP / f"flexi-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "devices.deny").write_text("a")
        (group / "devices.allow").write_text("c 1:5 rw")
        yield group
    finally:
        group.rmdir()


@real_cgroup
def test_the_kernels_device_cgroup_is_told_apart(host: Host, closed: Path) -> None:
    """Even of root: it is what `+` in a unit does not lift, and `rw` allows no mknod."""
    code = f"""
import os, stat
from pathlib import Path
from flexi_host.agent import devices
Path({str(closed / "cgroup.procs")!r}).write_text(str(os.getpid()))
print(devices.refusal(Path({str(host.root)!r})))
try:
    os.mknod({str(host.root / "dev/made")!r}, stat.S_IFCHR | 0o666, os.makedev(1, 5))
except OSError as error:
    print(error.errno)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    first, second = done.stdout.splitlines()
    assert "the unit's device cgroup refuses" in first
    assert int(second) == errno.EPERM


class Machine:
    """A root for the program, with a modprobe that loads as the kernel does."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for directory in ("bin", "dev", "proc/driver/nvidia/gpus/0000:01:00.0", "proc/driver/nvidia/gpus/0000:02:00.0"):
            (root / directory).mkdir(parents=True)
        for number, minor in ((1, 1), (2, 0)):  # minors are not in the order of the bus
            path = root / f"proc/driver/nvidia/gpus/0000:0{number}:00.0/information"
            path.write_text(f"Model: \t\t NVIDIA A40\nDevice Minor: \t {minor}\n")
        (root / "proc/driver/nvidia/params").write_text(
            "DeviceFileUID: 0\nDeviceFileGID: 44\nDeviceFileMode: 432\nModifyDeviceFiles: 1\n"
        )
        self.devices(None)

    def devices(self, uvm: int | None) -> None:
        (self.root / "proc/devices").write_text(BRANCH_580.format(uvm=f"{uvm:3} nvidia-uvm\n" if uvm else ""))

    def program(self, name: str, uvm: int) -> None:
        loads = BRANCH_580.format(uvm=f"{uvm:3} nvidia-uvm\n")
        path = self.root / "bin" / name
        path.write_text(
            f'#!/bin/sh\necho {name} "$@" >>{self.root}/called\ncat >{self.root}/proc/devices <<END\n{loads}END\n'
        )
        path.chmod(0o755)

    def run(self) -> subprocess.CompletedProcess[str]:
        path = f"{self.root}/bin:{os.environ['PATH']}"
        environment = {**os.environ, "FLEXI_ROOT": str(self.root), "PATH": path}
        return subprocess.run(["sh", str(PROGRAM)], env=environment, capture_output=True, text=True, check=False)

    def nodes(self) -> dict[str, tuple[int, int, int, int]]:
        found = {path.name: path.stat() for path in (self.root / "dev").iterdir()}
        assert all(stat.S_ISCHR(node.st_mode) for node in found.values())
        return {
            name: (os.major(node.st_rdev), os.minor(node.st_rdev), stat.S_IMODE(node.st_mode), node.st_gid)
            for name, node in found.items()
        }


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


CARDS = {"nvidiactl": (195, 255, 0o660, 44), "nvidia0": (195, 0, 0o660, 44), "nvidia1": (195, 1, 0o660, 44)}


@as_root
@pytest.mark.parametrize("loader", ["modprobe", "nvidia-modprobe"])
def test_the_program_loads_the_module_and_makes_every_node(machine: Machine, loader: str) -> None:
    """Ubuntu has no nvidia-modprobe; where there is one it is asked first."""
    machine.program(loader, 508)
    done = machine.run()
    assert (done.returncode, done.stderr) == (0, "")
    called = (machine.root / "called").read_text()
    assert called == {"modprobe": "modprobe nvidia-uvm\n", "nvidia-modprobe": "nvidia-modprobe -u -c=0\n"}[loader]
    assert machine.nodes() == {**CARDS, "nvidia-uvm": (508, 0, 0o666, 0), "nvidia-uvm-tools": (508, 1, 0o666, 0)}


@as_root
def test_the_program_replaces_a_stale_node_and_no_other(machine: Machine) -> None:
    machine.program("modprobe", 508)
    machine.run()
    (machine.root / "dev/nvidia0").chmod(0o600)  # the site's own
    kept = (machine.root / "dev/nvidia1").stat().st_ino
    (machine.root / "sys/module/nvidia_uvm").mkdir(parents=True)
    machine.devices(509)
    assert machine.run().returncode == 0
    nodes = machine.nodes()
    assert nodes["nvidia-uvm"][:2] == (509, 0)
    assert nodes["nvidia0"][2] == 0o600
    assert (machine.root / "dev/nvidia1").stat().st_ino == kept


@as_root
def test_the_program_leaves_cards_that_it_may_not_make(machine: Machine) -> None:
    """NVreg_ModifyDeviceFiles=0: the nodes are udev's, by the admin's wish."""
    (machine.root / "proc/driver/nvidia/params").write_text("ModifyDeviceFiles: 0\n")
    machine.devices(508)
    assert machine.run().returncode == 0
    assert set(machine.nodes()) == {"nvidia-uvm", "nvidia-uvm-tools"}


def test_the_program_says_when_there_is_no_module(machine: Machine) -> None:
    program = machine.root / "bin/modprobe"
    program.write_text("#!/bin/sh\necho 'modprobe: FATAL: Module nvidia-uvm not found' >&2\nexit 1\n")
    program.chmod(0o755)
    (machine.root / "proc/devices").write_text("Character devices:\n  1 mem\n\nBlock devices:\n")
    done = machine.run()
    assert done.returncode == 1
    assert "the kernel module nvidia-uvm is not loaded" in done.stderr


def lines(path: Path, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)


WITH_CARDS = sorted(
    path for path in (ROOT / "templates").rglob("*") if path.is_file() and "\nDeviceAllow=char-195" in path.read_text()
)


@pytest.mark.parametrize("path", WITH_CARDS, ids=lambda path: path.name)
def test_what_opens_the_cards_starts_after_their_nodes(path: Path) -> None:
    """systemd looks device classes up once for a start, before its first ExecStartPre=."""
    assert [line for line in lines(path, "After") if NODES.name in line.split()]
    assert [line for line in lines(path, "Wants") if NODES.name in line.split()]
    # A dependency that fails would cancel the start, and systemd tries a cancelled start no more.
    assert not [line for line in lines(path, "Requires") + lines(path, "BindsTo") if NODES.name in line.split()]
    # What makes a node or loads a module does nothing there: the device cgroup holds for lines with `+` too.
    assert not [line for line in lines(path, "ExecStartPre") if re.search(r"modprobe|nvidia-smi -L|mknod", line)]


def test_every_unit_with_a_gpu_is_looked_at() -> None:
    assert [path.name for path in WITH_CARDS] == ["flexi-agent.service", "nvidia-persistenced.conf", "ollama@.service"]
    names = [line for path in (ROOT / "templates").rglob("*.service") for line in lines(path, "DeviceAllow")]
    # By name only what has no number of its own; the cards' 195 holds before the driver is loaded.
    assert {name for name in names if "nvidia" in name} == {"char-nvidia-uvm rw", "char-nvidia-caps rw"}


def test_the_unit_that_makes_nodes_runs_again_at_each_start() -> None:
    assert lines(NODES, "RemainAfterExit") == []
    assert lines(NODES, "StartLimitIntervalSec") == ["0"]
    assert "char-* m" in lines(NODES, "DeviceAllow")
    assert "CAP_SYS_MODULE" in lines(NODES, "CapabilityBoundingSet")[0]
    assert "CAP_MKNOD" in lines(NODES, "CapabilityBoundingSet")[0]
    assert lines(NODES, "ProtectKernelModules") == []


def test_the_gate_runs_inside_the_units_own_sandbox() -> None:
    (before,) = lines(INSTANCE, "ExecStartPre")
    assert before.startswith("/usr/bin/python3 ")
    assert " gpus " in before
