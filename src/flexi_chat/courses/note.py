"""Which course bots are ready, noted by whoever makes them so: `flexi status` reads it and asks the chat nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from flexi_chat.courses.wanted import Json, Step

NAME = "flexi-courses.json"


@dataclass
class Readiness:
    """Of one course."""

    bot: bool
    """Whether users have it."""
    files: int
    """Those that are not indexed yet as they should be."""


def of(wanted: Json, found: Json, steps: list[Step]) -> dict[str, Readiness]:
    """`steps` lead from `found` to `wanted` (courses_wanted.py)."""
    ready = {}
    for name in wanted["courses"]:
        bot = found["courses"].get(name, {}).get("bot") is not None
        ready[name] = Readiness(bot, sum(step.course == name and step.indexes for step in steps))
    return ready


def write(folder: Path, ready: Mapping[str, Readiness]) -> None:
    """`at` is Unix time."""
    text = json.dumps({"at": int(time.time()), "courses": {name: asdict(one) for name, one in ready.items()}})
    new = folder / f"{NAME}.new"
    new.write_text(text, encoding="utf-8")
    new.replace(folder / NAME)
