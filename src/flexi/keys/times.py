"""Days and spans of time as they are typed: `2027-03-31`, `90d`, `12h`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import click

_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_LONGEST = timedelta(days=100 * 365)


def span(text: str) -> timedelta | None:
    """`90d` and the like; None where `text` is none, or longer than a century."""
    found = re.fullmatch(r"([1-9]\d{0,6})([mhdw])", text, re.ASCII)
    if found is None:
        return None
    length = int(found[1]) * _UNITS[found[2]]
    return length if length <= _LONGEST else None


class Span(click.ParamType[timedelta]):
    name = "SPAN"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        found = value if isinstance(value, timedelta) else span(str(value))
        if found is None:
            self.fail(f"{value!r} is no span of time: write e.g. 7d, 12h, 30m or 2w", param, ctx)
        return found


class End(click.ParamType[datetime]):
    """The last day (UTC) on which something is good, or how long from now."""

    name = "DAY|SPAN"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        length = span(str(value))
        if length is not None:
            return datetime.now(UTC).replace(microsecond=0) + length
        day = _day(str(value))
        if day is None:
            self.fail(f"{value!r} is no day and no span of time: write e.g. 2027-03-31 or 180d", param, ctx)
        return day + timedelta(days=1)


def _day(text: str) -> datetime | None:
    """The beginning of a day in UTC; years up to 2999 leave room to calculate."""
    if not re.fullmatch(r"2\d{3}-\d\d-\d\d", text, re.ASCII):
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        return None


def until(instant: str, now: datetime) -> str:
    """An end as people read it: the last day, and how far away that is."""
    end = datetime.fromisoformat(instant).astimezone(UTC)
    last = (end - timedelta(seconds=1)).date().isoformat()
    if end <= now:
        return f"{last} (ended)"
    days = (end - now).days
    return f"{last} (in {days} days)" if days > 1 else f"{end:%Y-%m-%d %H:%M} UTC"
