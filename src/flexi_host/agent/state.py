"""How instances and models are, as plain data, and the board on which the newest state is pinned."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum


class Phase(Enum):
    STARTING = "starting"
    DOWNLOADING = "downloading"
    LOADING = "loading"
    READY = "ready"
    FAULT = "fault"


@dataclass(frozen=True)
class ModelView:
    """A model on an instance. `reason` of a ready model is a note: it serves, but not quite as planned."""

    name: str
    phase: Phase
    reason: str | None = None
    completed: int | None = None
    """Bytes that are here; None, as `total`, where nothing is being downloaded."""
    total: int | None = None
    size: int | None = None
    """Bytes in memory, None where the model is not loaded; so are the next three."""
    size_vram: int | None = None
    context_length: int | None = None
    expires_at: str | None = None
    since: float = 0.0
    """Unix time at which the phase began."""


@dataclass(frozen=True)
class InstanceView:
    """An instance: whether it answers and has its GPUs. Its models have phases of their own."""

    group: str
    url: str
    phase: Phase
    reason: str | None
    gpus: tuple[str, ...]
    models: tuple[ModelView, ...]
    surplus: tuple[str, ...] = ()
    """Models in its store that the site does not want there."""
    since: float = 0.0


class Board:
    """The newest view of each instance. Threads write it, the check server and the state files read it."""

    def __init__(
        self,
        log: Callable[[str], None],
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._wall = wall
        self._clock = clock
        self._changed = threading.Condition()
        self._views: dict[str, InstanceView] = {}
        self._seen: dict[str, float] = {}
        self._version = 0

    def put(self, view: InstanceView) -> None:
        """Pin `view`; what changed its phase or reason since the last one is logged, one line each."""
        with self._changed:
            before = self._views.get(view.group)
            view = self._dated(before, view)
            self._seen[view.group] = self._clock()
            if view == before:
                return
            self._views[view.group] = view
            self._version += 1
            self._changed.notify_all()
            for line in changes(before, view):
                self._log(line)

    def views(self) -> tuple[InstanceView, ...]:
        """All views in the order of their groups' names."""
        with self._changed:
            return tuple(view for _, view in sorted(self._views.items()))

    def view(self, group: str) -> InstanceView | None:
        with self._changed:
            return self._views.get(group)

    def age_s(self, group: str) -> float:
        """Seconds since somebody last looked at the instance; infinite where nobody has."""
        with self._changed:
            return self._clock() - self._seen.get(group, float("-inf"))

    def wait(self, version: int, timeout_s: float) -> int:
        """Block until something changed after `version`, or for `timeout_s`; returns the present version."""
        with self._changed:
            self._changed.wait_for(lambda: self._version != version, timeout_s)
            return self._version

    def _dated(self, before: InstanceView | None, view: InstanceView) -> InstanceView:
        now = self._wall()
        known = {model.name: model for model in before.models} if before else {}
        models = []
        for model in view.models:
            old = known.get(model.name)
            models.append(replace(model, since=old.since if old and old.phase is model.phase else now))
        since = before.since if before and before.phase is view.phase else now
        return replace(view, since=since, models=tuple(models))


def changes(before: InstanceView | None, after: InstanceView) -> list[str]:
    """A line for the log for each change of phase or reason. A fault of the whole instance is said once."""
    lines = []
    if before is None or (before.phase, before.reason) != (after.phase, after.reason):
        lines.append(_line(after.group, before.phase if before else None, after.phase, after.reason))
    known = {model.name: model for model in before.models} if before else {}
    for model in after.models:
        old = known.get(model.name)
        if old and (old.phase, old.reason) == (model.phase, model.reason):
            continue
        if model.reason is not None and model.reason == after.reason:
            continue
        lines.append(_line(f"{after.group} {model.name}", old.phase if old else None, model.phase, model.reason))
    return lines


def _line(what: str, before: Phase | None, after: Phase, reason: str | None) -> str:
    change = after.value if before in (None, after) else f"{before.value} -> {after.value}" if before else after.value
    return f"{what}: {change}" + (f" ({reason})" if reason else "")
