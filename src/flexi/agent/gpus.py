"""What nvidia-smi says of the host's GPUs, and whether a group has all of its own.

nvidia-smi goes through the driver's own library (NVML), so it also notices a library that does not match the kernel.
"""

from __future__ import annotations

import csv
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

FIELDS = (
    "index,uuid,name,memory.total,memory.used,utilization.gpu,temperature.gpu,"
    "driver_version,ecc.errors.uncorrected.volatile.total"
)
COMMAND = ("nvidia-smi", f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits")
INIT_FAILED = "Failed to initialize NVML"
"""The driver as a whole does not work: no card will answer alone either."""
TIMEOUT_S = 10.0
EVERY_S = 5.0
STALE_S = 30.0
"""nvidia-smi can hang in the kernel where no signal reaches it: a report older than this is no report."""
KERNEL_VERSION_FILE = Path("/proc/driver/nvidia/version")
MIB = 2**20


@dataclass(frozen=True)
class Gpu:
    index: int
    uuid: str
    name: str
    memory_total: int | None
    """Bytes; None, here and below, where the card does not tell."""
    memory_used: int | None
    utilization_percent: int | None
    temperature_c: int | None
    driver_version: str
    ecc_uncorrected: int | None
    """Uncorrected memory errors since the driver was loaded."""


@dataclass(frozen=True)
class Driver:
    """Versions of the driver's two halves; they must be equal. `error` is in nvidia-smi's words."""

    kernel_version: str | None
    library_version: str | None
    error: str | None


@dataclass(frozen=True)
class GpuReport:
    gpus: tuple[Gpu, ...]
    driver: Driver
    at: float
    """time.monotonic() of the look."""
    indices: Mapping[str, int] = field(default_factory=dict)
    """UUID -> index of every GPU ever seen, so that a lost one can be called by its number."""
    timed_out: bool = False


def look(
    wanted: Sequence[str] = (),
    command: Sequence[str] = COMMAND,
    timeout_s: float = TIMEOUT_S,
    kernel_version_file: Path = KERNEL_VERSION_FILE,
) -> GpuReport:
    """Ask nvidia-smi; a failure is in the report's `driver.error`, never an exception.

    One lost card makes nvidia-smi refuse every question about the whole host. Then each card in `wanted` (UUIDs) is
    asked for alone, so that the groups that still have all of theirs are not taken for lost as well.
    """
    answer = _ask(command, timeout_s)
    gpus, words = parse(answer.text)
    if answer.status and not gpus and INIT_FAILED not in answer.text:
        alone = [_ask((*command, f"--id={uuid}"), timeout_s) for uuid in wanted]
        gpus = tuple(gpu for one in alone if not one.status for gpu in parse(one.text)[0])
    error: str | None = answer.failure
    if error is None and (answer.status or not gpus):
        error = "; ".join(words) or f"{command[0]} shows no GPU (exit status {answer.status})"
    library = re.search(r"NVML library version: (\d+(?:\.\d+)*)", answer.text)
    version = library.group(1) if library else gpus[0].driver_version if gpus else None
    return GpuReport(
        gpus=tuple(sorted(gpus, key=lambda gpu: gpu.index)),
        driver=Driver(kernel_version(kernel_version_file), version, error),
        at=time.monotonic(),
        indices={gpu.uuid: gpu.index for gpu in gpus},
        timed_out=answer.timed_out,
    )


@dataclass(frozen=True)
class _Answer:
    """What a call of nvidia-smi printed, or `failure`: why it could not be called."""

    text: str = ""
    status: int = 0
    failure: str | None = None
    timed_out: bool = False


def _ask(command: Sequence[str], timeout_s: float) -> _Answer:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        return _Answer(failure=f"{command[0]} gives no answer in {timeout_s:g} s", timed_out=True)
    except FileNotFoundError:
        return _Answer(failure=f"{command[0]} is not installed")
    except OSError as failure:
        return _Answer(failure=f"{command[0]}: {failure.strerror}")
    return _Answer(done.stdout, done.returncode)


def parse(text: str) -> tuple[tuple[Gpu, ...], list[str]]:
    """GPUs in nvidia-smi's answer, and all other lines: what it complains about."""
    gpus: list[Gpu] = []
    words: list[str] = []
    for line in text.splitlines():
        row = next(csv.reader([line], skipinitialspace=True), [])
        # A card that fell off the bus can still have a line, with "[GPU is lost]" in the place of numbers.
        if len(row) == 9 and row[0].isdigit() and row[1].startswith("GPU-") and "lost" not in line.lower():
            gpus.append(
                Gpu(
                    index=int(row[0]),
                    uuid=row[1],
                    name=row[2],
                    memory_total=_bytes(row[3]),
                    memory_used=_bytes(row[4]),
                    utilization_percent=_number(row[5]),
                    temperature_c=_number(row[6]),
                    driver_version=row[7],
                    ecc_uncorrected=_number(row[8]),
                )
            )
        elif line.strip():
            words.append(" ".join(line.split()))
    return tuple(gpus), words


def kernel_version(path: Path = KERNEL_VERSION_FILE) -> str | None:
    """Version of the driver that the kernel runs; None where none is loaded."""
    try:
        match = re.search(r"^NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", path.read_text(errors="replace"), re.MULTILINE)
    except OSError:
        return None
    return match.group(1) if match else None


def fault(report: GpuReport, uuids: Sequence[str], now: float) -> str | None:
    """Why a group with `uuids` cannot compute on its GPUs, in words; None where all is well."""
    if now - report.at > STALE_S:
        return f"nvidia-smi has given no answer for {STALE_S:g} s"
    visible = {gpu.uuid for gpu in report.gpus}
    if not visible:
        return report.driver.error or "nvidia-smi shows no GPU"
    missing = [uuid for uuid in uuids if uuid not in visible]
    if not missing:
        return None
    called = ", ".join(_called(uuid, report.indices) for uuid in missing[:2])
    if len(missing) > 2:
        called += f" and {len(missing) - 2} more"
    verb = "is" if len(missing) == 1 else "are"
    text = f"{called} {verb} not visible; the group has {len(uuids) - len(missing)} of its {len(uuids)} GPUs"
    return f"{text}; {report.driver.error}" if report.driver.error else text


def notes(report: GpuReport, uuids: Sequence[str]) -> list[str]:
    """What is not right with the group's GPUs although they compute."""
    return [
        f"GPU {gpu.index} ({short(gpu.uuid)}) has had {gpu.ecc_uncorrected} uncorrected memory errors"
        for gpu in report.gpus
        if gpu.uuid in uuids and gpu.ecc_uncorrected
    ]


def free_bytes(report: GpuReport, uuids: Sequence[str]) -> int:
    """VRAM that nobody uses on the group's GPUs together."""
    return sum((gpu.memory_total or 0) - (gpu.memory_used or 0) for gpu in report.gpus if gpu.uuid in uuids)


def short(uuid: str) -> str:
    """`GPU-ab12cd34-…` -> `GPU-ab12cd34`: enough to tell cards apart."""
    return uuid[:12]


class GpuWatch:
    """Asks nvidia-smi for the whole host every few seconds, in its own thread; readers never wait."""

    def __init__(self, look_once: Callable[[], GpuReport] = look, every_s: float = EVERY_S) -> None:
        self._look_once = look_once
        self._every_s = every_s
        self._latest: GpuReport | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpus", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def latest(self) -> GpuReport | None:
        """The last report; None before the first one."""
        return self._latest

    def refresh(self) -> None:
        """Ask once, now. One time-out in a row is forgiven: a busy host can be slow."""
        report = self._look_once()
        before = self._latest
        if before is not None:
            if report.timed_out and not before.timed_out:
                self._latest = replace(before, timed_out=True)
                return
            report = replace(report, indices={**before.indices, **report.indices})
        self._latest = report

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.refresh()
            self._stopping.wait(self._every_s)


def _called(uuid: str, indices: Mapping[str, int]) -> str:
    return f"GPU {indices[uuid]} ({short(uuid)})" if uuid in indices else short(uuid)


def _number(text: str) -> int | None:
    # "[N/A]" and "[Not Supported]" where a card does not count, e.g. ECC on an RTX A5000 with ECC off.
    return int(text) if text.isdigit() else None


def _bytes(text: str) -> int | None:
    number = _number(text)
    return None if number is None else number * MIB
