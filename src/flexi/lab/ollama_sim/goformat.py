"""Go's and Ollama's ways to write durations, times, sizes and numbers.

Sources: Go's time.ParseDuration; Ollama's format/bytes.go, format/format.go, format/time.go.
All durations here are integer nanoseconds, as in Go.
"""

from __future__ import annotations

import json
import re
import time
from datetime import datetime, timedelta, timezone
from typing import Any

NANOSECOND = 1
SECOND = 1_000_000_000
MINUTE = 60 * SECOND
FOREVER = 2**63 - 1
"""Go's largest duration, about 292 years: how Ollama writes an infinite keep-alive."""

_UNITS = {"ns": 1, "us": 1000, "µs": 1000, "μs": 1000, "ms": 10**6, "s": SECOND, "m": MINUTE, "h": 60 * MINUTE}
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)  # noqa: UP017  (Python 3.10 hosts)
_PART = re.compile(r"([0-9]*\.?[0-9]*)([^0-9.]*)")


def parse_duration(text: str) -> int:
    """Nanoseconds of a Go duration such as "5m" or "1h30m"; ValueError with Go's own words."""
    quoted = json.dumps(text, ensure_ascii=False)
    rest = text
    negative = False
    if rest[:1] in ("-", "+"):
        negative = rest[0] == "-"
        rest = rest[1:]
    if rest == "0":
        return 0
    if not rest:
        raise ValueError(f"time: invalid duration {quoted}")
    total = 0
    while rest:
        match = _PART.match(rest)
        if match is None or match.group(1) in ("", "."):
            raise ValueError(f"time: invalid duration {quoted}")
        number, unit = match.groups()
        if not unit:
            raise ValueError(f"time: missing unit in duration {quoted}")
        if unit not in _UNITS:
            raise ValueError(f"time: unknown unit {json.dumps(unit, ensure_ascii=False)} in duration {quoted}")
        whole, _, fraction = number.partition(".")
        total += int(whole or "0") * _UNITS[unit]
        if fraction:
            total += int(fraction) * _UNITS[unit] // 10 ** len(fraction)
        rest = rest[match.end() :]
    if total > FOREVER:
        raise ValueError(f"time: invalid duration {quoted}")
    return -total if negative else total


def format_duration(duration: int) -> str:
    """As Go's Duration.String for whole milliseconds and more: "5m0s", "1h0m0s", "500ms"."""
    if duration == 0:
        return "0s"
    sign = "-" if duration < 0 else ""
    duration = abs(duration)
    if duration < SECOND:
        return f"{sign}{duration / 10**6:g}ms"
    hours, rest = divmod(duration, 60 * MINUTE)
    minutes, rest = divmod(rest, MINUTE)
    seconds, fraction = divmod(rest, SECOND)
    text = f"{seconds}" + (f".{fraction:09d}".rstrip("0") if fraction else "") + "s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    if hours:
        text = f"{hours}h{text}"
    return sign + text


def now_ns() -> int:
    """Nanoseconds since the epoch."""
    return time.time_ns()


def rfc3339(ns: int, utc: bool = False) -> str:
    """Go's RFC 3339 with nanoseconds, trailing zeros cut; local time with its offset unless `utc`."""
    seconds, fraction = divmod(ns, SECOND)
    moment = _EPOCH + timedelta(seconds=seconds)
    if not utc:
        # The offset of today: the platform may not know zones for the year 2318.
        offset = timedelta(seconds=time.localtime().tm_gmtoff)
        moment = moment.astimezone(timezone(offset))
    text = moment.strftime("%Y-%m-%dT%H:%M:%S")
    if fraction:
        text += f".{fraction:09d}".rstrip("0")
    offset_text = moment.strftime("%z")
    return text + ("Z" if offset_text == "+0000" else f"{offset_text[:3]}:{offset_text[3:5]}")


def parse_rfc3339(text: str) -> int:
    """Nanoseconds since the epoch of what `rfc3339` writes; ValueError for other texts."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)", text)
    if match is None:
        raise ValueError(f"not an RFC 3339 time: {text!r}")
    base, fraction, zone = match.groups()
    moment = datetime.fromisoformat(base + ("+00:00" if zone == "Z" else zone))
    seconds = (moment - _EPOCH) // timedelta(seconds=1)
    return seconds * SECOND + int((fraction or "").ljust(9, "0")[:9])


def human_bytes(count: int) -> str:
    """Decimal units, as in `ollama list`: "4.7 GB"."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if count >= size:
            value = count / size
            if value >= 10 or value == int(value):
                return f"{int(value)} {unit}"
            return f"{value:.1f} {unit}"
    return f"{count} B"


def human_bytes2(count: int) -> str:
    """Binary units, as in log lines: "24.0 GiB"."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def human_number(count: int) -> str:
    """Parameter counts: "8.0B", "137M"."""
    if count >= 10**9:
        return f"{count // 10**9}B" if count % 10**9 == 0 else f"{count / 10**9:.1f}B"
    if count >= 10**6:
        return f"{count // 10**6}M" if count % 10**6 == 0 else f"{count / 10**6:.2f}M"
    if count >= 10**3:
        return f"{count / 10**3:.0f}K"
    return str(count)


def human_time(ns: int, now: int) -> str:
    """ "3 minutes ago", "4 minutes from now", "Forever" (more than 20 years ahead)."""
    delta = now - ns
    if delta < -20 * 365 * 24 * 60 * MINUTE:
        return "Forever"
    words = _human_duration(abs(delta))
    return f"{words} from now" if delta < 0 else f"{words} ago"


def _human_duration(duration: int) -> str:
    seconds = duration // SECOND
    minutes = seconds // 60
    hours = round(seconds / 3600)
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return "1 second" if seconds == 1 else f"{seconds} seconds"
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    for limit, unit, size in ((24 * 14, "days", 24), (24 * 60, "weeks", 24 * 7), (24 * 730, "months", 24 * 30)):
        if hours < limit:
            return f"{hours // size} {unit}"
    return f"{hours // 24 // 365} years"


def go_json(value: Any) -> str:
    """Compact JSON as Go's encoding/json writes it: UTF-8, with &, < and > escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
