"""The drain switches of the groups, and whether the gateway has heard what stands on them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MAX_REASON_CHARS = 120
ASKED_S = 10.0
"""A check that nobody has asked for so long is no longer asked: HAProxy asks each 2 s (templates/gateway)."""

Check = tuple[str, str]
"""(group, model) as it was asked; the model is empty for an instance as a whole."""


@dataclass(frozen=True)
class Drain:
    """How a group stands with the gateways."""

    reason: str | None
    """The first line of its switch; None where it is not drained."""
    told: bool
    """Everyone who asked in the last `ASKED_S` was last told what is true now."""


def drain_reason(switch: Path) -> str | None:
    """The first line of the drain switch, a sentence of ours where it is empty, None where there is none."""
    try:
        with switch.open(encoding="utf-8", errors="replace") as file:
            return file.readline(MAX_REASON_CHARS).strip() or "drained by an administrator"
    except FileNotFoundError:
        return None
    except OSError:
        # It is there, though it cannot be read: somebody wants no new requests here.
        return "drained by an administrator"


class Ledger:
    """Who was told what last. HAProxy keeps each word until the opposite one comes, so the last answer is its truth."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._began = clock()
        self._last: dict[tuple[str, Check], tuple[float, str]] = {}

    def note(self, asker: str, check: Check, words: str) -> None:
        """`asker` (an address) has got `words` (`up ready`, without the reason) as the answer to `check`."""
        now = self._clock()
        with self._lock:
            self._last[asker, check] = (now, words)
            self._last = {key: entry for key, entry in self._last.items() if now - entry[0] <= ASKED_S}

    def told(self, group: str, words_now: Callable[[Check], str]) -> bool:
        """Whether each check of `group` that is being asked was last answered with what `words_now` says.

        An agent that has just begun does not know who asks: it says no until everyone had time to.
        """
        now = self._clock()
        with self._lock:
            asked = [(check, words) for (_, check), (at, words) in self._last.items() if now - at <= ASKED_S]
        if now - self._began < ASKED_S:
            return False
        return all(words == words_now(check) for check, words in asked if check[0] == group)

    def heard(self) -> frozenset[Check]:
        """Checks that somebody has been answered in the last `ASKED_S`."""
        now = self._clock()
        with self._lock:
            return frozenset(check for (_, check), (at, _) in self._last.items() if now - at <= ASKED_S)
