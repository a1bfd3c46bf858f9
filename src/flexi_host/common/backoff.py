"""When something may be tried again: at once the first time, then after pauses that double up to a cap."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Backoff:
    """Times are seconds of one monotonic clock, given by the caller.

    A success that has to be repeated within `calm_s` counts like a failure: two models that push each other out of
    the VRAM must not do so all day, while one unload by hand heals at once.
    """

    base_s: float
    cap_s: float
    calm_s: float = 60.0
    attempts: int = 0
    not_before: float = 0.0
    last: float = float("-inf")

    def failed(self, now: float) -> None:
        self.last = now
        self.not_before = now + self._pause(self.attempts)
        self.attempts += 1

    def succeeded(self, now: float) -> None:
        if now - self.last > self.calm_s:
            self.attempts = 0
        self.last = now
        self.not_before = now if self.attempts == 0 else now + self._pause(self.attempts - 1)
        self.attempts += 1

    def reset(self) -> None:
        self.attempts, self.not_before, self.last = 0, 0.0, float("-inf")

    def _pause(self, attempts: int) -> float:
        return min(self.cap_s, self.base_s * 2.0 ** min(attempts, 30))
