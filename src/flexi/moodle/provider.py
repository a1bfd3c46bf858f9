"""`provider.php` beside this file: what it is told, how it is run, and what it reports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexi.plan.model.moodle import MoodlePlan

PROGRAM = Path(__file__).with_suffix(".php").read_text(encoding="utf-8")
_END = "FLEXI_MOODLE_PROVIDER"
"""Of the program on standard input; no line of it is this."""


@dataclass(frozen=True)
class Report:
    """What the program found and did. `changes` is what it did, or would do; `key_sha256` None means no key yet."""

    moodle: str | None
    changes: tuple[str, ...]
    key_sha256: str | None
    problems: tuple[str, ...]


def wish(plan: MoodlePlan, *, apply: bool, new_key: bool = False) -> dict[str, Any]:
    """What the program is told. It holds no secret: the key is made where it is used."""
    assert plan.host is not None
    return {
        "config": plan.host.config,
        "name": plan.name,
        "provider": plan.provider,
        "url": plan.gateway_url,
        "consumer": plan.consumer,
        "actions": {a.name: {"model": a.model, "instruction": a.instruction} for a in plan.actions},
        "named": [action.name for action in plan.actions] if plan.actions_named else [],
        "per_user_hour": plan.per_user_hour,
        "per_hour": plan.per_hour,
        "apply": apply,
        "new_key": new_key,
    }


def script(plan: MoodlePlan, *, apply: bool, new_key: bool = False) -> str:
    """A shell script that runs the program; nothing of it stays on the machine."""
    assert plan.host is not None
    told = json.dumps(wish(plan, apply=apply, new_key=new_key)).replace("'", "\\u0027")
    # Warnings of Moodle's plugins belong to standard error; the report is the last line of the other one.
    return f"{plan.host.php} -d display_errors=stderr -- '{told}' <<'{_END}'\n{PROGRAM}\n{_END}\n"


def read(lines: Sequence[str]) -> Report:
    """The report among the program's lines. Where there is none, that is a problem."""
    for line in reversed(lines):
        if line.startswith('{"schema":1,'):
            found = json.loads(line)
            return Report(found["moodle"], tuple(found["changes"]), found["key_sha256"], tuple(found["problems"]))
    said = next((line.strip() for line in reversed(lines) if line.strip()), "PHP printed nothing")
    return Report(None, (), None, (f"Moodle's PHP did not come to its end: {said}",))
