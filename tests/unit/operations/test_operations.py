"""Our pyinfra operations on pyinfra's fake connector: what they would run on hosts in several states."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.operation import add_op
from pyinfra.api.operations import run_ops
from support.fake_host import DRIVER, INSTALLED, Fake

from flexi.catalog.windows import parse
from flexi.components.stamps import stamp_digest_command
from flexi.facts.apt import RealPackage, Upgrades
from flexi.facts.driver import NvidiaDriver
from flexi.facts.gpus import NvidiaGpus
from flexi.facts.releases import OllamaReleases
from flexi.facts.stamps import Stamp
from flexi.operations import apt_sources, cards, driver, gateway, host_files, ollama, packages, reboot, restart, units
from flexi.operations.drain import Interruption
from flexi.plan.model.maintenance import MaintenancePlan
from flexi.plan.model.ollama import InstancePlan
from flexi_host.agent.smi import Expected, Gpu


def truth(
    running: str = "",
    nouveau: int = 0,
    smi: str = "",
    boot: str = "boot-1",
    tried: str = "",
    kernels: tuple[str, ...] = ("5.15.0-186-generic",),
) -> dict[str, object]:
    lines = [f"running={running}", f"nouveau={nouveau}", f"boot_id={boot}", f"tried={tried}"]
    lines += ["smi_fields=index,uuid,name", f"smi_status={18 if smi else 0}", f"smi={smi or '0, GPU-0, NVIDIA A40'}"]
    lines += ["kernel=5.15.0-186-generic", *(f"image=linux-image-{release}" for release in kernels)]
    return {"/proc/driver/nvidia/version": lines}


PERMIT: dict[str, Any] = {"driver": DRIVER, "maintenance": MaintenancePlan(), "update": False}
REBOOT: dict[str, Any] = {
    "driver": DRIVER,
    "maintenance": MaintenancePlan(),
    "interrupts": Interruption(("a",), 60),
}
ALLOWED = {"allow_reboot": "yes"}


RUNNING_535 = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.309.01  Tue Apr 14 01:20:22 UTC 2026"


def test_a_host_with_the_wanted_driver_is_not_rebooted() -> None:
    predicted, commands = Fake(truth(RUNNING_535), ALLOWED).run(reboot.if_needed, **REBOOT)
    assert not predicted
    assert not any("reboot" in command for command in commands)


@pytest.mark.parametrize(
    "state",
    [
        truth(),
        truth(RUNNING_535.replace("535.309.01", "580.159.03")),
        truth(RUNNING_535, nouveau=1),
        truth(RUNNING_535, smi="Failed to initialize NVML: Driver/library version mismatch"),
    ],
    ids=["no driver", "another branch", "nouveau", "library and module differ"],
)
def test_a_dry_run_announces_the_reboot(state: dict[str, object], caplog: pytest.LogCaptureFixture) -> None:
    fake = Fake(state, ALLOWED)
    assert add_op(fake.state, reboot.if_needed, **REBOOT)[fake.host].will_change
    assert "would be rebooted" in caplog.text


@pytest.mark.parametrize(
    "state",
    [
        truth(RUNNING_535, smi="Unable to determine the device handle for GPU0000:41:00.0: GPU is lost."),
        truth(RUNNING_535, smi="WARNING: infoROM is corrupted at gpu 0000:41:00.0"),
    ],
    ids=["a lost card", "a warning"],
)
def test_a_complaint_that_a_boot_does_not_mend_costs_no_reboot(state: dict[str, object]) -> None:
    fake = Fake(state, ALLOWED)
    assert not add_op(fake.state, reboot.if_needed, **REBOOT)[fake.host].will_change


@pytest.mark.parametrize("smi", ["", "Failed to initialize NVML: Driver/library version mismatch"])
def test_a_reboot_that_is_not_allowed_fails_the_host_before_anything_is_done(
    smi: str, caplog: pytest.LogCaptureFixture
) -> None:
    fake = Fake(truth(RUNNING_535 if smi else "", smi=smi))
    add_op(fake.state, reboot.fail_unless_allowed, **PERMIT)
    with pytest.raises(PyinfraError):
        run_ops(fake.state)
    assert "needs a reboot" in caplog.text
    assert "--allow-reboot" in caplog.text


@pytest.mark.parametrize(("now", "open_"), [("7 02 30", True), ("7 05 00", False), ("6 02 30", False)])
def test_a_reboot_is_allowed_in_the_window_by_the_hosts_own_clock(now: str, open_: bool) -> None:
    site = MaintenancePlan(reboot_windows=(parse("Sun 02:00-05:00"),))
    fake = Fake({**truth(), "date '+%u %H %M'": [now]})
    meta = add_op(fake.state, reboot.fail_unless_allowed, **{**PERMIT, "maintenance": site})[fake.host]
    assert meta.will_change is not open_


def test_a_missing_driver_package_needs_permission_too() -> None:
    """It is installed at the archive's version, whose library the running module may not fit."""
    fake = Fake(truth(RUNNING_535))
    arguments = {**PERMIT, "driver": DRIVER.model_copy(update={"packages": ("nvidia-utils-535-server",)})}
    assert add_op(fake.state, reboot.fail_unless_allowed, **arguments)[fake.host].will_change


def test_another_kernel_is_booted_only_with_permission_and_never_asked_for() -> None:
    newer = truth(RUNNING_535, kernels=("5.15.0-186-generic", "5.15.0-190-generic"))
    for data, due in ((ALLOWED, True), ({}, False)):
        fake = Fake(newer, data)
        assert add_op(fake.state, reboot.if_needed, **REBOOT)[fake.host].will_change is due
        assert not add_op(fake.state, reboot.fail_unless_allowed, **PERMIT)[fake.host].will_change


@pytest.mark.parametrize(
    ("line", "due"),
    [
        ("Inst libnvidia-compute-535-server [535.288.01-0ubuntu1] (535.309.02-0ubuntu1 Ubuntu [amd64])", True),
        ("Inst libnvidia-compute-535-server [535.309.01-0ubuntu1] (535.309.01-0ubuntu2 Ubuntu [amd64])", False),
        ("Inst linux-image-5.15.0-190-generic (5.15.0-190.200 Ubuntu [amd64])", False),
    ],
    ids=["another library", "the same, built anew", "a kernel, which can wait"],
)
def test_an_update_is_asked_for_before_anything_is_changed(line: str, due: bool) -> None:
    fake = Fake({**truth(RUNNING_535), "apt-get -s": [line]})
    assert add_op(fake.state, reboot.fail_unless_allowed, **{**PERMIT, "update": True})[fake.host].will_change is due


@pytest.mark.parametrize(("present", "due"), [("535.288.01-0ubuntu1", True), ("535.309.01-0ubuntu1", False)])
def test_another_build_of_an_ended_branch_is_asked_for_before_it_is_installed(present: str, due: bool) -> None:
    change = {"packages": ("nvidia-utils-535-server",), "wanted_version": "535.309.01-0ubuntu1"}
    wanted = DRIVER.model_copy(update=change)
    installed_ = [f"ii  nvidia-utils-535-server  {present}  amd64  tool"]
    fake = Fake({**truth(RUNNING_535.replace("535.309.01", present.split("-")[0])), "dpkg -l": installed_})
    assert add_op(fake.state, reboot.fail_unless_allowed, **{**PERMIT, "driver": wanted})[fake.host].will_change is due


def test_a_kernel_that_no_package_knows_is_not_waited_for() -> None:
    """A kernel of the admin's own, or a container's: that an older one is installed says nothing."""
    assert NvidiaDriver().process(["kernel=6.12.1-own", "image=linux-image-5.15.0-186-generic"]).next_kernel is None


def test_a_boot_that_did_not_help_is_not_repeated(caplog: pytest.LogCaptureFixture) -> None:
    fake = Fake(truth(boot="boot-2", tried="boot-2"), ALLOWED)
    add_op(fake.state, reboot.if_needed, **REBOOT)
    with pytest.raises(PyinfraError):
        run_ops(fake.state)
    assert "the last reboot did not change that" in caplog.text
    commands = [str(command) for command in fake.host.connector.executed_commands]
    assert not any("systemctl reboot" in command for command in commands)


@pytest.mark.parametrize(
    ("line", "version"),
    [
        (RUNNING_535, "535.309.01"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs-builder@U22)",
            "580.95.05",
        ),
        ("", None),
    ],
)
def test_the_running_version_is_read_from_the_kernel(line: str, version: str | None) -> None:
    """Both spellings of /proc/driver/nvidia/version: the proprietary and the open kernel module."""
    assert NvidiaDriver().process([f"running={line}", "nouveau=0", "boot_id=b"]).running == version


SMI_WORDS = {
    "healthy": ("echo 'GPU 0: NVIDIA A40 (UUID: GPU-0)'", None, False),
    "a warning": ("echo 'GPU 0: A40 (UUID: GPU-0)'; echo 'WARNING: infoROM is corrupted' >&2", None, False),
    "the library was changed": (
        "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18",
        "Failed to initialize NVML: Driver/library version mismatch",
        True,
    ),
    "no driver": (
        'echo "NVIDIA-SMI has failed because it couldn\'t communicate with the NVIDIA driver."; echo; exit 9',
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
        False,
    ),
    "a lost card": (
        "echo 'GPU 0: A40 (UUID: GPU-0)'; echo 'Unable to determine the device handle: GPU is lost.'; exit 15",
        "Unable to determine the device handle: GPU is lost.",
        False,
    ),
    "on standard error": ("echo 'Segmentation fault' >&2; exit 139", "Segmentation fault", False),
    "without a word": ("exit 6", "nvidia-smi ends with exit status 6", False),
    "rows, a warning and a status of its own": (
        "echo 'GPU 0: A40 (UUID: GPU-0)'; echo 'WARNING: infoROM is corrupted at gpu 0000:01:00.0'; exit 14",
        None,
        False,
    ),
}


@pytest.mark.parametrize("case", SMI_WORDS)
def test_what_nvidia_smi_says_where_it_fails(case: str, tmp_path: Path) -> None:
    """The fact's own text, run by sh, with an nvidia-smi that answers as the real one: NVML's errors on its output."""
    answer, words, mismatch = SMI_WORDS[case]
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\n{answer}\n")
    smi.chmod(0o755)
    argv = shlex.split(NvidiaDriver().command().get_raw_value())
    done = subprocess.run(argv, capture_output=True, text=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False)
    truth = NvidiaDriver().process(done.stdout.splitlines())
    assert (truth.smi_error, truth.mismatch) == (words, mismatch)
    assert truth.boot_id


def test_kernels_are_read_from_their_packages_and_sorted_by_number(tmp_path: Path) -> None:
    query = tmp_path / "dpkg-query"
    names = ("linux-image-unsigned-5.15.0-186-generic", "linux-image-5.15.0-91-generic", "linux-image-generic")
    listing = "".join(f"echo installed {name}\n" for name in names)
    query.write_text(f"#!/bin/sh\n{listing}echo config-files linux-image-5.15.0-200-generic\n")
    query.chmod(0o755)
    argv = shlex.split(NvidiaDriver().command().get_raw_value())
    done = subprocess.run(argv, capture_output=True, text=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False)
    assert NvidiaDriver().process(done.stdout.splitlines()).kernels == ("5.15.0-91-generic", "5.15.0-186-generic")


def test_gpus_of_a_failing_nvidia_smi_are_none() -> None:
    words = ["smi=Failed to initialize NVML: Driver/library version mismatch", "smi=NVML library version: 535.309"]
    assert NvidiaGpus().process(["smi_fields=index,uuid,name", "smi_status=18", *words]) == []
    assert NvidiaGpus().process([]) == []


def run_gpus(smi: Path, answer: str) -> list[Gpu]:
    """The fact's own text, run by sh, with an nvidia-smi of this text."""
    smi.write_text(f"#!/bin/sh\n{answer}\n")
    smi.chmod(0o755)
    argv = shlex.split(NvidiaGpus().command().get_raw_value())
    environment = {"PATH": f"{smi.parent}:/usr/bin:/bin", "FLEXI_PROBE_ROOT": str(smi.parent)}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
    return NvidiaGpus().process(done.stdout.splitlines())


ROWS = "".join(f"echo '{i}, GPU-{i}, NVIDIA A40, 46068, 0, 0, 34, 535.309.01, [N/A]'; " for i in range(2))


def test_gpus_with_a_warning_are_counted_once(tmp_path: Path) -> None:
    """An nvidia-smi that lists every card, warns and ends with 14 (microsoft/pai, issue 3756)."""
    present = run_gpus(tmp_path / "nvidia-smi", f"{ROWS} echo 'WARNING: infoROM is corrupted at gpu 0'; exit 14")
    assert [gpu.uuid for gpu in present] == ["GPU-0", "GPU-1"]
    assert ollama.resolve_gpus(instance((0, 1)), present, 2) == ["GPU-0", "GPU-1"]


def test_more_than_sixteen_gpus_are_found_beside_a_lost_one(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"proc/driver/nvidia/gpus/0000:{number:02x}:00.0").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text("NVRM version: Module  580.65.06  x\n")
    row = '"$6, GPU-$6, NVIDIA A40, 46068, 0, 0, 34, 580.65.06, 0"'
    answer = f"set -- $* x x x x x x; [ $3 = -i ] && [ $4 != 3 ] && {{ echo {row.replace('$6', '$4')}; exit; }}"
    present = run_gpus(tmp_path / "nvidia-smi", f"{answer}; echo 'Unable to determine the device handle'; exit 15")
    assert [gpu.index for gpu in present] == [*range(3), *range(4, 20)]


def test_a_group_with_a_gpu_that_requires_a_reset_is_refused() -> None:
    broken = [CARDS[0], replace(CARDS[1], fault="GPU requires reset")]
    assert ollama.resolve_gpus(instance((0,)), broken, 2) == ["GPU-0"]
    with pytest.raises(LookupError, match=r"GPU 1 \(GPU-1\) is not usable: GPU requires reset.*--gpu-reset -i 1"):
        ollama.resolve_gpus(instance((0, 1)), broken, 2)


H200 = Expected("H200", 143771)


def test_a_host_with_other_cards_is_refused_before_anything(caplog: pytest.LogCaptureFixture) -> None:
    listing = [f"smi={i}, GPU-{i}, NVIDIA A40, 46068" for i in range(2)]
    facts = {"the_cards": ["smi_fields=index,uuid,name,memory.total", "smi_status=0", *listing]}
    fake = Fake(facts)
    assert not add_op(fake.state, cards.require_planned, expected=Expected("A40", 46068), place="uni.yaml:9")[
        fake.host
    ].will_change
    run_ops(fake.state)
    wrong = Fake(facts)
    assert add_op(wrong.state, cards.require_planned, expected=H200, place="uni.yaml:9")[wrong.host].will_change
    with pytest.raises(PyinfraError):
        run_ops(wrong.state)
    assert (
        "GPU 0 (GPU-0) is a NVIDIA A40 with 46068 MiB, the site file says H200 with 143771 MiB (uni.yaml:9); "
        "1 more of its cards differ: correct hosts.@fake/host.gpus there, or put the planned cards in. "
        "Nothing was changed here"
    ) in caplog.text


def test_cards_that_come_up_in_the_middle_of_a_deploy_are_compared_too(caplog: pytest.LogCaptureFixture) -> None:
    """On a bare host no driver shows them before."""
    facts = {
        "the_cards": ["smi_fields=index,uuid,name,memory.total", "smi_status=0", "smi=0, GPU-0, NVIDIA A40, 46068"]
    }
    fake = Fake(facts)
    add_op(
        fake.state, ollama.write_environment, instance=instance((0,)), gpu_count=1, expected=H200, place="uni.yaml:9"
    )
    with pytest.raises(PyinfraError):
        run_ops(fake.state)
    assert "group a: GPU 0 (GPU-0) is a NVIDIA A40" in caplog.text
    none = Fake({"the_cards": ["smi_fields=index,uuid,name", "smi_status=9", "smi=NVIDIA-SMI has failed"]})
    assert not add_op(none.state, cards.require_planned, expected=H200, place="")[none.host].will_change


WANTED_HOLDS = ("nvidia-utils-535-server", "linux-generic", "linux-image-generic")


def test_only_installed_packages_are_held() -> None:
    fake = Fake({"dpkg -l": INSTALLED, "apt-mark showhold": ["linux-generic", "="]})
    predicted, commands = fake.run(packages.hold, names=WANTED_HOLDS)
    assert predicted
    assert "apt-mark hold nvidia-utils-535-server linux-generic 2>&1" in commands[-1]


def test_holds_of_ours_stay() -> None:
    ours = ["nvidia-utils-535-server", "linux-generic"]
    predicted, _ = Fake({"dpkg -l": INSTALLED, "apt-mark showhold": [*ours, "=", *ours]}).run(
        packages.hold, names=WANTED_HOLDS
    )
    assert not predicted


def test_a_change_of_branch_lets_go_of_our_holds_and_of_no_others() -> None:
    """apt refuses a branch whose rival is held; what an admin holds by hand stays held."""
    holds = ["nvidia-utils-535-server", "linux-generic", "postgresql", "=", "nvidia-utils-535-server", "linux-generic"]
    predicted, commands = Fake({"apt-mark showhold": holds}).run(
        packages.holds_released, except_for=("nvidia-utils-580-server", "linux-generic")
    )
    assert predicted
    assert "apt-mark unhold nvidia-utils-535-server 2>&1" in commands[-1]


def test_installed_packages_need_no_index() -> None:
    """A fresh index would be a change at every run (pyinfra's cache_time)."""
    predicted, commands = Fake({"dpkg -l": INSTALLED}).run(packages.present, names=("linux-generic",))
    assert not predicted
    assert not any("apt-get" in command for command in commands)


def test_missing_packages_are_looked_up_anew() -> None:
    _, commands = Fake({"dpkg -l": INSTALLED}).run(packages.present, names=("linux-generic", "haproxy"))
    apt = [command for command in commands if "apt-get" in command]
    assert "update" in apt[0]
    assert "haproxy" in apt[-1]
    assert "linux-generic" not in apt[-1]


TRANSITIONAL = "ii  nvidia-utils-535-server  535.309.01-0ubuntu0.22.04.2  all  empty"


def test_the_empty_packages_of_an_ended_branch_are_replaced_by_the_real_ones() -> None:
    packages = ("nvidia-headless-no-dkms-535-server", "nvidia-utils-535-server")
    planned = DRIVER.model_copy(update={"packages": packages, "wanted_version": "535.309.01-0ubuntu0.22.04.1"})
    arguments = {"driver": planned, "interrupts": Interruption((), 1)}
    predicted, commands = Fake({**truth(RUNNING_535), "dpkg -l": [TRANSITIONAL]}).run(driver.install, **arguments)
    assert predicted
    assert " ".join(packages) in commands[-2]
    assert "--allow-downgrades" in commands[-2]
    real = TRANSITIONAL.replace("22.04.2", "22.04.1")
    arguments["driver"] = planned.model_copy(update={"packages": packages[1:]})
    assert not Fake({**truth(RUNNING_535), "dpkg -l": [real]}).run(driver.install, **arguments)[0]


def test_with_the_driver_come_the_modules_of_the_kernel_that_boots_next() -> None:
    """In one go: a dry run cannot know which of them the driver's packages bring by themselves."""
    release = "5.15.0-186-generic"
    planned = DRIVER.model_copy(update={"packages": ("nvidia-utils-535-server",)})
    fake = Fake({**truth(kernels=(release,)), "dpkg -l": []})
    _, commands = fake.run(driver.install, driver=planned, interrupts=Interruption((), 1))
    assert commands[-2].endswith(f"nvidia-utils-535-server linux-modules-nvidia-535-server-{release}")
    assert commands[-1] == f"apt-mark auto linux-modules-nvidia-535-server-{release}", "it goes with its kernel"


def test_a_driver_that_apt_cannot_install_costs_no_service(tmp_path: Path) -> None:
    """An admin's own holds: asked while the instances still serve, and said with apt's words and a way out."""
    planned = DRIVER.model_copy(update={"packages": ("nvidia-utils-535-server",)})
    facts = {**truth(), "dpkg -l": [], "list-units": ["ollama@a.service"]}
    _, commands = Fake(facts).run(driver.install, driver=planned, interrupts=Interruption(("a",), 1))
    rehearsal = next(command for command in commands if "apt-get -s -y" in command)
    drained = next(command for command in commands if "/etc/flexi/drain.d" in command)
    assert commands.index(rehearsal) < commands.index(drained)
    refusal = "E: Error, pkgProblemResolver::Resolve generated breaks, this may be caused by held packages."
    for name, script in {
        "apt-get": f"echo '{refusal}' >&2; exit 100",
        "apt-mark": "printf 'linux-generic\\nlinux-modules-nvidia-580-server-5.15.0-186-generic\\n'",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    argv, env = shlex.split(rehearsal), {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(argv, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 1
    assert "held packages" in done.stderr
    assert "On hold by hand: linux-modules-nvidia-580-server-5.15.0-186-generic (apt-mark unhold" in done.stderr
    (tmp_path / "apt-get").write_text("#!/bin/sh\nexit 0\n")
    assert subprocess.run(argv, env=env, check=False).returncode == 0


@pytest.mark.parametrize(
    ("kernels", "present", "wanted"),
    [
        (("5.15.0-186-generic",), (), "5.15.0-186-generic"),
        (("5.15.0-186-generic",), ("5.15.0-186-generic",), None),
        (("5.15.0-186-generic", "5.15.0-190-generic"), ("5.15.0-186-generic",), "5.15.0-190-generic"),
        ((), (), None),
    ],
    ids=["bare", "has them", "a kernel came past our holds", "a kernel of no package"],
)
def test_the_kernel_that_boots_next_gets_its_modules(
    kernels: tuple[str, ...], present: tuple[str, ...], wanted: str | None
) -> None:
    package = "linux-modules-nvidia-535-server-{release}"
    installed_ = [f"ii  {package.format(release=release)}  5.15  amd64  m" for release in present]
    fake = Fake({**truth(kernels=kernels), "dpkg -l": installed_})
    predicted, commands = fake.run(driver.install_kernel_modules, module_package=package, after=())
    assert predicted == bool(wanted)
    if wanted:
        assert f"install --no-install-recommends {package.format(release=wanted)}" in commands[-2]
        assert commands[-1] == f"apt-mark auto {package.format(release=wanted)}"


def test_a_kernels_modules_are_asked_for_by_name_where_no_meta_package_brings_them() -> None:
    package, newer = DRIVER.module_package, "5.15.0-190-generic"
    image = f"Inst linux-image-{newer} (5.15.0-190.200 Ubuntu:22.04/jammy-security [amd64])"
    modules = image.replace("linux-image-", "linux-modules-nvidia-535-server-")
    arguments: dict[str, Any] = {
        "driver": DRIVER,
        "maintenance": MaintenancePlan(),
        "interrupts": Interruption((), 1),
    }
    have = f"$have {package.format(release=newer)}"
    meta = image.replace(f"linux-image-{newer}", "linux-generic [5.15.0.186.196]")
    fake = Fake({**truth(RUNNING_535), have: [image, meta, modules], "apt-get -s": [image, meta]})
    _, commands = fake.run(driver.update, **arguments)
    assert f"linux-modules-nvidia-535-server-{newer}=5.15.0-190.200" in commands[-2]
    assert "linux-generic=5.15.0-190.200" in commands[-2]
    assert "linux-image" not in commands[-2], "a kernel that was asked for by name is never removed when it is old"
    assert commands[-1] == f"apt-mark auto linux-modules-nvidia-535-server-{newer}"
    library = "Inst libnvidia-compute-535-server [535.309.01-0ubuntu1] (535.309.02-0ubuntu1 Ubuntu [amd64])"
    for refused in ([image], [library]):
        fake = Fake({**truth(RUNNING_535), "apt-get -s": refused})
        add_op(fake.state, driver.update, **arguments)
        with pytest.raises(PyinfraError):
            run_ops(fake.state)
        assert not [command for command in map(str, fake.host.connector.executed_commands) if "apt-get -y" in command]


@pytest.mark.parametrize("daemon", ["chrony", "ntpsec", "openntpd", "systemd-timesyncd"])
def test_a_time_daemon_of_the_hosts_own_stays(daemon: str) -> None:
    predicted, _ = Fake({"dpkg -l": [f"ii  {daemon}  1.0  amd64  clock"]}).run(packages.time_daemon)
    assert not predicted


def test_a_version_that_is_gone_is_said_before_anything_changes(tmp_path: Path) -> None:
    """The check itself, run by sh with an apt-cache that knows only the transitional build."""
    _, commands = Fake({}).run(
        driver.require_version, package="nvidia-utils-535-server", version="535.309.01-0ubuntu0.22.04.1"
    )
    check = next(command for command in commands if "madison" in command)
    apt_cache = tmp_path / "apt-cache"
    apt_cache.write_text("#!/bin/sh\necho ' nvidia-utils-535-server | 535.309.01-0ubuntu0.22.04.2 | http://x jammy'\n")
    apt_cache.chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", check], capture_output=True, text=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False
    )
    assert done.returncode == 1
    assert "580-server" in done.stderr
    apt_cache.write_text(apt_cache.read_text().replace("22.04.2", "22.04.1"))
    done = subprocess.run(["sh", "-c", check], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False)
    assert done.returncode == 0


def test_another_build_of_a_package_does_not_count_as_the_wanted_one() -> None:
    """What an upgrade of an earlier night left: the name is right, the package empty."""
    wanted = {"package": "nvidia-utils-535-server", "version": "535.309.01-0ubuntu0.22.04.1"}
    line = "ii  nvidia-utils-535-server  535.309.01-0ubuntu0.22.04.{}  amd64  tool"
    assert Fake({"dpkg -l": [line.format(2)]}).run(driver.require_version, **wanted)[0]
    assert not Fake({"dpkg -l": [line.format(1)]}).run(driver.require_version, **wanted)[0]


def test_a_repository_that_the_site_no_longer_has_goes() -> None:
    found = ["/etc/apt/sources.list.d/flexi-cuda.sources", "/etc/apt/sources.list.d/flexi-old.sources"]
    _, commands = Fake({"-maxdepth 1": found}).run(apt_sources.remove_except, keep=found[:1])
    assert commands[-1] == "rm -f /etc/apt/sources.list.d/flexi-old.sources"
    assert not Fake({"-maxdepth 1": found}).run(apt_sources.remove_except, keep=found)[0]


def test_what_the_plan_no_longer_has_is_stopped() -> None:
    fake = Fake({"list-units": ["ollama@a.service", "ollama@old.service", "ollama@old.service"]})
    _, commands = fake.run(units.absent, pattern="ollama@*.service", keep=["ollama@a.service"])
    stopped = [command for command in commands if "disable --now" in command]
    assert stopped == ["systemctl disable --now ollama@old.service"]


def test_a_haproxy_of_the_admins_own_is_left_alone() -> None:
    predicted, _ = Fake({"list-units": ["haproxy.service"]}).run(
        units.absent, pattern="haproxy.service", keep=(), only_with="/etc/haproxy/flexi/dialects.map"
    )
    assert not predicted


def stamp_run(script: str, root: Path) -> subprocess.CompletedProcess[str]:
    """Run a stamping script with the host's directories below `root`."""
    local = script.replace("/var/lib/flexi", f"{root}/stamps")
    return subprocess.run(["sh", "-c", local], capture_output=True, text=True, check=False)


def test_an_action_is_due_until_it_succeeded_with_what_is_there(tmp_path: Path) -> None:
    """The scripts themselves, run by sh: written, killed, repeated, changed."""
    config, log = tmp_path / "service.conf", tmp_path / "restarts"
    config.write_text("one\n")

    def due() -> bool:
        fact = Stamp()
        script = str(fact.command("x", (str(config),)).get_masked_value()).removeprefix("sh -c ")
        local = shlex.split(script)[0].replace("/var/lib/flexi", f"{tmp_path}/stamps")
        output = subprocess.run(["sh", "-c", local], capture_output=True, text=True, check=True).stdout
        truth = fact.process(output.splitlines())
        return truth.present != truth.stamped

    def act(command: str) -> int:
        _, commands = Fake({"sha256sum": ["0" * 64]}).run(
            restart.on_change, service="x", watch=(str(config),), command=command
        )
        script = shlex.split(commands[-1].removeprefix("sh -c "))[0]
        return stamp_run(script, tmp_path).returncode

    assert due()
    assert act("false") != 0
    assert due(), "a failed restart must be repeated"
    assert act(f"echo restarted >>{log}") == 0
    assert not due()
    config.write_text("two\n")
    assert due()
    assert act(f"echo restarted >>{log}") == 0
    assert not due()
    assert log.read_text().count("restarted") == 2


def test_the_current_release_is_switched_in_one_rename() -> None:
    predicted, commands = Fake({"readlink": ["current 0.23.0"]}).run(ollama.switch_release, version="0.24.0")
    assert predicted
    moves = [shlex.split(command) for command in commands if command.startswith(("ln", "mv"))]
    assert moves == [
        ["ln", "-sfn", "0.23.0", "/opt/ollama/previous.new"],
        ["mv", "-fT", "/opt/ollama/previous.new", "/opt/ollama/previous"],
        ["ln", "-sfn", "0.24.0", "/opt/ollama/current.new"],
        ["mv", "-fT", "/opt/ollama/current.new", "/opt/ollama/current"],
    ]


RELEASES = [
    "/opt/ollama/0.24.0/.archive-sha256 abc",
    "/opt/ollama/0.32.15/.archive-sha256 def",
    "/opt/ollama/0.23.4/.archive-sha256 123",
    "current 0.32.15",
    "previous 0.24.0",
]


def test_a_rollback_changes_places_and_downloads_nothing() -> None:
    """The current one first: a run that ends between the two has gone back."""
    fake = Fake({"readlink": RELEASES, **truth(RUNNING_535.replace("535.309.01", "580.159.03"))})
    _, commands = fake.run(ollama.roll_back, version="0.32.15", major=580)
    links = [shlex.split(command)[2:] for command in commands if command.startswith("ln")]
    assert links == [["0.24.0", "/opt/ollama/current.new"], ["0.32.15", "/opt/ollama/previous.new"]]
    assert not any("curl" in command for command in commands)


@pytest.mark.parametrize(
    ("current", "previous"),
    [("0.24.0", "0.32.15"), ("0.24.0", "0.23.4"), ("0.24.0", "0.24.0")],
    ids=["rolled back", "never upgraded", "ended between the two links"],
)
def test_a_host_that_is_back_already_stays(current: str, previous: str) -> None:
    links = [*RELEASES[:3], f"current {current}", f"previous {previous}"]
    fake = Fake({"readlink": links, **truth(RUNNING_535.replace("535.309.01", "580.159.03"))})
    predicted, commands = fake.run(ollama.roll_back, version="0.32.15", major=580)
    assert not predicted
    assert not [command for command in commands if command.startswith(("ln", "mv"))]


@pytest.mark.parametrize(
    ("releases", "words"),
    [
        (["/opt/ollama/0.24.0/.archive-sha256 abc", "current 0.24.0", "previous "], "no previous Ollama"),
        (["/opt/ollama/0.24.0/.archive-sha256 abc", "current 0.24.0", "previous 0.23.4"], "no previous Ollama"),
        (["/opt/ollama/0.24.0/.archive-sha256 abc", "current 0.24.0", "previous 0.24.0"], "no previous Ollama"),
        (["current ", "previous "], "no previous Ollama"),
        (
            [*RELEASES[:2], "current 0.24.0", "previous 0.32.15"],
            "Ollama 0.32.15 computes on the CPU under driver 535",
        ),
    ],
    ids=["none", "removed", "itself", "no Ollama", "too new for the running driver"],
)
def test_a_rollback_that_cannot_be_is_refused(
    releases: list[str], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    fake = Fake({"readlink": releases, **truth(RUNNING_535)})
    add_op(fake.state, ollama.roll_back, version="0.24.0", major=535)
    with pytest.raises(PyinfraError):
        run_ops(fake.state)
    assert words in caplog.text


def test_only_releases_that_nobody_goes_back_to_are_removed() -> None:
    _, commands = Fake({"readlink": RELEASES}).run(ollama.remove_old_releases, version="0.32.15", after=())
    assert [command for command in commands if command.startswith("rm")] == ["rm -rf /opt/ollama/0.23.4"]


def test_a_dry_run_knows_that_a_switch_leaves_the_release_before_the_previous_one_to_nobody() -> None:
    fake = Fake({"readlink": [*RELEASES[:3], "current 0.24.0", "previous 0.23.4"]})
    switch = add_op(fake.state, ollama.switch_release, version="0.32.15")[fake.host]
    assert add_op(fake.state, ollama.remove_old_releases, version="0.32.15", after=[switch])[fake.host].will_change
    assert not add_op(fake.state, ollama.remove_old_releases, version="0.32.15", after=())[fake.host].will_change


CARDS = [Gpu(index, f"GPU-{index}", "NVIDIA A40", 46068 * 2**20) for index in range(2)]


def test_a_replaced_card_is_explained_and_taken_only_when_accepted(caplog: pytest.LogCaptureFixture) -> None:
    listing = [f"smi={gpu.index}, {gpu.uuid}, {gpu.name}" for gpu in CARDS]
    facts = {
        "the_cards": ["smi_fields=index,uuid,name", "smi_status=0", *listing],
        "CUDA_VISIBLE_DEVICES": ["GPU-0,GPU-9"],
    }
    group = instance((0, 1))
    fake = Fake(facts)
    add_op(fake.state, ollama.write_environment, instance=group, gpu_count=2)
    with pytest.raises(PyinfraError):
        run_ops(fake.state)
    assert "GPU-9 is gone, GPU-1 is in its place" in caplog.text
    assert "--accept-gpus @fake/host" in caplog.text
    accepted = Fake(facts, {"accept_gpus": "other,@fake/host"})
    add_op(accepted.state, ollama.write_environment, instance=group, gpu_count=2)
    run_ops(accepted.state)


@pytest.mark.parametrize(
    ("before", "now", "pairs"),
    [
        ([], ["GPU-0"], []),
        (["GPU-0", "GPU-1"], ["GPU-1"], []),
        (["GPU-0"], ["GPU-0", "GPU-1"], []),
        (["GPU-8", "GPU-1"], ["GPU-0", "GPU-1"], [("GPU-8", "GPU-0")]),
    ],
    ids=["new group", "smaller group", "larger group", "replaced"],
)
def test_other_cards_in_a_group_are_no_replacement_unless_one_is_gone(
    before: list[str], now: list[str], pairs: list[tuple[str, str]]
) -> None:
    assert ollama.replaced_gpus(before, now, CARDS) == pairs


@pytest.mark.parametrize(
    ("upgrades", "bare"),
    [
        ({"linux-image-5.15.0-190-generic": "1", "linux-image-generic": "1"}, ["5.15.0-190-generic"]),
        (
            {"linux-image-5.15.0-190-generic": "1", "linux-modules-nvidia-535-server-5.15.0-190-generic": "1"},
            [],
        ),
        ({"nvidia-utils-535-server": "2"}, []),
    ],
    ids=["a kernel alone", "a kernel with its modules", "no kernel"],
)
def test_a_kernel_without_modules_is_seen_before_it_is_installed(upgrades: dict[str, str], bare: list[str]) -> None:
    assert driver.kernels_without_modules(upgrades, "linux-modules-nvidia-535-server-{release}") == bare


@pytest.mark.parametrize(
    ("shown", "real"),
    [
        ("Package: m\nSection: restricted/kernel\nDescription: Linux kernel nvidia modules\n", True),
        ("Package: m\nSection: oldlibs\nDescription: nothing\n", False),
        ("Package: m\nSection: restricted/oldlibs\n", False),
        ("Package: m\nSection: kernel\nDescription-en: Transitional package for m2\n", False),
        ("Package: m\nSection: oldlibs\n\nPackage: m\nSection: kernel\n", True),
        ("", False),
    ],
    ids=["real", "old", "old of a component", "by its description", "an earlier one is real", "none"],
)
def test_an_empty_package_is_no_way_to_modules(shown: str, real: bool, tmp_path: Path) -> None:
    cache = tmp_path / "apt-cache"
    (tmp_path / "shown").write_text(shown)
    cache.write_text(f"#!/bin/sh\ncat {tmp_path}/shown\n")
    cache.chmod(0o755)
    argv = shlex.split(RealPackage().command("m").get_raw_value())
    done = subprocess.run(argv, capture_output=True, text=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)
    assert RealPackage().process(done.stdout.splitlines()) is real


def test_what_is_missing_is_simulated_where_nothing_is_to_be_updated(tmp_path: Path) -> None:
    """dpkg-query without names would list every package of the host, and all would be brought up."""
    for name, text in (("dpkg-query", "echo installed all"), ("apt-get", 'echo "Inst $* (1"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    argv = shlex.split(Upgrades().command((), ("new",)).get_raw_value())
    done = subprocess.run(argv, capture_output=True, text=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)
    assert done.stdout.split("--no-install-recommends ")[1] == "new (1\n"


def test_upgrades_are_read_from_a_simulation() -> None:
    """`apt-get -s install`, its two kinds of line: an upgrade and a package that comes in new."""
    lines = [
        "Inst linux-image-generic [5.15.0.186.196] (5.15.0.190.200 Ubuntu:22.04/jammy-security [amd64])",
        "Inst linux-image-5.15.0-190-generic (5.15.0-190.200 Ubuntu:22.04/jammy-security [amd64])",
    ]
    assert Upgrades().process(lines) == {
        "linux-image-generic": "5.15.0.190.200",
        "linux-image-5.15.0-190-generic": "5.15.0-190.200",
    }


def test_the_current_release_stays() -> None:
    predicted, _ = Fake({"readlink": ["current 0.24.0"]}).run(ollama.switch_release, version="0.24.0")
    assert not predicted


def test_releases_are_read_with_their_digests() -> None:
    releases = OllamaReleases().process(["/opt/ollama/0.24.0/.archive-sha256 abc", "current 0.24.0"])
    assert releases.installed == {"0.24.0": "abc"}
    assert releases.current == "0.24.0"
    assert OllamaReleases().process(["current "]).current is None


def test_a_key_is_checked_before_it_is_trusted() -> None:
    _, commands = Fake({}).run(
        packages.signing_key, url="http://mirror/key.pub", dest="/etc/apt/k.asc", fingerprint="AB" * 20
    )
    order = [command for command in commands if any(word in command for word in ("curl", "expected", "mv -f"))]
    assert "curl" in order[0]
    assert "AB" * 20 in order[1]
    assert order[-1].startswith("mv -f")


def test_the_health_key_stays_once_it_is_made() -> None:
    fake = Fake({"stat": "user=root group=root mode=-rw------- atime=1 mtime=1 ctime=1 size=1 '/x'"})
    predicted, _ = fake.run(gateway.make_health_key, key_header="/etc/h", key_map="/etc/m", consumer="health")
    assert not predicted


def test_a_file_is_checked_before_it_replaces_the_old_one() -> None:
    _, commands = Fake({}).run(host_files.validated, dest="/etc/x.cfg", content="new\n", check="checker -f {}")
    steps = [command for command in commands if "x.cfg" in command]
    checked = next(i for i, command in enumerate(steps) if "checker -f /etc/x.cfg.new" in command)
    moved = next(i for i, command in enumerate(steps) if command.startswith("mv"))
    assert checked < moved


def instance(gpus: tuple[int, ...] | tuple[str, ...]) -> InstancePlan:
    return InstancePlan(
        group="a",
        host="server-a",
        port=11434,
        gpus=gpus,
        vram_bytes=1,
        environment=(("OLLAMA_HOST", "0.0.0.0:11434"),),
        home="/var/lib/ollama/a",
        store="/var/lib/ollama/a/models",
        parallel=1,
        models=(),
    )


PRESENT = [Gpu(0, "GPU-00", "A40", 46068), Gpu(1, "GPU-11", "A40", 46068)]


def test_with_a_card_missing_numbers_are_not_trusted() -> None:
    """Cards A, C, D of four: index 1 is C now, which belongs to another group."""
    with pytest.raises(LookupError, match="shows 2 of the host's 3 GPUs"):
        ollama.resolve_gpus(instance((0, 1)), PRESENT, 3)
    assert ollama.resolve_gpus(instance(("GPU-11",)), PRESENT, 3) == ["GPU-11"]


def test_indices_become_uuids() -> None:
    assert ollama.resolve_gpus(instance((1, 0)), PRESENT, 2) == ["GPU-11", "GPU-00"]
    assert ollama.resolve_gpus(instance(("GPU-11",)), PRESENT, 2) == ["GPU-11"]
    assert "CUDA_VISIBLE_DEVICES=GPU-11,GPU-00\n" in ollama.render_environment(instance((1, 0)), ["GPU-11", "GPU-00"])


@pytest.mark.parametrize("gpus", [(0, 2), ("GPU-00", "GPU-99")])
def test_a_missing_gpu_is_named(gpus: Any) -> None:
    with pytest.raises(LookupError, match=r"group a: GPU (2|GPU-99) is not on this host; nvidia-smi shows 2"):
        ollama.resolve_gpus(instance(gpus), PRESENT, 2)


def test_a_stamp_is_the_same_where_a_missing_file_would_end_the_shell(tmp_path: Path) -> None:
    """The fact asks without `set -e`, the operation that stamps with it."""
    there = tmp_path / "there"
    there.write_text("x")
    command = stamp_digest_command([str(tmp_path / "missing"), str(there)])
    digests = [
        subprocess.run(["sh", *flag, "-c", command], capture_output=True, text=True, check=True).stdout
        for flag in ([], ["-e"])
    ]
    assert digests[0] == digests[1]
    assert (
        digests[0]
        != subprocess.run(
            ["sh", "-c", stamp_digest_command([str(there)])], capture_output=True, text=True, check=True
        ).stdout
    )


@pytest.mark.parametrize(
    ("chat", "target", "lifted"),
    [(True, "/dev/null", True), (True, "/srv/apache2.service", False), (False, "/dev/null", False)],
)
def test_only_our_own_mask_is_lifted(chat: bool, target: str, lifted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Here:
        def get_fact(self, fact: type, path: str) -> object:
            return {"link_target": target} if fact.__name__ == "Link" else {"size": 1} if chat else None

        def noop(self, why: str) -> None: ...

    monkeypatch.setattr("flexi.operations.units.host", Here())
    commands = [str(command) for command in units.unmask._inner(path="/etc/systemd/system/a.service", only_with="/m")]
    assert commands == (["rm -f /etc/systemd/system/a.service", "systemctl daemon-reload"] if lifted else [])
