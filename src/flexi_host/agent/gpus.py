"""What nvidia-smi says of the host's GPUs, and whether a group has all of its own.

nvidia-smi goes through the driver's own library (NVML), so it also notices a library that does not match the kernel.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from flexi_host.agent import smi
from flexi_host.agent.smi import Expected, Gpu

TIMEOUT_S = 10.0
EVERY_S = 5.0
STALE_S = 30.0
"""nvidia-smi can hang in the kernel where no signal reaches it: a report older than this is no report."""
KERNEL_VERSION_FILE = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Driver:
    """Versions of the driver's two halves; they must be equal. `error` is in nvidia-smi's words."""

    kernel_version: str | None
    library_version: str | None
    error: str | None


@dataclass(frozen=True)
class GpuReport:
    gpus: tuple[Gpu, ...]
    """Every card of nvidia-smi's list, also one that is not usable."""
    driver: Driver
    at: float
    """time.monotonic() of the look."""
    indices: Mapping[str, int] = field(default_factory=dict)
    """UUID -> index of every GPU ever seen, so that a lost one can be called by its number."""
    timed_out: bool = False
    warnings: tuple[str, ...] = ()
    """Complaints of nvidia-smi that keep no card from computing."""


def look(
    wanted: Sequence[str] = (),
    command: Sequence[str] = (smi.PROGRAM,),
    timeout_s: float = TIMEOUT_S,
    kernel_version_file: Path = KERNEL_VERSION_FILE,
) -> GpuReport:
    """Ask nvidia-smi; a failure is in the report's `driver.error`, never an exception.

    One lost card can make nvidia-smi refuse every question about the whole host, or break its list off. Then each card
    in `wanted` (UUIDs) that has no line is asked for alone, so that the groups that still have all of theirs are not
    taken for lost as well.
    """
    query = (*command, *smi.query(smi.FIELDS))
    answer = _ask(query, timeout_s)
    text, health = answer.text, ""
    seen = smi.judge(text, answer.status)
    if answer.failure is None and smi.INIT_FAILED not in text:
        if answer.status not in (0, smi.INFOROM):
            missing = [uuid for uuid in wanted if seen.gpu(uuid) is None]
            text += "".join(_ask((*query, f"--id={uuid}"), timeout_s).rows for uuid in missing)
        elif seen.gpus:
            health = _health(command, seen.gpus[0].driver_version, timeout_s)
        seen = smi.judge(text, answer.status, health=health)
    library = re.search(r"NVML library version: (\d+(?:\.\d+)*)", text)
    version = library.group(1) if library else next((gpu.driver_version for gpu in seen.usable), None)
    return GpuReport(
        gpus=seen.gpus,
        driver=Driver(
            kernel_version(kernel_version_file),
            version,
            answer.failure or "; ".join(seen.errors) or None,
        ),
        at=time.monotonic(),
        indices={gpu.uuid: gpu.index for gpu in seen.gpus},
        timed_out=answer.timed_out,
        warnings=() if answer.failure else seen.warnings,
    )


def _health(command: Sequence[str], driver_version: str, timeout_s: float) -> str:
    """What this driver's nvidia-smi says of recovery and MIG; empty where it knows neither."""
    fields = smi.health_fields(driver_version)
    while len(fields) > 1:
        answer = _ask((*command, *smi.query(fields)), timeout_s)
        unknown = smi.unknown_field(answer.text)
        if unknown not in fields:
            return answer.text
        fields = tuple(field for field in fields if field != unknown)
    return ""


@dataclass(frozen=True)
class _Answer:
    """What a call of nvidia-smi printed, or `failure`: why it could not be called."""

    text: str = ""
    status: int = 0
    failure: str | None = None
    timed_out: bool = False

    @property
    def rows(self) -> str:
        """Its text where it is about one card that answers; why one does not is said by the question for all."""
        return self.text if self.status in (0, smi.INFOROM) else ""


def _ask(command: Sequence[str], timeout_s: float) -> _Answer:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
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
    # Two pipes and a line's end between: a complaint never lands in the middle of a card's line.
    return _Answer(f"{done.stdout}\n{done.stderr}\n", done.returncode)


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
    present = {gpu.uuid: gpu for gpu in report.gpus}
    if not present:
        return report.driver.error or "nvidia-smi shows no GPU"
    broken = [gpu for uuid, gpu in present.items() if uuid in uuids and gpu.fault]
    faulty = [gpu for gpu in broken if not smi.is_lost(gpu)]
    missing = [
        uuid for uuid in uuids if uuid not in present or (present[uuid] in broken and present[uuid] not in faulty)
    ]
    if not missing and not faulty:
        return None
    have = f"the group has {len(uuids) - len(missing) - len(faulty)} of its {len(uuids)} GPUs"
    parts = [f"{gpu.called} is not usable: {gpu.fault}" for gpu in faulty[:2]]
    if len(faulty) > 2:
        parts.append(f"{len(faulty) - 2} more are not usable")
    if missing:
        called = ", ".join(_called(uuid, report.indices) for uuid in missing[:2])
        if len(missing) > 2:
            called += f" and {len(missing) - 2} more"
        parts.append(f"{called} {'is' if len(missing) == 1 else 'are'} not visible")
    text = "; ".join([*parts, have])
    return f"{text}; {report.driver.error}" if report.driver.error and missing else text


def notes(report: GpuReport, uuids: Sequence[str], expected: Expected | None = None) -> list[str]:
    """What is not right with the group's GPUs although they compute."""
    mine = [gpu for gpu in report.gpus if gpu.uuid in uuids]
    found = [
        f"{gpu.called} has had {gpu.ecc_uncorrected} uncorrected memory errors" for gpu in mine if gpu.ecc_uncorrected
    ]
    others = [smi.other(gpu, expected) for gpu in mine] if expected else []
    return [*(words for words in others if words), *found, *report.warnings]


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with the host's cards as a whole, for people."""

    severity: str
    """`error` where the plan does not hold, `warning` where somebody should look."""
    what: str


def findings(report: GpuReport, expected: Expected | None) -> list[Finding]:
    """What is wrong with the host's cards, whichever group has them."""
    found = [Finding("error", f"{gpu.called} is not usable: {gpu.fault}") for gpu in report.gpus if gpu.fault]
    if expected is not None:
        found += [Finding("error", words) for gpu in report.gpus if (words := smi.other(gpu, expected))]
    return found + [Finding("warning", f"nvidia-smi: {words}") for words in report.warnings]


def free_bytes(report: GpuReport, uuids: Sequence[str]) -> int:
    """VRAM that nobody uses on the group's GPUs together."""
    cards = [gpu for gpu in report.gpus if gpu.uuid in uuids and gpu.fault is None]
    return sum((gpu.memory_total or 0) - (gpu.memory_used or 0) for gpu in cards)


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
    return f"GPU {indices[uuid]} ({smi.short(uuid)})" if uuid in indices else smi.short(uuid)
