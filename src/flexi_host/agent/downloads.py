"""Which group of a host downloads a model that several of them have. The others wait, and then link it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from enum import Enum

from flexi_host.agent.config import InstanceConfig
from flexi_host.common.names import full_name


class _Instance(Enum):
    UNKNOWN = "unknown"
    HERE = "here"
    AWAY = "away"


class Downloads:
    """What the keepers of one host know of each other. The first group in the order of the site file downloads; one
    whose instance is away is passed over, so that a broken card holds up its own group only."""

    def __init__(self, instances: Sequence[InstanceConfig]) -> None:
        self._lock = threading.Lock()
        self._planned = {i.group: frozenset(full_name(model.name) for model in i.models) for i in instances}
        self._state = dict.fromkeys(self._planned, _Instance.UNKNOWN)
        self._stored: dict[str, frozenset[str]] = dict.fromkeys(self._planned, frozenset())
        self._running: dict[str, str] = {}
        """Model -> the group that downloads it now."""

    def saw(self, group: str, here: bool, stored: frozenset[str] | None) -> None:
        """The instance of `group` was looked at: whether it answers, and what its store has (None: unknown)."""
        with self._lock:
            self._state[group] = _Instance.HERE if here else _Instance.AWAY
            if stored is not None:
                self._stored[group] = stored

    def waits_for(self, group: str, model: str) -> str | None:
        """The group whose download of `model` this one waits for; None where it can be linked or is its own turn."""
        with self._lock:
            return self._waits_for(group, full_name(model))

    def begin(self, group: str, model: str) -> bool:
        """Take the download of `model`; False where another group has it. Ended by `end`."""
        with self._lock:
            if self._waits_for(group, full_name(model)) is not None:
                return False
            self._running[full_name(model)] = group
            return True

    def end(self, group: str, model: str) -> None:
        with self._lock:
            if self._running.get(full_name(model)) == group:
                del self._running[full_name(model)]

    def _waits_for(self, group: str, model: str) -> str | None:
        running = self._running.get(model)
        if running is not None:
            return running if running != group else None
        for other, planned in self._planned.items():
            if other == group:
                return None
            if model in planned and self._state[other] is not _Instance.AWAY:
                return None if model in self._stored[other] else other
        return None
