"""The probe on live hosts, all at once. Nothing is written there."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from flexi.plan.model.site import HostPlan
from flexi.probe import PROBE, HostTruth, parse
from flexi.ssh import remote

TIMEOUT_S = 120.0
"""Longer than all that the probe waits for by itself but a driver that hangs in the kernel."""


@dataclass(frozen=True)
class Reading:
    """What a host told, or `error` in words. `asked` and `answered` are this machine's clock around it."""

    host: str
    truth: HostTruth | None
    error: str = ""
    reached: bool = True
    asked: float = 0.0
    answered: float = 0.0

    @property
    def clock_offset_s(self) -> float:
        """Seconds by which the host's clock is ahead at least (negative: behind), however long the way was."""
        if self.truth is None or self.truth.started is None:
            return 0.0
        ended = self.truth.started if self.truth.ended is None else self.truth.ended
        least, most = ended - self.answered, self.truth.started - self.asked
        return least if least > 0 else min(most, 0.0)


def read(host: HostPlan, clock: Callable[[], float] = time.time) -> Reading:
    asked = clock()
    answer = remote.run(host, remote.ROOT_SHELL, timeout_s=TIMEOUT_S, stdin=PROBE)
    answered = clock()
    try:
        # What came before the connection broke or the time was over counts.
        truth = parse(answer.stdout)
    except ValueError:
        lines = answer.stderr.splitlines() or [f"exit status {answer.status}"]
        return Reading(host.name, None, lines[-1], answer.reached, asked, answered)
    return Reading(host.name, truth, "", True, asked, answered)


def read_all(hosts: Sequence[HostPlan], console: Console) -> list[Reading]:
    """All hosts in parallel; a bar on a terminal."""
    progress = Progress(
        SpinnerColumn(),
        TextColumn("looking at {task.fields[hosts]}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with progress:
        waiting = [host.name for host in hosts]
        task = progress.add_task("", total=len(hosts), hosts=", ".join(waiting))

        def work(host: HostPlan) -> Reading:
            reading = read(host)
            waiting.remove(host.name)
            progress.update(task, advance=1, hosts=", ".join(waiting))
            return reading

        return list(remote.for_each(hosts, work).values())
