"""`flexi bench lab`: how long the lab takes from nothing (cold), from stopped machines and when it is up (warm)."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from flexi.errors import FlexiError
from flexi.paths import ROOT

LAB_NAME = "bench"
BOUNDS_S = {"cold": 360.0, "warm": 90.0}
"""What the lab promises on 2 cores; a figure above its bound is marked, not failed: machines differ."""


@dataclass(frozen=True)
class Measurement:
    name: str
    seconds: float
    bound_s: float

    @property
    def within(self) -> bool:
        return self.seconds <= self.bound_s


def _timed(*arguments: str) -> float:
    start = time.monotonic()
    command = [sys.executable, "-m", "flexi", "lab", *arguments, "--name", LAB_NAME]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FlexiError(f"{' '.join(command[2:])} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.monotonic() - start


def measure() -> list[Measurement]:
    """Cold: base image, machines, deploy and verification from nothing. Warm: the same command on a lab that is up."""
    try:
        cold = _timed("up", "--fresh")
        warm = _timed("up")
    finally:
        _timed("down")
    return [Measurement(name, seconds, BOUNDS_S[name]) for name, seconds in (("cold", cold), ("warm", warm))]


def as_json(measurements: list[Measurement]) -> list[dict[str, object]]:
    return [asdict(measurement) | {"within": measurement.within} for measurement in measurements]


def show(measurements: list[Measurement], console: Console) -> None:
    table = Table("flexi lab up", "seconds", "promised", "")
    for m in measurements:
        table.add_row(m.name, f"{m.seconds:.0f}", f"≤ {m.bound_s:.0f}", "[green]ok[/]" if m.within else "[red]over[/]")
    console.print(table)
