"""Processes that outlive the command that started them, and ending exactly these again."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Process:
    """A process by pid and start time (clock ticks since boot): a pid alone may be somebody else's by now."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The living process with this pid; None where there is none (a zombie is none)."""
        try:
            text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return None
        fields = text.rpartition(")")[2].split()  # the command's name may hold spaces and parentheses
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    @property
    def alive(self) -> bool:
        return Process.of(self.pid) == self

    def send(self, number: signal.Signals) -> None:
        """Signal it if it is still this process."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def write(self, path: Path) -> None:
        draft = path.with_suffix(".tmp")
        draft.write_text(f"{self.pid} {self.started}\n", encoding="ascii")
        draft.replace(path)


def myself() -> Process:
    process = Process.of(os.getpid())
    assert process is not None
    return process


def read(path: Path) -> Process | None:
    """The living process that a pid file names, else None."""
    try:
        pid, started = (int(word) for word in path.read_text(encoding="ascii").split())
    except (FileNotFoundError, ValueError):
        return None
    process = Process(pid, started)
    return process if process.alive else None


def end(processes: Iterable[Process], timeout_s: float = 60.0) -> list[Process]:
    """Kill them and wait until they are gone; returns those that are not. Who waits for a busy disk dies late."""
    left = list(processes)
    deadline = time.monotonic() + timeout_s
    while left and time.monotonic() < deadline:
        for process in left:
            process.send(signal.SIGKILL)
        time.sleep(0.02)
        left = [process for process in left if process.alive]
    return left


def die_with_parent() -> None:
    """For `preexec_fn`: the kernel kills the child when the thread that started it ends, however it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def start_detached(command: Sequence[str], log: Path) -> None:
    """Start a daemon: a session of its own, not our child, output to `log`. It writes its pid file itself."""
    with log.open("ab") as output:
        subprocess.run(
            ["setsid", "--fork", *command], stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", check=True
        )
