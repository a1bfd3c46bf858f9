"""What the agents say of their instances: for `flexi status`, and for the wait at the end of a deploy."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from flexi.plan.model.site import HostPlan, Plan
from flexi.ssh import remote
from flexi.status import chat as chat_status
from flexi.status import client_view, gateway
from flexi.status import units as unit_status
from flexi.status.chat import ChatNow
from flexi.status.client_view import ClientView
from flexi.status.gateway import GatewayNow
from flexi.status.units import HostUnits

STATUS_FILE = "/run/flexi-agent/status.json"
READ_COMMAND = f"cat {STATUS_FILE} && date +%s"
STALE_S = 60
"""The agent writes at least every few seconds; an older file means that it hangs."""
POLL_S = 1.0
WATCH_S = 2.0
"""Between two looks of `flexi status` on a terminal; the agents look every 2 s themselves."""
STUCK_S = 180
"""Faults that last longer than this need a person: a reboot or the agent's first attempts are over by then."""
SETTLE_S = 8.0
"""A deploy may have restarted an instance a moment ago: its agent looks every 2 s, waits 3 s for an answer and writes
within a second, so only what stays ready for longer than that is ready."""
SHOWN_REASON = 60
"""Characters of a reason that stand beside a bar; `flexi status` shows all of it."""


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

    def findings(self) -> list[tuple[str, str]]:
        """(severity, words) of what is wrong with the host's cards as a whole: `error` or `warning`, as the agent says.

        An older agent says nothing of it.
        """
        found = (self.status or {}).get("findings") or ()
        return [(str(one["severity"]), str(one["what"])) for one in found]


def read(host: HostPlan) -> HostStatus:
    answer = remote.run(host, READ_COMMAND)
    if not answer.reached:
        return HostStatus(host.name, answer.unreachable, None)
    if answer.status != 0:
        return HostStatus(host.name, "the agent has written no status (systemctl status flexi-agent)", None)
    return understood(host.name, answer.stdout)


def understood(host: str, answer: str) -> HostStatus:
    """What `host` answered to `READ_COMMAND`."""
    try:
        text, now = answer.rstrip().rsplit("\n", 1)
        status = json.loads(text)
        age = int(now) - int(status["time"])
        for instance in status["instances"]:
            for model in instance["models"]:
                (str(instance["group"]), str(model["name"]), str(model["phase"]))
    except (ValueError, KeyError, TypeError) as error:
        return HostStatus(host, f"its status cannot be read ({error!r}): another release of the agent? deploy", None)
    if age > STALE_S:
        return HostStatus(host, f"the agent has been silent for {age} s (systemctl restart flexi-agent)", status)
    return HostStatus(host, None, status)


def read_all(plan: Plan, limit: Sequence[str] = ()) -> list[HostStatus]:
    """What the agents say; with `limit` only those of the hosts named there."""
    hosts = [host for host in plan.hosts if host.agent and (not limit or host.name in limit)]
    return list(remote.for_each(hosts, read).values())


@dataclass(frozen=True)
class Look:
    """What all of them say at about the same moment."""

    hosts: list[HostStatus]
    gateways: list[GatewayNow]
    chat: ChatNow | None
    """None where the site has no chat."""
    units: list[HostUnits] = field(default_factory=list)
    clients: list[ClientView] = field(default_factory=list)


def look(plan: Plan) -> Look:
    """Agents, gateways, the chat and every host's services at once."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        gateways, chat = pool.submit(gateway.read_all, plan), pool.submit(chat_status.read, plan)
        units, clients = pool.submit(unit_status.read_all, plan), pool.submit(client_view.read_all, plan)
        return Look(read_all(plan), gateways.result(), chat.result(), units.result(), clients.result())


def model_states(plan: Plan, status: HostStatus) -> list[tuple[str, dict[str, Any]]]:
    """(group, model state) of every model that the agent knows or that the plan has on its host."""
    known = status.model_states()
    if status.status is None:
        return known
    names = {(group, model["name"]) for group, model in known}
    planned = [(i.group, model.name) for i in plan.instances if i.host == status.host for model in i.models]
    return known + [
        (group, {"name": name, "phase": "unknown", "reason": "not known to the agent"})
        for group, name in planned
        if (group, name) not in names
    ]


def all_ready(plan: Plan, statuses: list[HostStatus]) -> bool:
    """Whether every planned model of these hosts is ready; an agent that knows of none does not make it so."""
    return all(
        status.error is None and all(model["phase"] == "ready" for _, model in model_states(plan, status))
        for status in statuses
    )


def as_json(plan: Plan, seen: Look, well: bool, wrong: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """`wrong` are the doctor's findings, as it writes them; `well` is the exit status in a word."""
    statuses = seen.hosts
    return {
        "schema": 1,
        "site": plan.site,
        "well": well,
        "findings": list(wrong),
        "ready": all_ready(plan, statuses),
        "hosts": [
            {
                **vars(status),
                "not_known": [
                    {"group": group, "model": model["name"]}
                    for group, model in model_states(plan, status)
                    if model["phase"] == "unknown"
                ],
            }
            for status in statuses
        ],
        "gateways": gateway.as_json(plan, seen.gateways),
        "chat": chat_status.as_json(plan, seen.chat, seen.gateways),
    }


def view(plan: Plan, statuses: list[HostStatus]) -> Table:
    """Every model on every instance."""
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for column in ("host", "group", "model", "state", "VRAM"):
        table.add_column(column, overflow="fold")
    for status in statuses:
        if status.error:
            table.add_row(status.host, "", "", f"[bold red]{escape(status.error)}[/]", "")
        for severity, what in status.findings():
            color = "bold red" if severity == "error" else "yellow"
            table.add_row(status.host, "", "", f"[{color}]{escape(what)}[/]", "")
        for group, model in model_states(plan, status):
            vram = model.get("size_vram") or 0
            table.add_row(status.host, group, model["name"], _state(model), f"{vram / 2**30:.1f} GiB" if vram else "")
    return table


def show(plan: Plan, seen: Look, console: Console, verdict: RenderableType = "") -> None:
    """Print all tables, and `verdict`: what is wrong."""
    console.print(_whole(plan, seen, verdict))


def _whole(plan: Plan, seen: Look, verdict: RenderableType) -> Group:
    parts: list[RenderableType] = [view(plan, seen.hosts), "", gateway.view(plan, seen.gateways)]
    if seen.chat is not None:
        parts += ["", chat_status.view(plan, seen.chat, seen.gateways)]
    return Group(*parts, *(("", verdict) if verdict else ()))


def watch(
    plan: Plan,
    console: Console,
    read: Callable[[], tuple[Look, RenderableType, bool]],
    pause: Callable[[float], None] = time.sleep,
) -> bool:
    """Show what `read` says again and again until Ctrl-C, and return whether all was well at last.

    `read` returns a look, what is wrong, and whether the site is well.
    """
    well = False
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live, suppress(KeyboardInterrupt):
        while True:
            seen, verdict, well = read()
            when = Text(f"{plan.site} at {datetime.now():%H:%M:%S}; Ctrl-C ends this", style="dim")
            live.update(Group(_whole(plan, seen, verdict), when), refresh=True)
            pause(WATCH_S)
    return well


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
    """`host/group model: phase: reason` or `host: reason` of everything that was not ready when the wait ended."""


@dataclass(frozen=True)
class _Point:
    """One line of the wait: a model, or a host that does not answer."""

    label: str
    phase: str
    text: str
    """The phase with its reason."""
    completed: int = 0
    total: int = 1

    @property
    def faulty(self) -> bool:
        return self.phase in ("fault", "silent", "unknown")


def _points(plan: Plan, statuses: list[HostStatus]) -> list[_Point]:
    points = []
    for status in statuses:
        if status.error:
            points.append(_Point(status.host, "silent", status.error))
        for group, model in model_states(plan, status):
            phase, reason, total = model["phase"], model.get("reason"), model.get("total") or 1
            text = f"{phase}: {reason}" if reason else phase
            done = total if phase in ("loading", "ready") else model.get("completed") or 0
            points.append(_Point(f"{status.host}/{group} {model['name']}", phase, text, done, total))
    return points


class _Bars:
    """A bar for each point; without a terminal a line for each change of phase says the same."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._told: dict[str, str] = {}

    def show(self, points: list[_Point]) -> None:
        for gone in self._tasks.keys() - {point.label for point in points}:
            self.progress.remove_task(self._tasks.pop(gone))
        for point in points:
            if point.label not in self._tasks:
                self._tasks[point.label] = self.progress.add_task(point.label, text="")
            text = point.text if len(point.text) <= SHOWN_REASON else point.text[: SHOWN_REASON - 1] + "…"
            self.progress.update(self._tasks[point.label], completed=point.completed, total=point.total, text=text)
            if not self._console.is_terminal and self._told.get(point.label) != point.phase:
                self._told[point.label] = point.phase
                self._console.print(f"{point.label}: {point.text}", highlight=False, markup=False, soft_wrap=True)


class _Faults:
    """Since when each point has been faulty. Loading once more is no progress: the agent tries that every minute."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def stuck(self, points: list[_Point], now: float) -> bool:
        """Whether everything that is not ready has been faulty for `STUCK_S`."""
        mended = {point.label for point in points if point.phase in ("ready", "downloading")}
        labels = {point.label for point in points} - mended
        self._since = {label: since for label, since in self._since.items() if label in labels}
        for point in points:
            if point.faulty:
                self._since.setdefault(point.label, now)
        waiting = [point for point in points if point.phase != "ready"]
        return all(point.faulty and now - self._since[point.label] >= STUCK_S for point in waiting)


def wait_until_ready(
    plan: Plan,
    console: Console,
    timeout_s: float,
    read_statuses: Callable[[Plan], list[HostStatus]] = read_all,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
    settle_s: float = SETTLE_S,
) -> WaitResult:
    """Show a bar for each model until all are ready, only lasting faults are left, or `timeout_s` is over.

    Ready means for `settle_s` without a break: 0 where nothing was restarted. Downloads go on in any case.
    """
    start = clock()
    ready_since: float | None = None
    bars, faults = _Bars(console), _Faults()
    with bars.progress:
        while True:
            statuses = read_statuses(plan)
            points = _points(plan, statuses)
            bars.show(points)
            now = clock()
            if all_ready(plan, statuses):
                ready_since = now if ready_since is None else ready_since
                if now - ready_since >= settle_s:
                    return WaitResult(True, now - start, ())
            else:
                ready_since = None
                if now - start > timeout_s or faults.stuck(points, now):
                    return WaitResult(False, now - start, tuple(_open_points(points)))
            pause(POLL_S)


def _open_points(points: list[_Point]) -> list[str]:
    return [f"{point.label}: {point.text}" for point in points if point.phase != "ready"]
