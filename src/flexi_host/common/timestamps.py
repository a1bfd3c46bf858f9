"""Time stamps as Go writes them: RFC 3339 with up to nine decimals."""

from __future__ import annotations

import math
import re
from datetime import datetime

_STAMP = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d+))?(?:([Zz])|([+-]\d\d:\d\d))\Z")

FOR_EVER_YEAR = 2100
"""Ollama writes "for ever" as about 292 years from now; anything before this year is a real end."""


def parse_time(text: object) -> datetime | None:
    """`text` as an aware datetime, cut to microseconds; None where it is no time stamp."""
    match = _STAMP.match(text) if isinstance(text, str) else None
    if not match:
        return None
    day, clock, fraction, _, offset = match.groups()
    try:
        return datetime.fromisoformat(f"{day}T{clock}.{(fraction or '0')[:6].ljust(6, '0')}{offset or '+00:00'}")
    except ValueError:
        return None


def unix_seconds(text: object) -> int:
    """Whole seconds since 1970, 0 where `text` is no time stamp."""
    parsed = parse_time(text)
    return 0 if parsed is None else math.floor(parsed.timestamp())


def is_for_ever(text: object) -> bool:
    """Whether a model that expires at `text` is kept for ever. What cannot be read is left alone: True."""
    parsed = parse_time(text)
    return parsed is None or parsed.year > FOR_EVER_YEAR
