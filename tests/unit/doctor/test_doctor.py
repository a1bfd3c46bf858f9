"""Each finding from a truth before and after: a healthy host of the lab's plan, and one thing about it changed."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from flexi import doctor
from flexi.docgen import doctor as docs
from flexi.doctor import Case, Finding, diagnose, kinds, reading, service, show
from flexi.errors import InputError
from flexi.health.report import Check
from flexi.operations import drain
from flexi.paths import INVENTORY
from flexi.plan import build_plan
from flexi.plan.model.site import HostPlan, Plan
from flexi.probe import (
    Candidate,
    Certificate,
    Disk,
    Gpu,
    HostTruth,
    Instance,
    Loaded,
    Module,
    Package,
    PciCard,
    Pin,
    Process,
    Unit,
    Xid,
)
from flexi.site import load_site
from flexi.ssh import remote
from flexi.ssh.remote import Answer
from flexi.status.instances import Look

GIB = 2**30
NOW = 1795433285.0
KERNEL = "5.15.0-91-generic"
DRIVER = "535.309.01"
DEBIAN_VERSION = "535.309.01-0ubuntu0.22.04.1"
NEXT = "535.309.01-0ubuntu0.22.04.2"
UUIDS = tuple(f"GPU-0000000{index}-2222-3333-4444-555555555555" for index in range(2))


@pytest.fixture(scope="module")
def plan() -> Plan:
    return build_plan(load_site(INVENTORY / "lab.yaml"))


@pytest.fixture(scope="module")
def host(plan: Plan) -> HostPlan:
    return plan.host("server-b")  # two A40, group b


def package(name: str, version: str = DEBIAN_VERSION, held: bool = True, summary: str = "NVIDIA") -> Package:
    return Package(name, version, held, "installed", "restricted/libs", summary)


def gpu(index: int, **changes: Any) -> Gpu:
    card = Gpu(index, UUIDS[index], "NVIDIA A40", f"00000000:{index + 17}:00.0", 46068, 0, 40, True, 0, 0)
    return replace(card, memory_total=45 * GIB, memory_used=30 * GIB, **changes)


def unit(name: str, active: str = "active", boot: str = "enabled", **more: Any) -> Unit:
    values: dict[str, Any] = {"sub": "running", "restarts": 0, "active_since_s": 100.0} | more
    return Unit(name, "loaded", active, boot=boot, **values)


def process(index: int, name: str = "llama-server", owner: str = "ollama@b.service") -> Process:
    return Process(UUIDS[index], 4711, 30 * GIB, name, f"/system.slice/{owner}")


@pytest.fixture
def well(host: HostPlan) -> HostTruth:
    """server-b as a deploy leaves it."""
    assert host.driver is not None
    names = ["flexi-firewall", "nvidia-persistenced", "ollama@b", "flexi-agent", "systemd-timesyncd"]
    kernel = [package(f"linux-image-{KERNEL}", "5.15"), package(f"linux-modules-nvidia-535-server-{KERNEL}", "5.15")]
    installed = (
        *kernel,
        *(package(name) for name in host.driver.holds if name.startswith(("nvidia", "libnvidia", "linux"))),
    )
    pins = (*host.driver.pins, *(host.cuda.pins if host.cuda else ()))
    return HostTruth(
        started=NOW,
        ended=NOW + 3,
        os="ubuntu-22.04",
        kernel=KERNEL,
        uptime_s=100000.0,
        disks=(Disk("/", 100 * GIB, 40, 10),),
        driver=DRIVER,
        modules_loaded=("nvidia", "nvidia_uvm"),
        device_nodes=("/dev/nvidia0", "/dev/nvidia1", "/dev/nvidia-uvm", "/dev/nvidiactl"),
        pci=(PciCard("0000:17:00.0", "nvidia"), PciCard("0000:18:00.0", "nvidia")),
        modules=(Module(KERNEL, f"/lib/modules/{KERNEL}/kernel/nvidia-535srv/nvidia.ko", DRIVER, "Canonical Ltd."),),
        secure_boot=True,
        packages=installed,
        candidates=tuple(Candidate(p.name, p.version, p.version, "Ubuntu", ("Ubuntu",)) for p in installed),
        pins=tuple(Pin(pin.packages, pin.pin, pin.priority) for pin in pins),
        blacklist=host.base.unattended_blacklist,
        needrestart=True,
        deployed=True,
        releases=("0.24.0",),
        release_current="0.24.0",
        agent={"time": NOW - 2, "instances": []},
        instances=(
            Instance(
                "b",
                UUIDS,
                "0.0.0.0:11434",
                "0.24.0",
                (Loaded("llama3:8b", 5 * GIB, 5 * GIB, "2318"),),
                ("CUDA", "CUDA"),
            ),
        ),
        units=tuple(unit(f"{name}.service") for name in names),
        smi_status=0,
        gpus=(gpu(0), gpu(1)),
        processes=(process(0), process(1)),
    )


def found(host: HostPlan, truth: HostTruth, offset_s: float = 0.0) -> list[Finding]:
    return diagnose(Case("uni", host, truth, offset_s, NOW))


def ids(findings: Sequence[Finding]) -> list[str]:
    return [finding.kind.id for finding in findings]


def one(host: HostPlan, truth: HostTruth, offset_s: float = 0.0) -> Finding:
    findings = found(host, truth, offset_s)
    assert len(findings) == 1, [(finding.kind.id, finding.what) for finding in findings]
    return findings[0]


def test_nothing_is_wrong_with_a_host_as_a_deploy_leaves_it(host: HostPlan, well: HostTruth) -> None:
    assert found(host, well) == []


MISMATCH = ("Failed to initialize NVML: Driver/library version mismatch", "NVML library version: 580.65")


def test_driver_mismatch(host: HostPlan, well: HostTruth) -> None:
    finding = one(host, replace(well, smi_status=18, smi_words=MISMATCH, gpus=(), processes=()))
    assert finding.kind.id == "driver-mismatch"
    assert "module 535.309.01" in finding.what
    assert "580.65" in finding.what
    assert finding.mend == "./flexi deploy uni --limit server-b --allow-reboot"


def test_another_branch_or_none_runs(host: HostPlan, well: HostTruth) -> None:
    assert "580.65.06 runs, the site wants 535-server" in one(host, replace(well, driver="580.65.06", modules=())).what
    none = replace(well, driver=None, smi_status=9, gpus=(), processes=(), modules_loaded=())
    assert ids(found(host, none)) == ["driver-not-loaded"]
    assert ids(found(host, replace(none, modules_loaded=("nouveau",)))) == ["nouveau"]


def test_nvidia_smi_fails_in_other_words(host: HostPlan, well: HostTruth) -> None:
    words = ("Failed to initialize NVML: Insufficient Permissions",)
    truth = replace(well, smi_status=4, smi_words=words, gpus=(), processes=())
    assert ids(found(host, truth)) == ["nvidia-smi-fails", "gpu-missing"]
    assert words[0] in found(host, truth)[0].what


def test_a_gpu_is_missing(host: HostPlan, well: HostTruth) -> None:
    lost = (
        "Unable to determine the device handle for GPU0000:18:00.0: GPU is lost. Reboot the system to recover this GPU"
    )
    finding = one(host, replace(well, gpus=(gpu(0),), processes=(process(0),), smi_status=15, smi_words=(lost,)))
    assert finding.kind.id == "gpu-missing"
    assert finding.what.startswith(
        "nvidia-smi shows 1 of 2 GPUs; missing: GPU-00000001 of group b; 2 are on the PCI bus"
    )
    assert lost in finding.what
    assert finding.mend == "ssh " + finding.mend.split("ssh ", 1)[1]
    assert finding.mend.endswith("admin@10.87.0.12 sudo systemctl reboot")


def test_a_gpu_that_cannot_be_used_is_named(host: HostPlan, well: HostTruth) -> None:
    broken = gpu(1, fault="GPU requires reset")
    finding = one(host, replace(well, gpus=(gpu(0), broken)))
    assert (finding.kind.id, finding.kind.severity) == ("gpu-unusable", "error")
    assert finding.what == "GPU 1 (GPU-00000001) is not usable: GPU requires reset"
    assert "nvidia-smi --gpu-reset -i 1" in finding.mend


def test_cards_that_are_not_the_site_files(host: HostPlan, well: HostTruth) -> None:
    other = replace(gpu(1), name="NVIDIA H200", memory_total=143771 * 2**20)
    finding = one(host, replace(well, gpus=(gpu(0), other)))
    assert (finding.kind.id, finding.kind.severity) == ("gpu-other", "error")
    assert finding.what.startswith("GPU 1 (GPU-00000001) is a NVIDIA H200 with 143771 MiB, the site file says A40")
    assert "lab.yaml:" in finding.what
    assert "MIG" in one(host, replace(well, gpus=(gpu(0), gpu(1, split=True)))).what
    third = replace(gpu(1), index=2, uuid="GPU-00000002-2222-3333-4444-555555555555")
    assert "shows 3 GPUs, the site file says 2" in one(host, replace(well, gpus=(gpu(0), gpu(1), third))).what


def test_a_warning_of_nvidia_smi_is_a_warning(host: HostPlan, well: HostTruth) -> None:
    warning = "WARNING: infoROM is corrupted at gpu 0000:18:00.0"
    finding = one(host, replace(well, smi_status=14, smi_warnings=(warning,)))
    assert (finding.kind.id, finding.kind.severity) == ("nvidia-smi-warns", "warning")
    assert warning in finding.what


def test_a_gpu_was_replaced(host: HostPlan, well: HostTruth) -> None:
    new = replace(gpu(1), uuid="GPU-99999999-2222-3333-4444-555555555555")
    finding = one(host, replace(well, gpus=(gpu(0), new), processes=(process(0),)))
    assert finding.kind.id == "gpu-replaced"
    assert "GPU-00000001" in finding.what
    assert "GPU 1 (GPU-99999999, NVIDIA A40)" in finding.what
    assert finding.mend == "./flexi deploy uni --limit server-b --accept-gpus server-b"


def test_a_driver_that_hangs(host: HostPlan, well: HostTruth) -> None:
    truth = replace(well, hung_in="gpus", smi_status=124, gpus=(), processes=())
    assert ids(found(host, truth)) == ["hangs"]


def test_a_newer_kernel_waits(host: HostPlan, well: HostTruth) -> None:
    newer = "5.15.0-122-generic"
    image, modules = package(f"linux-image-{newer}"), package(f"linux-modules-nvidia-535-server-{newer}")
    finding = one(host, replace(well, packages=(*well.packages, image, modules)))
    assert finding.kind.id == "reboot-pending"
    assert finding.what == f"kernel {newer} is installed, {KERNEL} runs"
    assert finding.mend == "./flexi deploy uni --limit server-b --allow-reboot"
    tried = replace(well, packages=(*well.packages, image, modules), tried=(well.boot_id, newer))
    assert ids(found(host, tried)) == ["other-kernel-boots"]
    assert ids(found(host, replace(tried, boot_id="another"))) == ["reboot-pending"]
    without = found(host, replace(well, packages=(*well.packages, image)))
    assert ids(without) == ["kernel-without-modules", "reboot-pending"]
    assert f"apt-get install linux-modules-nvidia-535-server-{newer} " in without[0].mend


def test_a_kernel_that_dpkg_does_not_know_is_the_admins_own(host: HostPlan, well: HostTruth) -> None:
    assert found(host, replace(well, kernel="6.6.6-custom", modules=())) == []


def test_a_reboot_is_wanted(host: HostPlan, well: HostTruth) -> None:
    finding = one(host, replace(well, reboot_required=True, reboot_packages=("libc6", "linux-base")))
    assert finding.kind.id == "reboot-wanted"
    assert "libc6" in finding.what
    assert finding.mend.endswith("sudo systemctl reboot")
    # What the kernel's packages ask for is told by the kernels themselves.
    assert found(host, replace(well, reboot_required=True, reboot_packages=("linux-image-x",))) == []


def test_packages_that_are_not_held(host: HostPlan, well: HostTruth) -> None:
    loose = tuple(replace(p, held=p.name != "nvidia-utils-535-server") for p in well.packages)
    finding = one(host, replace(well, packages=loose))
    assert (finding.kind.id, finding.what) == ("unheld", "not on hold: nvidia-utils-535-server")


def test_transitional_packages_are_installed(host: HostPlan, well: HostTruth) -> None:
    summary = "Transitional package for nvidia-utils-580-server"
    changed = tuple(
        replace(p, version=NEXT, summary=summary) if p.name == "nvidia-utils-535-server" else p for p in well.packages
    )
    finding = one(host, replace(well, packages=changed))
    assert finding.kind.id == "transitional-installed"
    assert f"nvidia-utils-535-server is transitional ({NEXT}); the library is 535.309.01 now" in finding.what
    assert finding.mend.startswith("./flexi deploy uni --limit server-b --allow-reboot ")


def coming(well: HostTruth, name: str, held: bool, **changes: Any) -> HostTruth:
    return replace(
        well,
        packages=tuple(replace(p, held=held) if p.name == name else p for p in well.packages),
        candidates=tuple(replace(c, **changes) if c.name == name else c for c in well.candidates),
    )


def test_transitional_packages_are_about_to_come(host: HostPlan, well: HostTruth) -> None:
    name, changes = "libnvidia-compute-535-server", {"version": NEXT, "section": "restricted/oldlibs"}
    findings = found(host, coming(well, name, False, **changes))
    assert ids(findings) == ["transitional-coming", "unheld"]
    assert f"{name} {NEXT}" in findings[0].what
    assert found(host, coming(well, name, True, **changes)) == []


def test_an_ordinary_update_of_a_held_package_is_no_finding(host: HostPlan, well: HostTruth) -> None:
    assert found(host, coming(well, "nvidia-utils-535-server", True, version="535.400.01-0ubuntu0.22.04.1")) == []


def test_nvidias_repository(host: HostPlan, well: HostTruth) -> None:
    name = "nvidia-utils-535-server"
    finding = one(host, coming(well, name, True, version="580.65.06-0ubuntu1", label="NVIDIA CUDA"))
    assert finding.kind.id == "vendor-coming"
    finding = one(host, coming(well, name, True, installed_labels=("NVIDIA CUDA",)))
    assert finding.kind.id == "vendor-installed"
    assert finding.mend.endswith(f"--allow-change-held-packages {name}")


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"pins": ()}, "pins-missing"),
        ({"blacklist": ("nvidia-",)}, "upgrades-open"),
        ({"needrestart": False}, "restarts-open"),
        ({"os": "debian-12"}, "wrong-platform"),
        ({"half_installed": ("half-configured nvidia-utils-535-server",)}, "half-installed"),
        ({"disks": (Disk("/var", GIB, 95, 10),)}, "disk-short"),
        ({"disks": (Disk("/var", GIB, 50, 91),)}, "inodes-short"),
        ({"foreign_files": ("/var/lib/ollama/b/models/blobs/sha256-0",)}, "store-owner"),
        ({"device_nodes": ("/dev/nvidia0",)}, "uvm-missing"),
        ({"drained": {"b": "new fans"}}, "drained"),
        ({"drained": {"b": "flexi: new driver"}}, "drain-left"),
        ({"release_current": "0.23.4"}, "release-differs"),
        ({"release_current": None}, "release-differs"),
        ({"agent": None}, "agent-silent"),
        ({"agent": {"time": NOW - 100, "instances": []}}, "agent-silent"),
        ({"certificates": (Certificate("/etc/haproxy/flexi/a.pem", NOW - 5),)}, "certificate-expired"),
        ({"certificates": (Certificate("/etc/haproxy/flexi/a.pem", None),)}, "certificate-expired"),
        ({"certificates": (Certificate("/etc/haproxy/flexi/a.pem", NOW + 10 * 86400),)}, "certificate-ends"),
        ({"xids": (Xid("0000:17:00", 79, "GPU has fallen off the bus.", 1.0),)}, "xid"),
    ],
)
def test_one_thing_is_wrong(host: HostPlan, well: HostTruth, changes: dict[str, Any], wanted: str) -> None:
    finding = one(host, replace(well, **changes))
    assert finding.kind.id == wanted
    assert "{" not in finding.mend


def test_a_certificate_that_lasts_and_a_programs_own_xid_are_no_findings(host: HostPlan, well: HostTruth) -> None:
    fine = replace(
        well, certificates=(Certificate("/x.pem", NOW + 60 * 86400),), xids=(Xid("0000:17:00", 31, "x", 1.0),)
    )
    assert found(host, fine) == []


@pytest.mark.parametrize(
    ("changes", "wanted", "words"),
    [
        (
            {"throttle": 0x48},
            "throttling",
            "GPU 0 (GPU-00000000) slows itself down at 40 °C: hardware slowdown, hardware",
        ),
        ({"ecc_uncorrected": 4}, "ecc", "4 uncorrected"),
        ({"persistence": False}, "persistence-off", "GPU 0"),
    ],
)
def test_a_card_is_not_well(host: HostPlan, well: HostTruth, changes: dict[str, Any], wanted: str, words: str) -> None:
    finding = one(host, replace(well, gpus=(gpu(0, **changes), gpu(1))))
    assert finding.kind.id == wanted
    assert words in finding.what


def test_idle_and_power_capped_cards_are_well(host: HostPlan, well: HostTruth) -> None:
    assert found(host, replace(well, gpus=(gpu(0, throttle=0x1), gpu(1, throttle=0x4)))) == []


def test_somebody_else_on_a_card(host: HostPlan, well: HostTruth) -> None:
    miner = replace(process(0, "miner", "user.slice/session-3.scope"), pid=99, memory=2 * GIB)
    finding = one(host, replace(well, processes=(*well.processes, miner)))
    assert finding.kind.id == "foreign-process"
    assert "miner (pid 99, session-3.scope) computes on GPU 0 with 2048 MiB, which belongs to ollama@b" in finding.what
    finding = one(host, replace(well, processes=(process(0),)))
    assert finding.kind.id == "foreign-memory"
    assert "30720 MiB of GPU 1" in finding.what


def test_secure_boot(host: HostPlan, well: HostTruth) -> None:
    own = Module(KERNEL, f"/lib/modules/{KERNEL}/updates/dkms/nvidia.ko", DRIVER, "server-b Secure Boot key")
    assert one(host, replace(well, modules=(own,))).kind.id == "secure-boot"
    assert found(host, replace(well, modules=(own,), enrolled_keys=("server-b Secure Boot key",))) == []
    assert found(host, replace(well, modules=(own,), secure_boot=False)) == []
    unsigned = replace(well.modules[0], signer="")
    assert one(host, replace(well, modules=(unsigned,))).kind.id == "secure-boot"


def test_the_next_boot_does_not_fit_the_library(host: HostPlan, well: HostTruth) -> None:
    other = replace(well.modules[0], version="535.400.01")
    assert ids(found(host, replace(well, modules=(other,)))) == ["modules-differ", "reboot-wanted"]


def instance(well: HostTruth, **changes: Any) -> HostTruth:
    return replace(well, instances=(replace(well.instances[0], **changes),))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"libraries": ("cpu",)}, "found cpu and no GPU when it started"),
        ({"libraries": ("CUDA",)}, "found 1 of 2 GPUs"),
        ({"loaded": (Loaded("llama3:8b", 10, 6, ""),)}, "40% of llama3:8b on the CPU"),
    ],
)
def test_cpu_fallback(host: HostPlan, well: HostTruth, changes: dict[str, Any], words: str) -> None:
    finding = one(host, instance(well, **changes))
    assert finding.kind.id == "cpu-fallback"
    assert words in finding.what
    assert finding.mend.endswith("sudo systemctl restart ollama@b.service")


def test_a_log_that_is_gone_is_no_fallback(host: HostPlan, well: HostTruth) -> None:
    assert found(host, instance(well, libraries=())) == []


def test_an_ollama_that_the_driver_is_too_old_for(host: HostPlan, well: HostTruth) -> None:
    findings = found(host, replace(instance(well, version="0.32.15"), release_current="0.32.15"))
    assert ids(findings) == ["driver-too-old", "release-differs"]
    assert "Ollama 0.32.15 needs driver 550 or newer for GPUs, 535.309.01 runs" in findings[0].what
    assert findings[0].mend.startswith("./flexi rollback uni --host server-b ")


def test_an_instance_still_runs_the_old_release(host: HostPlan, well: HostTruth) -> None:
    assert "still runs Ollama 0.23.4" in one(host, instance(well, version="0.23.4")).what


def with_unit(well: HostTruth, changed: Unit) -> HostTruth:
    return replace(well, units=tuple(changed if known.name == changed.name else known for known in well.units))


def test_units(host: HostPlan, well: HostTruth) -> None:
    finding = one(host, with_unit(well, unit("flexi-firewall.service", "failed")))
    assert (finding.kind.id, finding.what) == ("unit-down", "flexi-firewall.service is failed, enabled")
    finding = one(host, with_unit(well, unit("ollama@b.service", boot="disabled")))
    assert finding.kind.id == "unit-not-enabled"
    assert ids(found(host, replace(well, units=well.units[1:]))) == ["unit-down"]
    finding = one(host, with_unit(well, unit("systemd-timesyncd.service", "inactive")))
    assert finding.kind.id == "clock-free"


def test_an_instance_in_a_loop(host: HostPlan, well: HostTruth) -> None:
    loop = with_unit(well, unit("ollama@b.service", "activating", sub="auto-restart", restarts=40, active_since_s=None))
    agent = {"time": NOW, "instances": [{"group": "b", "reason": "GPU 1 is not visible", "models": []}]}
    finding = one(host, replace(instance(loop, version=None, loaded=None), agent=agent))
    assert finding.kind.id == "instance-loop"
    assert "started 40 times again and is activating (auto-restart): GPU 1 is not visible" in finding.what
    assert ids(found(host, replace(loop, gpus=(gpu(0),), processes=(process(0),)))) == ["gpu-missing"]
    # Between two attempts it is down for a moment; and once up, it has run for a day since.
    down = unit("ollama@b.service", "failed", sub="failed", restarts=40, active_since_s=None)
    assert ids(found(host, with_unit(well, down))) == ["instance-loop"]
    young = with_unit(well, unit("ollama@b.service", restarts=40, active_since_s=99990.0))
    assert ids(found(host, young)) == ["instance-loop"]
    assert found(host, with_unit(well, unit("ollama@b.service", restarts=40))) == []


def test_an_instance_that_does_not_answer(host: HostPlan, well: HostTruth) -> None:
    silent = instance(well, version=None, loaded=None)
    assert one(host, silent).kind.id == "instance-silent"
    young = with_unit(silent, unit("ollama@b.service", active_since_s=99990.0))
    assert found(host, young) == []


def test_an_instance_with_other_gpus_or_without_a_plan(host: HostPlan, well: HostTruth) -> None:
    assert ids(found(host, instance(well, uuids=UUIDS[:1], libraries=("CUDA",)))) == ["instance-gpus"]
    old = replace(well.instances[0], group="old", uuids=())
    truth = replace(well, instances=(*well.instances, old), units=(*well.units, unit("ollama@old.service")))
    assert one(host, truth).kind.id == "surplus-instance"
    assert found(host, replace(truth, units=(*well.units, unit("ollama@old.service", "inactive")))) == []


def test_groups_that_were_joined_own_nothing(host: HostPlan, well: HostTruth) -> None:
    """Their files stay behind and name the cards; at the port that one of them had, another instance answers."""
    left = [replace(well.instances[0], group=f"g{i}", uuids=(uuid,), version="0.32.15") for i, uuid in enumerate(UUIDS)]
    stopped = [unit(f"ollama@g{index}.service", "inactive", boot="disabled") for index in range(len(left))]
    truth = replace(well, instances=(*well.instances, *left), units=(*well.units, *stopped))
    assert found(host, truth) == []
    started = replace(process(0, owner="ollama@g0.service"), pid=99)
    finding = one(host, replace(truth, processes=(*well.processes, started)))
    assert "pid 99, ollama@g0.service) computes on GPU 0" in finding.what
    assert "belongs to ollama@b.service" in finding.what
    assert "of group b" in one(host, replace(truth, gpus=(gpu(0),), processes=(process(0),))).what


def test_a_fault_that_nothing_explains(host: HostPlan, well: HostTruth) -> None:
    models = [{"name": "llama3:8b", "phase": "fault", "reason": "the download fails: 404"}]
    agent = {"time": NOW, "instances": [{"group": "b", "reason": None, "models": models}]}
    finding = one(host, replace(well, agent=agent))
    assert (finding.kind.id, finding.what) == ("model-fault", "llama3:8b on b: the download fails: 404")
    # With an explanation it would only be said twice.
    gone = replace(well, agent=agent, gpus=(gpu(0),), processes=(process(0),))
    assert ids(found(host, gone)) == ["gpu-missing"]


@pytest.mark.parametrize(("offset", "words"), [(30.0, "30 s ahead of"), (-7.4, "7 s behind")])
def test_the_clock(host: HostPlan, well: HostTruth, offset: float, words: str) -> None:
    finding = one(host, well, offset)
    assert finding.kind.id == "clock-off"
    assert words in finding.what
    assert found(host, well, 4.0) == []


@pytest.mark.parametrize(
    ("started", "ended", "offset"),
    [(101.0, 104.0, 0.0), (100.0, 105.0, 0.0), (111.0, 114.0, 9.0), (91.0, 94.0, -9.0)],
)
def test_the_offset_is_what_the_way_cannot_explain(started: float, ended: float, offset: float) -> None:
    """Asked at 100 and answered at 105 by this machine's clock."""
    truth = HostTruth(started=started, ended=ended)
    assert reading.Reading("x", truth, asked=100.0, answered=105.0).clock_offset_s == offset


def test_a_bare_host(host: HostPlan) -> None:
    bare = HostTruth(started=NOW, ended=NOW, os="ubuntu-22.04", kernel=KERNEL, disks=(Disk("/", GIB, 1, 1),))
    finding = one(host, bare)
    assert finding.kind.id == "not-deployed"
    assert finding.mend == "./flexi deploy uni --limit server-b"


def test_a_driver_of_somebody_elses_is_judged_too(host: HostPlan, well: HostTruth) -> None:
    """The overnight upgrade on a host without flexi's pins: doctor names it although flexi never deployed there."""
    empty = replace(package("libnvidia-compute-535-server", NEXT, held=False), section="restricted/oldlibs")
    packages = (empty, package("libnvidia-compute-580-server", "580.65.06-0ubuntu0.22.04.1", held=False))
    truth = HostTruth(
        started=NOW,
        ended=NOW,
        os="ubuntu-22.04",
        kernel=KERNEL,
        driver=DRIVER,
        packages=packages,
        smi_status=18,
        smi_words=MISMATCH,
    )
    assert ids(found(host, truth)) == ["driver-mismatch", "transitional-installed", "not-deployed"]


def test_the_gateway_is_not_asked_for_gpus(plan: Plan, well: HostTruth) -> None:
    plain = ("firewall", "catalogue", "guard", "ledger", "chat")
    names = (*(f"flexi-{name}.service" for name in plain), "haproxy.service", "systemd-timesyncd.service")
    names += ("flexi-ledger.socket", "flexi-chat-cleaning.timer", "flexi-courses.timer")
    truth = HostTruth(started=NOW, ended=NOW, os="ubuntu-22.04", deployed=True, units=tuple(map(unit, names)))
    assert found(plan.host("gateway"), truth) == []


def test_a_deploys_own_drain_is_known_by_the_mark_that_deploys_write() -> None:
    assert service.FLEXIS_OWN == drain.REASON_PREFIX


# -- reading and showing ----------------------------------------------------------------------------------------------


def judged(plan: Plan, monkeypatch: pytest.MonkeyPatch, answer: Answer) -> list[Finding]:
    monkeypatch.setattr(remote, "run", lambda *_, **__: answer)
    return doctor.judge("uni", plan.host("gateway"), reading.read(plan.host("gateway")), NOW)


@pytest.mark.parametrize(
    ("answer", "wanted", "words"),
    [
        (Answer(255, "", "ssh: connect to host x port 22: Connection refused"), "unreachable", "Connection refused"),
        (Answer(1, "", "sudo: a password is required"), "no-root", "a password is required"),
        (Answer(127, "", "sh: sudo: not found"), "no-root", "not found"),
        (Answer(255, "probe=1\nread=system\n", "no answer within 120 s"), "hangs", "its kernel"),
        (Answer(0, "", ""), "hangs", "exit status 0"),
    ],
)
def test_hosts_that_give_no_answer(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, answer: Answer, wanted: str, words: str
) -> None:
    findings = judged(plan, monkeypatch, answer)
    assert wanted in ids(findings)
    assert words in next(finding.what for finding in findings if finding.kind.id == wanted)


def test_the_probe_goes_in_by_standard_input(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a command line it would stand in the host's log of sudo with every look."""
    asked: list[tuple[str, str]] = []

    def run(_: HostPlan, command: str, timeout_s: float, stdin: str) -> Answer:
        asked.append((command, stdin))
        return Answer(0, "probe=1\n", "")

    monkeypatch.setattr(remote, "run", run)
    assert reading.read(plan.host("gateway")).truth is not None
    assert asked[0][1] == reading.PROBE
    assert len(asked[0][0]) < 100


def examination(plan: Plan, *names: str) -> doctor.Examination:
    def read(hosts: Sequence[HostPlan], _: Console) -> list[reading.Reading]:
        return [reading.Reading(host.name, None, "No route to host [x]", False) for host in hosts]

    return doctor.examine(
        "uni", plan, names, Console(file=io.StringIO()), read, lambda: NOW, lambda _: Look([], [], None)
    )


def test_only_the_chosen_hosts_are_asked(plan: Plan) -> None:
    assert examination(plan, "server-b").hosts == ("server-b",)
    assert examination(plan).hosts == ("server-a", "server-b", "gateway")
    with pytest.raises(InputError, match=r"--host server-z: .* it has server-a"):
        examination(plan, "server-z")


def test_findings_are_the_exit_status(plan: Plan) -> None:
    what = examination(plan, "server-b")
    assert what.exit_status == 1
    assert replace(what, findings=()).exit_status == 0
    warning = doctor.finding(kinds.ECC, "uni", plan.host("server-b"), "GPU 1 has had 4 errors", index=1)
    assert replace(what, findings=(warning,)).exit_status == 0
    assert replace(what, findings=(*what.findings, warning)).exit_status == 1


def test_a_failing_check_is_a_finding_where_nothing_else_is_wrong(plan: Plan) -> None:
    failed = (Check("site", "gateway knows exactly the keys of the site", "failed", "it has other keys", 0.1),)
    asked: list[int] = []

    def checks() -> tuple[Check, ...]:
        asked.append(1)
        return failed

    def examine(read: Callable[..., Any]) -> doctor.Examination:
        console = Console(file=io.StringIO())
        return doctor.examine("uni", plan, (), console, read, lambda: NOW, lambda _: Look([], [], None), checks)

    unreachable = examine(
        lambda hosts, _: [reading.Reading(host.name, None, "No route to host", False) for host in hosts]
    )
    assert {found.kind.id for found in unreachable.findings} == {"unreachable"}
    assert not asked
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, "judge", lambda *_: [])
        [found] = examine(lambda hosts, _: [reading.Reading(host.name, None) for host in hosts]).findings
    assert (found.kind.id, found.host) == ("check-fails", "gateway")
    assert found.what == "gateway knows exactly the keys of the site: it has other keys"


def test_what_people_see(plan: Plan) -> None:
    console = Console(file=io.StringIO(), width=100, no_color=True)
    show.show(examination(plan, "server-b"), console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "error unreachable: the host does not answer over SSH: No route to host [x]" in text
    assert "mend it:  ssh" in text
    assert "one thing is wrong. Nothing was changed." in text
    console = Console(file=io.StringIO(), width=100, no_color=True)
    show.show(replace(examination(plan, "server-b"), findings=()), console)
    assert isinstance(console.file, io.StringIO)
    assert "lab is well: nothing is wrong." in console.file.getvalue()


def test_what_programs_see(plan: Plan) -> None:
    report: Any = show.as_json(examination(plan, "server-b"))
    assert json.loads(json.dumps(report)) == report
    assert (report["schema"], report["site"], report["hosts"]) == (1, "lab", ["server-b"])
    assert (report["errors"], report["warnings"]) == (1, 0)
    assert set(report["findings"][0]) == {"id", "severity", "host", "what", "means", "mend"}
    # The documentation shows the same keys.
    shown = docs.JSON
    assert all(f'"{key}"' in shown for key in (*report, *report["findings"][0]))


# -- the documentation ------------------------------------------------------------------------------------------------


def test_every_finding_can_be_found_and_has_a_row() -> None:
    """A finding that no rule yields is documentation of nothing."""
    page = docs.page()
    rules = "".join(path.read_text() for path in (docs.ROOT / "src/flexi/doctor").glob("*.py") if path.stem != "kinds")
    for name, kind in vars(kinds).items():
        if isinstance(kind, kinds.Kind):
            assert f"kinds.{name}" in rules, name
            assert f"| `{kind.id}` |" in page
    assert len(kinds.KINDS) > 40
