"""What the agents say of their instances: for `flexi status`, and for the wait at the end of a deploy."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from flexi import remote
from flexi.plan.model import HostPlan, Plan

STATUS_FILE = "/run/flexi-agent/status.json"
STALE_S = 60
"""The agent writes at least every few seconds; an older file means that it hangs."""
POLL_S = 1.0


@dataclass(frozen=True)
class HostStatus:
    """One host's agent: its own words, or why there are none."""

    host: str
    error: str | None
    status: dict[str, Any] | None

    def model_states(self) -> list[tuple[str, dict[str, Any]]]:
        """(group, model state) of every model on the host."""
        if self.status is None:
            return []
        return [(instance["group"], model) for instance in self.status["instances"] for model in instance["models"]]


def read(host: HostPlan) -> HostStatus:
    answer = remote.run(host, f"cat {STATUS_FILE} && date +%s")
    if not answer.reached:
        lines = answer.stderr.splitlines() or ["no answer"]
        return HostStatus(host.name, f"does not answer over SSH: {lines[-1]}", None)
    if answer.status != 0:
        return HostStatus(host.name, "the agent has written no status (systemctl status flexi-agent)", None)
    try:
        text, now = answer.stdout.rstrip().rsplit("\n", 1)
        status = json.loads(text)
        age = int(now) - int(status["time"])
    except (ValueError, KeyError, TypeError) as error:
        return HostStatus(host.name, f"its status cannot be read: {error}", None)
    if age > STALE_S:
        return HostStatus(host.name, f"the agent has been silent for {age} s (systemctl restart flexi-agent)", status)
    return HostStatus(host.name, None, status)


def read_all(plan: Plan) -> list[HostStatus]:
    hosts = [host for host in plan.hosts if host.agent]
    return list(remote.for_each(hosts, read).values())


def all_ready(statuses: list[HostStatus]) -> bool:
    return all(
        status.error is None and all(model["phase"] == "ready" for _, model in status.model_states())
        for status in statuses
    )


def as_json(plan: Plan, statuses: list[HostStatus]) -> dict[str, object]:
    return {
        "schema": 1,
        "site": plan.site,
        "ready": all_ready(statuses),
        "hosts": [vars(status) for status in statuses],
    }


def show(plan: Plan, statuses: list[HostStatus], console: Console) -> None:
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for column in ("host", "group", "model", "state", "VRAM"):
        table.add_column(column, overflow="fold")
    for status in statuses:
        if status.error:
            table.add_row(status.host, "", "", f"[bold red]{escape(status.error)}[/]", "")
        for group, model in status.model_states():
            vram = model.get("size_vram") or 0
            table.add_row(status.host, group, model["name"], _state(model), f"{vram / 2**30:.1f} GiB" if vram else "")
    console.print(table)


def _state(model: dict[str, Any]) -> str:
    phase, reason = model["phase"], model.get("reason") or ""
    if phase == "ready":
        return "[green]ready[/]" + (f" ({escape(reason)})" if reason else "")
    if phase == "downloading" and model.get("total"):
        return f"downloading {_bar(model['completed'], model['total'])}"
    color = "red" if phase == "fault" else "yellow"
    return f"[{color}]{phase}[/]" + (f": {escape(reason)}" if reason else "")


def _bar(done: int, total: int, width: int = 20) -> str:
    share = min(done / total, 1.0) if total else 0.0
    filled = round(share * width)
    return f"{'█' * filled}{'░' * (width - filled)} {share:4.0%}"


@dataclass(frozen=True)
class WaitResult:
    ready: bool
    seconds: float
    open_points: tuple[str, ...]
    """`host/group model: phase: reason` of everything that was not ready when the wait ended."""


def wait_until_ready(
    plan: Plan,
    console: Console,
    timeout_s: float,
    read_statuses: Callable[[Plan], list[HostStatus]] = read_all,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> WaitResult:
    """Show a bar for each model until all are ready or `timeout_s` is over. Downloads go on in either case."""
    start = clock()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[phase]}"),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        tasks: dict[tuple[str, str, str], TaskID] = {}
        told: dict[tuple[str, str, str], str] = {}
        while True:
            statuses = read_statuses(plan)
            for status in statuses:
                for group, model in status.model_states():
                    key = (status.host, group, model["name"])
                    if key not in tasks:
                        tasks[key] = progress.add_task(f"{status.host}/{group} {model['name']}", total=1, phase="")
                    total = model.get("total") or 1
                    done = total if model["phase"] in ("loading", "ready") else model.get("completed") or 0
                    progress.update(tasks[key], completed=done, total=total, phase=model["phase"])
                    # Without a terminal a line for each change says the same.
                    if not console.is_terminal and told.get(key) != model["phase"]:
                        told[key] = model["phase"]
                        console.print(f"{status.host}/{group} {model['name']}: {model['phase']}", highlight=False)
            if all_ready(statuses):
                return WaitResult(True, clock() - start, ())
            if clock() - start > timeout_s:
                return WaitResult(False, clock() - start, tuple(_open_points(statuses)))
            pause(POLL_S)


def _open_points(statuses: list[HostStatus]) -> list[str]:
    points = []
    for status in statuses:
        if status.error:
            points.append(f"{status.host}: {status.error}")
        for group, model in status.model_states():
            if model["phase"] != "ready":
                reason = f": {model['reason']}" if model.get("reason") else ""
                points.append(f"{status.host}/{group} {model['name']}: {model['phase']}{reason}")
    return points
