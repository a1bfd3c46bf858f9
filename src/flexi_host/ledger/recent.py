"""Who has been using what in the last minutes, for `flexi status`."""

from __future__ import annotations

from collections import defaultdict, deque

from flexi_host.ledger.records import Request
from flexi_host.ledger.sums import FIGURES, Sums

STEP_S = 10
WINDOW_S = 300

_Key = tuple[str | None, str | None, str | None]


class Recent:
    """Sums of the last `WINDOW_S` seconds by consumer, class and model, in steps of `STEP_S`."""

    def __init__(self) -> None:
        self._steps: deque[tuple[int, dict[_Key, Sums]]] = deque(maxlen=WINDOW_S // STEP_S)

    def add(self, request: Request, now: float) -> None:
        step = int(now) // STEP_S
        if not self._steps or self._steps[-1][0] != step:
            self._steps.append((step, defaultdict(Sums)))
        self._steps[-1][1][request.consumer, request.class_, request.model].add(request)

    def rows(self, now: float) -> list[dict[str, object]]:
        """One for each combination, the most requests first."""
        merged: dict[_Key, Sums] = defaultdict(Sums)
        for step, sums in self._steps:
            if step > (now - WINDOW_S) // STEP_S:
                for key, part in sums.items():
                    merged[key].merge(part)
        ordered = sorted(merged.items(), key=lambda item: (-item[1].requests, [word or "" for word in item[0]]))
        return [
            {
                **dict(zip(("consumer", "class", "model"), key, strict=True)),
                **dict(zip(FIGURES, sums.row(), strict=True)),
            }
            for key, sums in ordered
        ]
