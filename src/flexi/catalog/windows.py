"""When hosts may be rebooted without being asked: `Sun 02:00-05:00`. Pure: the caller brings the clock."""

from __future__ import annotations

import re

from flexi.catalog.frozen import Frozen as _Frozen


class Window(_Frozen):
    """A weekly time in which hosts may be rebooted. Days are ISO weekdays (1 is Monday), times minutes of the host's
    own clock; one that ends before it starts goes on after midnight."""

    text: str
    """As the site file says it."""
    days: tuple[int, ...]
    start_minute: int
    end_minute: int


DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
DAY_MINUTES = 24 * 60

_TIME = r"([01]\d|2[0-3]):([0-5]\d)"
_WINDOW = re.compile(rf"(\S+) {_TIME}-{_TIME}")


def parse(text: str) -> Window:
    """A window from `daily`, `Sun`, `Sat,Sun` or `Mon-Fri`, and two times of day. ValueError where it is none.

    One that ends before it starts goes on after midnight; the days are those on which it starts.
    """
    match = _WINDOW.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no window")
    days, *times = match.groups()
    start, end = (60 * int(times[at]) + int(times[at + 1]) for at in (0, 2))
    if start == end:
        raise ValueError("a window that ends when it starts is never open")
    return Window(text=text, days=_days(days), start_minute=start, end_minute=end)


def _days(text: str) -> tuple[int, ...]:
    if text == "daily":
        return tuple(range(1, 8))
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            raise ValueError(f"{part!r} is no day")
        at, end = DAYS.index(first), DAYS.index(last or first)
        while True:
            found.add(at + 1)
            if at == end:
                break
            at = (at + 1) % 7
    return tuple(sorted(found))


def contains(window: Window, weekday: int, minute: int) -> bool:
    """Whether `minute` after midnight of ISO `weekday` lies in the window."""
    if window.start_minute < window.end_minute:
        return weekday in window.days and window.start_minute <= minute < window.end_minute
    yesterday = (weekday - 2) % 7 + 1
    return (weekday in window.days and minute >= window.start_minute) or (
        yesterday in window.days and minute < window.end_minute
    )
