"""`flexi doctor`: reads live hosts without changing them, and says what is wrong, what that means and what mends it.

`kinds` is the table of all findings, `reading` asks the hosts, `diagnosis` judges (pure), `show` prints.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rich.console import Console

from flexi.errors import EXIT_FAILED, EXIT_OK, InputError
from flexi.health.report import Check
from flexi.plan.model.site import HostPlan, Plan
from flexi.ssh.remote import unreachable
from flexi.status import problems as service_problems
from flexi.status.instances import Look
from flexi.status.instances import look as look_at_service

from . import kinds, live
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
    def errors(self) -> tuple[Finding, ...]:
        """Findings that make the site not well."""
        return tuple(finding for finding in self.findings if finding.kind.severity == "error")

    @property
    def exit_status(self) -> int:
        """The site's health as one number, the same for `status`, `verify` and the doctor: 1 where there are errors."""
        return EXIT_FAILED if self.errors else EXIT_OK


def judge(site: str, plan: HostPlan, reading: Reading, now: float) -> list[Finding]:
    """The findings of one host; `site` is what the commands call the site."""
    if reading.truth is not None:
        return diagnose(Case(site, plan, reading.truth, reading.clock_offset_s, now))
    if not reading.reached:
        return [finding(kinds.UNREACHABLE, site, plan, f"the host {unreachable(reading.error)}")]
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
    look: Callable[[Plan], Look] = look_at_service,
    checks: Callable[[], Sequence[Check]] = tuple,
) -> Examination:
    """Read the hosts and the service, and judge what they say.

    `names` are the hosts that are judged, all where there are none. Where nothing is wrong, `checks` may name health
    checks that fail all the same: "nothing is wrong" is said only of a site that passes them.
    """
    hosts = chosen(plan, names)
    chosen_names, every_name = {host.name for host in hosts}, {host.name for host in plan.hosts}
    with ThreadPoolExecutor(max_workers=1) as pool:
        service = pool.submit(look, plan)
        readings = read(hosts, console)
        problems = [one for one in service_problems.problems(plan, service.result()) if one.host in chosen_names]
    now = clock()
    found = [one for host, reading in zip(hosts, readings, strict=True) for one in judge(site, host, reading, now)]
    found += live.findings(site, plan, problems, found)
    if not any(one.kind.severity == "error" for one in found):
        found += [
            finding(kinds.CHECK_FAILS, site, plan.host(host), f"{check.check}: {check.reason}")
            for check in checks()
            if check.outcome == "failed"
            # A check of the whole site is the gateway's.
            and (host := check.host if check.host in every_name else plan.gateway.host) in chosen_names
        ]
    return Examination(plan.site, tuple(host.name for host in hosts), tuple(found))


def examine_service(site: str, plan: Plan, seen: Look) -> Examination:
    """Judge the service alone, from a look that was taken already: nothing of disks, packages, kernels and cards."""
    found = tuple(live.findings(site, plan, service_problems.problems(plan, seen), ()))
    return Examination(plan.site, tuple(host.name for host in plan.hosts), found)
