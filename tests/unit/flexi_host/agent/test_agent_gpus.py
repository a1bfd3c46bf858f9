"""nvidia-smi's answers, good and bad, and the gate before an instance starts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.agent_fakes import GIB, UUIDS, report, smi_line

from flexi_host.agent import gate as gate_module
from flexi_host.agent import gpus
from flexi_host.agent.env_file import EnvFileError, gpu_uuids
from flexi_host.agent.gpus import GpuReport, GpuWatch
from flexi_host.agent.smi import Expected

MISMATCH = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 535.309"
LOST = "Unable to determine the device handle for GPU0000:02:00.0: GPU is lost.  Reboot the system to recover this GPU"


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory at the head of PATH; `say` puts an nvidia-smi there."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return directory


def say(directory: Path, text: str, status: int = 0) -> None:
    (directory / "answer").write_text(text + "\n")
    program = directory / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat {directory}/answer\nexit {status}\n")
    program.chmod(0o755)


def test_a_healthy_host(smi: Path, tmp_path: Path) -> None:
    say(smi, smi_line(0, UUIDS[0], used="5123") + "\n" + smi_line(1, UUIDS[1], ecc="2"))
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.309.01  Mon Mar  2 2026\nGCC version: 12\n")
    seen = gpus.look(kernel_version_file=version)
    assert (seen.driver.kernel_version, seen.driver.library_version, seen.driver.error) == (
        "535.309.01",
        "535.309.01",
        None,
    )
    first, second = seen.gpus
    assert (first.index, first.uuid, first.name) == (0, UUIDS[0], "NVIDIA RTX A5000")
    assert (first.memory_total, first.memory_used) == (24564 * 2**20, 5123 * 2**20)
    assert (first.ecc_uncorrected, second.ecc_uncorrected) == (None, 2)
    assert gpus.fault(seen, UUIDS, time.monotonic()) is None
    assert gpus.notes(seen, UUIDS) == ["GPU 1 (GPU-bbbbbbbb) has had 2 uncorrected memory errors"]
    assert gpus.notes(seen, UUIDS[:1]) == []


def test_a_mismatch_is_told_in_nvidia_smis_words_with_the_librarys_version(smi: Path) -> None:
    say(smi, MISMATCH, status=18)
    seen = gpus.look()
    assert seen.driver.library_version == "535.309"
    assert gpus.fault(seen, UUIDS, time.monotonic()) == (
        "Failed to initialize NVML: Driver/library version mismatch; NVML library version: 535.309"
    )


def test_a_lost_gpu_takes_its_own_group_down_and_no_other(smi: Path) -> None:
    say(smi, smi_line(0, UUIDS[0]) + "\n" + LOST, status=15)
    seen = gpus.look()
    assert gpus.fault(seen, UUIDS[:1], time.monotonic()) is None
    words = gpus.fault(seen, UUIDS[1:], time.monotonic()) or ""
    assert words.startswith("GPU-bbbbbbbb is not visible; the group has 0 of its 1 GPUs; Unable to determine")


def test_when_a_lost_gpu_blocks_every_question_the_others_are_asked_for_alone(smi: Path) -> None:
    (smi / "nvidia-smi").write_text(
        f"""#!/bin/sh
case "$*" in
  *--id={UUIDS[0]}) echo '{smi_line(0, UUIDS[0])}' ;;
  *) echo '{LOST}'; exit 15 ;;
esac
"""
    )
    (smi / "nvidia-smi").chmod(0o755)
    seen = gpus.look(UUIDS)
    assert [gpu.uuid for gpu in seen.gpus] == [UUIDS[0]]
    assert "GPU is lost" in (seen.driver.error or "")
    assert gpus.fault(seen, UUIDS[:1], time.monotonic()) is None
    assert "GPU-bbbbbbbb is not visible" in (gpus.fault(seen, UUIDS, time.monotonic()) or "")


def test_a_lost_gpu_can_still_have_a_line(smi: Path) -> None:
    say(smi, smi_line(0, UUIDS[0]) + "\n" + f"1, {UUIDS[1]}" + ", [GPU is lost]" * 7)
    assert "not visible" in (gpus.fault(gpus.look(), UUIDS, time.monotonic()) or "")


def test_no_nvidia_smi_no_answer_and_no_gpu(smi: Path) -> None:
    assert gpus.look(command=["no-such-nvidia-smi"]).driver.error == "no-such-nvidia-smi is not installed"
    say(smi, "", status=0)
    assert "shows no GPU" in (gpus.look().driver.error or "")


def test_a_hanging_nvidia_smi_is_given_up() -> None:
    seen = gpus.look(command=[sys.executable, "-c", "import signal; signal.pause()"], timeout_s=0.05)
    assert seen.timed_out
    assert "gives no answer in 0.05 s" in (seen.driver.error or "")


def test_an_old_report_is_no_report() -> None:
    seen = report(*UUIDS)
    assert gpus.fault(seen, UUIDS, seen.at + 29) is None
    assert gpus.fault(seen, UUIDS, seen.at + 31) == "nvidia-smi has given no answer for 30 s"


def test_one_time_out_is_forgiven_and_two_are_not() -> None:
    late = GpuReport(
        (), gpus.Driver(None, None, "nvidia-smi gives no answer in 10 s"), time.monotonic(), timed_out=True
    )
    answers = [report(*UUIDS), late, late, report(UUIDS[0])]
    watch = GpuWatch(lambda: answers.pop(0))

    def after_refresh() -> str | None:
        watch.refresh()
        latest = watch.latest()
        assert latest
        return gpus.fault(latest, UUIDS, latest.at)

    assert after_refresh() is None
    assert after_refresh() is None
    assert after_refresh() == "nvidia-smi gives no answer in 10 s"
    assert (after_refresh() or "").startswith("GPU 1 (GPU-bbbbbbbb) is not visible"), "its number is remembered"


def test_many_lost_gpus_are_counted() -> None:
    words = gpus.fault(report("GPU-other"), [f"GPU-{i}" for i in range(5)], time.monotonic())
    assert words == "GPU-0, GPU-1 and 3 more are not visible; the group has 0 of its 5 GPUs"


def test_free_memory_counts_the_groups_gpus_only() -> None:
    assert gpus.free_bytes(report(*UUIDS, memory_used=4 * GIB), UUIDS[:1]) == 20 * GIB


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("OLLAMA_HOST=x\n", "names no GPU"),
        ("CUDA_VISIBLE_DEVICES=\n", "names no GPU"),
        ('CUDA_VISIBLE_DEVICES=""\n', "names no GPU"),
        ("CUDA_VISIBLE_DEVICES=0,1\n", "'0', which is not a full UUID"),
        (f"CUDA_VISIBLE_DEVICES={UUIDS[0]},\n", "'', which is not a full UUID"),
        (f"CUDA_VISIBLE_DEVICES={UUIDS[0]},{UUIDS[0]}\n", "twice"),
    ],
)
def test_an_environment_that_would_end_on_the_cpu_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "a.env"
    path.write_text(text)
    with pytest.raises(EnvFileError, match=words):
        gpu_uuids(path)


def test_the_last_assignment_counts_as_it_does_for_systemd(tmp_path: Path) -> None:
    path = tmp_path / "a.env"
    path.write_text(f'#CUDA_VISIBLE_DEVICES=no\nCUDA_VISIBLE_DEVICES={UUIDS[0]}\nCUDA_VISIBLE_DEVICES="{UUIDS[1]}"\n')
    assert gpu_uuids(path) == (UUIDS[1],)


def gate(env_file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flexi_host", "gpus", "--env-file", str(env_file)],
        capture_output=True,
        text=True,
        check=False,
    )


def with_nodes(root: Path) -> Path:
    """A root whose /dev/nvidia-uvm can be opened: the node of /dev/null, whose major number is 1."""
    (root / "dev").mkdir()
    (root / "dev/nvidia-uvm").symlink_to("/dev/null")
    (root / "proc").mkdir()
    (root / "proc/devices").write_text("Character devices:\n  1 nvidia-uvm\n\nBlock devices:\n")
    return root


def test_the_gate_opens_only_when_every_gpu_is_visible(smi: Path, tmp_path: Path) -> None:
    env_file = tmp_path / "a.env"
    env_file.write_text(f"CUDA_VISIBLE_DEVICES={','.join(UUIDS)}\n")
    say(smi, "\n".join(smi_line(index, uuid) for index, uuid in enumerate(UUIDS)))
    assert gate_module.refusal(env_file, with_nodes(tmp_path)) is None

    say(smi, smi_line(0, UUIDS[0]))
    shut = gate(env_file)
    assert shut.returncode == 1
    assert shut.stderr == "flexi_host: GPU-bbbbbbbb is not visible; the group has 1 of its 2 GPUs\n"

    say(smi, MISMATCH, status=18)
    shut = gate(env_file)
    assert (shut.returncode, "version mismatch" in shut.stderr, shut.stderr.count("\n")) == (1, True, 1)

    env_file.write_text("CUDA_VISIBLE_DEVICES=\n")
    shut = gate(env_file)
    assert (shut.returncode, "CPU" in shut.stderr) == (1, True)
    assert gate(tmp_path / "missing.env").returncode == 1


def shape(name: str) -> str:
    """The answer of a file of the collection in tests/unit/smi."""
    text = (Path(__file__).parent / "smi" / f"{name}.txt").read_text()
    return text.partition("--- answer\n")[2].partition("--- health\n")[0].rstrip("\n")


def seen_uuid(number: int) -> str:
    return f"GPU-0000000{number}-0000-4000-8000-00000000000{number}"


def test_a_gpu_that_requires_a_reset_shuts_the_gate_of_its_group_only(smi: Path, tmp_path: Path) -> None:
    say(smi, shape("570-requires-reset"))
    well, broken = tmp_path / "a.env", tmp_path / "b.env"
    well.write_text(f"CUDA_VISIBLE_DEVICES={seen_uuid(0)}\n")
    broken.write_text(f"CUDA_VISIBLE_DEVICES={seen_uuid(0)},{seen_uuid(1)}\n")
    assert gate_module.refusal(well, with_nodes(tmp_path)) is None
    shut = gate(broken)
    assert shut.returncode == 1
    assert shut.stderr == (
        "flexi_host: GPU 1 (GPU-00000001) is not usable: GPU requires reset; the group has 1 of its 2 GPUs\n"
    )


def test_a_warning_shuts_no_gate_and_is_a_note(smi: Path) -> None:
    say(smi, shape("450-inforom"), status=14)
    seen = gpus.look([seen_uuid(0), seen_uuid(1)])
    assert gpus.fault(seen, [seen_uuid(0), seen_uuid(1)], time.monotonic()) is None
    assert (seen.driver.error, len(seen.gpus)) == (None, 2)
    assert gpus.notes(seen, [seen_uuid(0)]) == ["WARNING: infoROM is corrupted at gpu 0000:67:00.0"]
    assert [(one.severity, "infoROM" in one.what) for one in gpus.findings(seen, None)] == [("warning", True)]


def test_complaints_on_the_error_output_count(smi: Path) -> None:
    """The card that still answers has its row, the other one's complaint comes on the other pipe, with status 0."""
    (smi / "nvidia-smi").write_text(f"#!/bin/sh\nprintf '%s' '{smi_line(0, UUIDS[0])}'; echo '{LOST}' >&2\n")
    (smi / "nvidia-smi").chmod(0o755)
    seen = gpus.look(UUIDS)
    assert gpus.fault(seen, UUIDS[:1], time.monotonic()) is None
    assert "GPU-bbbbbbbb is not visible" in (gpus.fault(seen, UUIDS, time.monotonic()) or "")
    assert "GPU is lost" in (seen.driver.error or "")


def test_the_recovery_action_of_a_card_with_all_its_numbers_shuts_the_gate(smi: Path) -> None:
    """A driver that knows the field, and one that refuses a question with it and knows MIG."""
    rows = "\n".join(smi_line(index, uuid).replace("535.309.01", "580.65.06") for index, uuid in enumerate(UUIDS))
    (smi / "nvidia-smi").write_text(
        f"""#!/bin/sh
case "$*" in
  *uuid,mig.mode.current,gpu_recovery_action*) [ ! -e {smi}/old ] || {{
      echo 'Field "gpu_recovery_action" is not a valid field to query.'; exit 2; }}
    echo '{UUIDS[0]}, [N/A], None'; echo '{UUIDS[1]}, [N/A], Reset' ;;
  *uuid,mig.mode.current*) echo '{UUIDS[0]}, Enabled' ;;
  *) echo '{rows}' ;;
esac
"""
    )
    (smi / "nvidia-smi").chmod(0o755)
    words = gpus.fault(gpus.look(), UUIDS, time.monotonic()) or ""
    assert "GPU 1 (GPU-bbbbbbbb) is not usable: the driver asks for recovery: Reset" in words
    (smi / "old").touch()
    seen = gpus.look()
    assert (gpus.fault(seen, UUIDS, time.monotonic()), [gpu.split for gpu in seen.gpus]) == (None, [True, False])


def test_another_card_than_the_site_files_is_a_note_and_an_error_of_the_host() -> None:
    seen, expected = report(*UUIDS), Expected("A40", 46068)
    assert "site file says A40" in gpus.notes(seen, UUIDS[:1], expected)[0]
    assert [one.severity for one in gpus.findings(seen, expected)] == ["error", "error"]
    assert gpus.findings(seen, Expected("RTX A5000", 24576)) == []
    assert gpus.fault(seen, UUIDS, time.monotonic()) is None, "it serves what fits"


def test_nvidia_smi_that_a_signal_ended(smi: Path) -> None:
    (smi / "nvidia-smi").write_text("#!/bin/sh\nkill -9 $$\n")
    (smi / "nvidia-smi").chmod(0o755)
    assert gpus.look().driver.error == "nvidia-smi was ended by signal 9"
