"""The simulated driver: what a process sees, and every way in which it sees nothing."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flexi.lab.gpu_sim import kernel, smi
from flexi.lab.gpu_sim.bundle import zipapp
from flexi.lab.gpu_sim.driver import Driver, DriverError
from flexi.lab.topology import MACHINES
from flexi.paths import ROOT

A, B, C = (f"GPU-{letter * 8}-0000" for letter in "abc")
KERNEL = "5.15.0-186-generic"


class Host:
    """A machine's files below a directory. Nodes are plain files: mknod needs root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        cards = [
            {
                "index": index,
                "uuid": uuid,
                "name": "NVIDIA A40" if uuid == C else "NVIDIA RTX A5000",
                "memory_total_mib": 24564,
                "pci_bus_id": f"00000000:0{index + 1}:00.0",
                "compute_cap": "8.6",
            }
            for index, uuid in enumerate((A, B, C))
        ]
        (root / "dev").mkdir()
        self.write("etc/flexi-lab/gpus.json", cards)
        self.driver = Driver(root)

    def write(self, path: str, value: object) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(json.dumps(value))

    def install(self, version: str = "535.309.01", branch: str = "535-server", release: str = KERNEL) -> None:
        self.write("usr/lib/flexi-lab/userland.json", {"version": version})
        self.write("usr/lib/flexi-lab/kernel-common.json", {"version": version})
        self.forbid_nouveau()
        self.write(f"usr/lib/flexi-lab/kernels/{release}", {})
        self.write(f"usr/lib/flexi-lab/modules/{release}/nvidia-{branch}.json", {"version": version})

    def forbid_nouveau(self, where: str = "lib/modprobe.d/nvidia-kernel-common.conf") -> None:
        (self.root / where).parent.mkdir(parents=True, exist_ok=True)
        (self.root / where).write_text("blacklist nouveau\n")

    def boot(self) -> str | None:
        for node in (self.root / "dev").glob("nvidia*"):
            node.unlink()
        (self.root / "run/flexi-lab/kernel.json").unlink(missing_ok=True)
        return kernel.load(self.root, lambda path, major, minor: path.touch())

    def fault(self, **faults: object) -> None:
        self.write("etc/flexi-lab/faults.json", faults)

    def smi(self, *arguments: str) -> tuple[str, int]:
        return smi.run(list(arguments), self.driver)

    def visible(self, value: str | None) -> list[str]:
        return [gpu.uuid for gpu in self.driver.gpus(value)]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Driver installed and loaded."""
    host = Host(tmp_path)
    host.install()
    host.boot()
    return host


@pytest.mark.parametrize(
    ("visible", "seen"),
    [
        (None, [A, B, C]),
        ("", []),
        ("1", [B]),
        ("2,0", [C, A]),
        (f"{C},{A}", [C, A]),
        (f" {A} , {B} ", [A, B]),
        (f"{A},GPU-nonsense,{B}", [A]),
        ("0,7,1", [A]),
        ("-1", []),
        ("0,-1,1", [A]),
        (f"{A},{A}", [A]),
        ("GPU-bbbb", [B]),
        ("GPU-", []),
        ("NoDevFiles", []),
    ],
)
def test_cuda_visible_devices(host: Host, visible: str | None, seen: list[str]) -> None:
    assert host.visible(visible) == seen


def test_a_lost_gpu_is_gone_for_cuda_and_hides_what_is_named_after_it(host: Host) -> None:
    host.fault(lost=[B])
    assert host.visible(None) == [A, C]
    assert host.visible(f"{A},{B},{C}") == [A]


def test_a_gpu_whose_node_is_missing_is_not_seen(host: Host) -> None:
    (host.root / "dev/nvidia1").unlink()
    assert host.visible(None) == [A, C]


def test_without_uvm_cuda_sees_nothing_but_nvidia_smi_works(host: Host) -> None:
    (host.root / "dev/nvidia-uvm").unlink()
    assert host.visible(None) == []
    assert host.smi("-L")[1] == 0


def test_without_the_control_node_there_is_no_driver(host: Host) -> None:
    (host.root / "dev/nvidiactl").unlink()
    with pytest.raises(DriverError, match="couldn't communicate with the NVIDIA driver"):
        host.driver.gpus(None)


def test_a_forbidden_control_node_is_a_matter_of_permission(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: Any, *rest: Any) -> int:
        if str(path).endswith("nvidiactl"):
            raise PermissionError(1, "Operation not permitted")
        return real(path, *rest)

    monkeypatch.setattr(os, "open", refuse)
    assert host.smi("-L") == ("Failed to initialize NVML: Insufficient Permissions\n", 4)


def test_a_node_without_a_real_driver_behind_it_counts_as_usable(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def no_device(path: Any, *_: Any) -> int:
        raise OSError(errno.ENXIO, "No such device or address")

    monkeypatch.setattr(os, "open", no_device)
    assert host.visible(None) == [A, B, C]


def test_a_left_node_without_its_module_shows_nothing(host: Host) -> None:
    (host.root / "run/flexi-lab/devices").write_text("Character devices:\n195 nvidia-frontend\n")
    assert host.visible(None) == []
    assert host.smi("-L")[1] == 0


UNIT = "[Service]\nDevicePolicy=closed\nDeviceAllow=char-nvidia-uvm rw\n"


@pytest.mark.parametrize(
    ("began", "unit", "seen"),
    [
        (5, UNIT, [A, B, C]),  # before it was unloaded: the rule has the number
        (15, UNIT, []),  # while it was not there: the name meant nothing
        (25, UNIT, [A, B, C]),
        (15, "[Service]\nExecStart=/bin/true\n", [A, B, C]),
    ],
)
def test_a_start_before_the_module_never_opens_it(host: Host, began: int, unit: str, seen: list[str]) -> None:
    """What systemd's device policy does, also where this computer's control groups do not."""
    for path in ("proc/self", "etc/systemd/system", "run/systemd/units"):
        (host.root / path).mkdir(parents=True, exist_ok=True)
    (host.root / "proc/self/cgroup").write_text(
        "9:name=systemd:/system.slice/system-ollama.slice/ollama@b.service\n5:devices:/\n0::/\n"
    )
    (host.root / "etc/systemd/system/ollama@.service").write_text(unit)
    for name, at in (("flexi-lab/uvm-off", 10), ("flexi-lab/uvm-on", 20)):
        (host.root / "run" / name).touch()
        os.utime(host.root / "run" / name, (at, at))
    link = host.root / "run/systemd/units/invocation:ollama@b.service"
    link.symlink_to("0123456789abcdef")
    os.utime(link, (began, began), follow_symlinks=False)
    assert host.visible(None) == seen


def test_the_kernels_list_of_devices_has_the_branchs_names(host: Host) -> None:
    listed = (host.root / "run/flexi-lab/devices").read_text()
    assert listed.splitlines()[:2] == ["Character devices:", "195 nvidia-frontend"]
    host.install("580.95.05", "580-server")
    for path in (host.root / "usr/lib/flexi-lab/modules").rglob("nvidia-535*"):
        path.unlink()
    host.boot()
    names = [line.split()[1] for line in (host.root / "run/flexi-lab/devices").read_text().splitlines()[1:4]]
    assert names == ["nvidia", "nvidiactl", "nvidia-uvm"]
    assert "Device Minor: \t 2" in "".join(
        path.read_text() for path in (host.root / "run/flexi-lab/proc-driver").rglob("information")
    )


def test_memory_counts_living_processes_and_strangers(host: Host) -> None:
    idle = host.driver.inventory()[0].memory_used_mib
    (host.root / "dev/shm/flexi-lab").mkdir(exist_ok=True)
    host.driver.hold({A: 4000, B: 100})
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host.driver.hold({A: 9999}, pid=dead.pid)
    host.fault(foreign_mib={B: 7000, C: 99_999_999})
    used = [gpu.memory_used_mib - idle for gpu in host.driver.inventory()]
    assert used[:2] == [4000, 7100]
    assert host.driver.inventory()[2].memory_free_mib == 0
    assert host.driver.busy() == {A, B}
    host.driver.release()
    host.driver.release()
    assert host.driver.inventory()[0].memory_used_mib == idle


# -- the kernel side ----------------------------------------------------------------------------------------------


def test_installing_loads_nothing_before_the_next_boot(tmp_path: Path) -> None:
    host = Host(tmp_path)
    assert host.boot() is None
    host.install()
    assert host.smi()[1] == 9
    assert host.boot() == "535.309.01"
    assert host.smi()[1] == 0
    assert "535.309.01" in (tmp_path / "run/flexi-lab/proc-driver/nvidia/version").read_text()


def test_an_upgrade_under_the_running_driver_is_a_mismatch_until_the_reboot(host: Host) -> None:
    host.install("580.173.02", "580-server")
    text, status = host.smi()
    assert status == 18
    assert text == "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.173\n"
    with pytest.raises(DriverError):
        host.driver.gpus(None)
    assert host.boot() == "580.173.02"
    assert host.smi("-L")[1] == 0


def test_the_branch_that_is_configured_wins_over_left_over_modules(host: Host) -> None:
    host.install("580.173.02", "580-server")
    host.install("535.309.01", "535-server")
    assert host.boot() == "535.309.01"


def test_a_newer_kernel_without_modules_boots_without_a_driver(host: Host) -> None:
    host.write("usr/lib/flexi-lab/kernels/5.15.0-1000-generic", {})
    assert host.boot() is None
    assert host.smi()[1] == 9


def test_a_gpu_that_is_lost_at_boot_is_not_listed_at_all(host: Host) -> None:
    host.fault(lost=[B])
    host.boot()
    text, status = host.smi("-L")
    assert status == 0
    assert B not in text
    assert not (host.root / "dev/nvidia1").exists()
    assert host.visible("1") == [C]


def test_without_user_space_the_library_is_missing(host: Host) -> None:
    (host.root / "usr/lib/flexi-lab/userland.json").unlink()
    text, status = host.smi()
    assert status == 12
    assert "libnvidia-ml.so" in text


# -- what programs that know nothing of the simulation find -------------------------------------------------------


def modules(host: Host) -> dict[str, list[str]]:
    """The lines that /proc/modules gets, by module."""
    lines = (host.root / kernel.MODULES).read_text().splitlines()
    return {line.split()[0]: line.split()[1:] for line in lines}


def test_the_kernels_name_is_that_of_the_newest_installed_one(host: Host) -> None:
    host.write("usr/lib/flexi-lab/kernels/5.15.0-190-generic", {})
    assert (host.root / kernel.OSRELEASE).read_text() == "5.15.0-186-generic\n"
    host.boot()
    assert (host.root / kernel.OSRELEASE).read_text() == "5.15.0-190-generic\n"


def test_the_modules_are_listed_with_their_users(host: Host) -> None:
    listed = modules(host)
    assert set(listed) == {"nvidia", "nvidia_uvm", "nvidia_modeset"}
    assert listed["nvidia"][1] == "2"
    assert set(listed["nvidia"][2].strip(",").split(",")) == {"nvidia_uvm", "nvidia_modeset"}
    assert listed["nvidia_uvm"][2] == "-"
    assert all(fields[3] == "Live" for fields in listed.values())


def test_nouveau_takes_the_cards_unless_it_is_forbidden(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.write(f"usr/lib/flexi-lab/kernels/{KERNEL}", {})
    host.boot()
    assert set(modules(host)) == {"nouveau"}
    host.forbid_nouveau("etc/modprobe.d/any.conf")
    host.boot()
    assert modules(host) == {}


def test_where_nouveau_has_the_cards_nvidia_has_not(host: Host) -> None:
    (host.root / "lib/modprobe.d/nvidia-kernel-common.conf").unlink()
    assert host.boot() is None
    assert set(modules(host)) == {"nouveau"}
    assert host.smi()[1] == 9


def test_a_gpu_that_the_next_boot_loses_computes_until_then(host: Host) -> None:
    host.fault(lost_at_boot=[B])
    assert host.visible(None) == [A, B, C]
    assert host.smi("-L")[1] == 0
    for _ in range(2):
        host.boot()
        assert host.visible(None) == [A, C]
        assert B not in host.smi("-L")[0]
    host.fault()
    host.boot()
    assert host.visible(None) == [A, B, C]


def test_the_cards_are_on_the_pci_bus_with_their_driver(host: Host) -> None:
    """As in sysfs: vendor 0x10de, a display controller's class, and a link to who drives it."""
    card = host.root / kernel.PCI / "0000:02:00.0"
    assert (card / "vendor").read_text() == "0x10de\n"
    assert (card / "class").read_text().startswith("0x03")
    assert (card / "driver").readlink().name == "nvidia"
    shutil.rmtree(host.root / "run")
    host.write(f"usr/lib/flexi-lab/kernels/{KERNEL.replace('186', '190')}", {})
    host.fault(lost=[A])
    host.boot()
    assert sorted(path.name for path in (host.root / kernel.PCI).iterdir()) == [
        "0000:02:00.0",
        "0000:03:00.0",
    ]
    assert not (card / "driver").is_symlink()


def test_a_machine_without_cards_has_none_of_the_modules(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.write("etc/flexi-lab/gpus.json", [])
    host.write(f"usr/lib/flexi-lab/kernels/{KERNEL}", {})
    host.boot()
    assert modules(host) == {}


# -- nvidia-smi ---------------------------------------------------------------------------------------------------


def test_the_list(host: Host) -> None:
    text, status = host.smi("-L")
    assert status == 0
    assert text.splitlines()[0] == f"GPU 0: NVIDIA RTX A5000 (UUID: {A})"


def test_a_query_with_and_without_units_and_header(host: Host) -> None:
    query = "--query-gpu=index,memory.total,uuid"
    assert host.smi(query, "--format=csv")[0].splitlines()[:2] == [
        "index, memory.total [MiB], uuid",
        f"0, 24564 MiB, {A}",
    ]
    assert host.smi(query, "--format=csv,noheader,nounits")[0].splitlines()[0] == f"0, 24564, {A}"
    assert host.smi("--query-gpu", "gpu_name", "--format=csv,noheader", "-i", "2") == ("NVIDIA A40\n", 0)


def test_every_field_answers(host: Host) -> None:
    host.install("580.65.06", "580-server")
    host.boot()
    text, status = host.smi("--query-gpu=" + ",".join(smi.FIELDS), "--format=csv,noheader,nounits")
    assert status == 0
    assert all(len(line.split(", ")) == len(smi.FIELDS) for line in text.splitlines())


def test_ecc_errors_are_counted(host: Host) -> None:
    query = ("--query-gpu=ecc.errors.uncorrected.volatile.total", "--format=csv,noheader")
    assert host.smi(*query)[0].split() == ["[N/A]", "[N/A]", "0"]
    host.fault(ecc_uncorrected={C: 3})
    assert host.smi(*query)[0].split() == ["[N/A]", "[N/A]", "3"]


def test_why_the_clocks_are_down_in_both_spellings(host: Host) -> None:
    """Bits of nvml.h: 0x1 idle, 0x40 slowed down by the hardware's own thermal protection."""
    host.fault(throttled={B: 0x40})
    for word in ("event", "throttle"):
        query = (f"--query-gpu=clocks_{word}_reasons.active,clocks_{word}_reasons.hw_thermal_slowdown", "--format=csv")
        lines = host.smi(*query)[0].splitlines()
        # The header has the newer word whatever was asked (utkuozdemir/nvidia_gpu_exporter, issue 123).
        assert lines[0] == "clocks_event_reasons.active, clocks_event_reasons.hw_thermal_slowdown"
        assert lines[1:3] == ["0x0000000000000001, Not Active", "0x0000000000000040, Active"]
    heat = host.smi("--query-gpu=temperature.gpu", "--format=csv,noheader")[0].split()
    assert int(heat[1]) > int(heat[0])


def test_processes_have_names(host: Host) -> None:
    (host.root / "dev/shm/flexi-lab").mkdir(exist_ok=True)
    host.driver.hold({B: 700})
    query = "--query-compute-apps=gpu_uuid,pid,process_name,used_memory"
    uuid, pid, name, used = host.smi(query, "--format=csv,noheader,nounits")[0].strip().split(", ")
    assert (uuid, int(pid), int(used)) == (B, os.getpid(), 700)
    assert Path(name).name == Path(sys.executable).name or name == sys.orig_argv[0]


def test_one_lost_gpu_fails_every_question_about_all(host: Host) -> None:
    host.fault(lost=[B])
    words = "Unable to determine the device handle for GPU0000:02:00.0: GPU is lost.  Reboot the system to recover"
    for question in ([], ["-L"], ["--query-gpu=uuid", "--format=csv"]):
        text, status = host.smi(*question)
        assert status == 15
        assert words in text
    assert A in host.smi("-L")[0]
    assert host.smi("-i", "0", "--query-gpu=uuid", "--format=csv,noheader") == (f"{A}\n", 0)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--query-gpu=cuda_version", "--format=csv"], 2, 'Field "cuda_version" is not a valid field to query.'),
        (["--query-compute-apps=colour", "--format=csv"], 2, 'Field "colour" is not a valid field to query.'),
        (["--query-gpu=uuid"], 2, '"--format=" switch is missing'),
        (["--query-gpu=uuid", "--format=xml"], 2, "xml"),
        (["--gpu-reset"], 2, "Invalid combination of input arguments"),
        (["-i"], 2, "missing its value"),
        (["-i", "9", "-L"], 6, "No devices were found"),
        (["-pm", "2"], 2, "Invalid argument"),
    ],
)
def test_what_it_does_not_know_it_refuses(host: Host, arguments: list[str], status: int, words: str) -> None:
    text, code = host.smi(*arguments)
    assert code == status
    assert words in text


def test_the_table_is_straight(host: Host) -> None:
    (host.root / "dev/shm/flexi-lab").mkdir(exist_ok=True)
    host.driver.hold({A: 5000})
    lines = host.smi()[0].splitlines()
    assert {len(line) for line in lines[1:] if line} == {87}
    assert "CUDA Version: 12.2" in lines[2]
    assert any("5000MiB" in line for line in lines)


def test_no_gpu_at_all(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.write("etc/flexi-lab/gpus.json", [])
    host.install()
    host.boot()
    assert host.smi() == ("No devices were found\n", 6)


# -- what goes onto the machines ----------------------------------------------------------------------------------


def test_the_programs_run_from_one_file(tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_bytes(zipapp("smi", "main(sys.argv[1:])"))
    done = subprocess.run([sys.executable, "-IS", str(program)], capture_output=True, text=True, check=False)
    assert done.returncode in (9, 12)
    assert "NVIDIA" in done.stdout
    assert zipapp("smi", "main(sys.argv[1:])") == program.read_bytes()


@pytest.mark.parametrize("path", sorted((ROOT / "src/flexi/lab/gpu_sim").glob("*.py")), ids=lambda path: path.name)
def test_hosts_have_python_3_10_and_nothing_else(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 10))
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [str(node.module)]
        assert all(name.split(".")[0] in sys.stdlib_module_names for name in names), names


def test_the_hardware_of_the_lab_is_the_papers() -> None:
    cards = {machine.name: [card["name"] for card in machine.gpus] for machine in MACHINES if machine.by_default}
    assert cards == {"gateway": [], "server-a": ["NVIDIA RTX A5000"] * 8, "server-b": ["NVIDIA A40"] * 2}
    uuids = [card["uuid"] for machine in MACHINES for card in machine.gpus]
    assert len(set(uuids)) == len(uuids) == 12


def test_a_card_that_requires_a_reset_is_listed_without_numbers(host: Host) -> None:
    host.fault(needs_reset=[B])
    assert host.visible(None) == [A, C]
    text, status = host.smi(
        "--query-gpu=index,memory.total,memory.used,driver_version", "--format=csv,noheader,nounits"
    )
    assert (status, text.splitlines()[1]) == (0, "1, 24564, [GPU requires reset], 535.309.01")


def test_the_recovery_action_is_known_from_570_on(host: Host) -> None:
    asked = ("--query-gpu=uuid,gpu_recovery_action", "--format=csv,noheader")
    host.fault(needs_reset=[B])
    assert host.smi(*asked) == ('Field "gpu_recovery_action" is not a valid field to query.\n\n', 2)
    host.install("580.65.06", "580-server")
    host.boot()
    assert host.smi(*asked) == (f"{A}, None\n{B}, Reset\n{C}, None\n", 0)


def test_a_corrupted_inforom_is_a_warning_behind_every_answer(host: Host) -> None:
    host.fault(inforom=[A])
    text, status = host.smi("--query-gpu=index", "--format=csv,noheader")
    assert (text, status) == ("0\n1\n2\nWARNING: infoROM is corrupted at gpu 0000:01:00.0\n", 14)
    assert host.smi("--query-gpu=index", "--format=csv,noheader", "-i", "1") == ("1\n", 0)
    assert host.visible(None) == [A, B, C]


def test_another_card_has_its_own_name_and_memory(host: Host) -> None:
    host.fault(other={B: {"name": "Tesla T4", "memory_total_mib": 15360}})
    text, _ = host.smi("--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
    assert text.splitlines()[1] == "Tesla T4, 15360"
