"""`flexi doctor`: reads live hosts without changing them, and says what is wrong, what that means and what mends it.

`kinds` is the table of all findings, `reading` asks the hosts, `diagnosis` judges (pure), `show` prints.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console

from flexi.errors import EXIT_FAILED, EXIT_OK, InputError
from flexi.plan.model import HostPlan, Plan

from . import kinds
from .case import Case, Finding, finding
from .diagnosis import diagnose
from .reading import Reading, read_all

__all__ = ["Case", "Examination", "Finding", "Reading", "diagnose", "examine", "judge"]


@dataclass(frozen=True)
class Examination:
    """What was found on which hosts."""

    site: str
    hosts: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def exit_status(self) -> int:
        return EXIT_FAILED if self.findings else EXIT_OK


def judge(site: str, plan: HostPlan, reading: Reading, now: float) -> list[Finding]:
    """The findings of one host; `site` is what the commands call the site."""
    if reading.truth is not None:
        return diagnose(Case(site, plan, reading.truth, reading.clock_offset_s, now))
    if not reading.reached:
        return [finding(kinds.UNREACHABLE, site, plan, f"the host does not answer over SSH: {reading.error}")]
    if "sudo" in reading.error or "password" in reading.error:
        return [finding(kinds.NO_ROOT, site, plan, f"{plan.ssh.user} may not become root: {reading.error}")]
    return [finding(kinds.HANGS, site, plan, f"it gives no answer: {reading.error}")]


def chosen(plan: Plan, names: Sequence[str]) -> list[HostPlan]:
    """The hosts with these names, all without any; InputError for one that the site does not have."""
    known = [host.name for host in plan.hosts]
    for name in names:
        if name not in known:
            raise InputError(f"--host {name}: the site has no such host; it has {', '.join(known)}")
    return [host for host in plan.hosts if not names or host.name in names]


def examine(
    site: str,
    plan: Plan,
    names: Sequence[str],
    console: Console,
    read: Callable[[Sequence[HostPlan], Console], list[Reading]] = read_all,
    clock: Callable[[], float] = time.time,
) -> Examination:
    """Read the hosts and judge what they say."""
    hosts = chosen(plan, names)
    readings = read(hosts, console)
    now = clock()
    found = [one for host, reading in zip(hosts, readings, strict=True) for one in judge(site, host, reading, now)]
    return Examination(plan.site, tuple(host.name for host in hosts), tuple(found))
