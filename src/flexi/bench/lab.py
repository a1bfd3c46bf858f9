"""`flexi bench lab`: how long `lab up` takes from nothing (cold), and when the lab is up already (warm)."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

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


def _timed(cache: Path, *arguments: str) -> float:
    start = time.monotonic()
    command = [sys.executable, "-m", "flexi", "lab", *arguments, "--name", LAB_NAME]
    environment = os.environ | {"FLEXI_LAB_CACHE": str(cache)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FlexiError(f"{' '.join(command[2:])} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.monotonic() - start


def measure() -> list[Measurement]:
    """Cold: image, machines, deploy, verification, with an empty cache. Warm: the same command on a lab that is up."""
    with tempfile.TemporaryDirectory(prefix="flexi-bench-", dir="/var/cache") as directory:
        cache = Path(directory)
        try:
            cold = _timed(cache, "up", "--fresh")
            warm = _timed(cache, "up")
        finally:
            _timed(cache, "down")
    return [Measurement(name, seconds, BOUNDS_S[name]) for name, seconds in (("cold", cold), ("warm", warm))]


def as_json(measurements: list[Measurement]) -> list[dict[str, object]]:
    return [asdict(measurement) | {"within": measurement.within} for measurement in measurements]


def show(measurements: list[Measurement], console: Console) -> None:
    table = Table("flexi lab up", "seconds", "promised", "")
    for m in measurements:
        table.add_row(m.name, f"{m.seconds:.0f}", f"≤ {m.bound_s:.0f}", "[green]ok[/]" if m.within else "[red]over[/]")
    console.print(table)
