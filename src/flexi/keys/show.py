"""Consumers for people and for programs. No digest of a key is shown: nobody needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flexi.keys.gateways import Told
from flexi.keys.times import until
from flexi.plan.model.gateway import ClassPlan
from flexi.site.keys import ConsumerEntry, seconds


def as_json(entry: ConsumerEntry, now: datetime) -> dict[str, object]:
    return {
        **entry.model_dump(mode="json", by_alias=True, exclude={"sha256", "previous"}),
        "ended": entry.expires is not None and seconds(entry.expires) <= now.timestamp(),
        "previous_expires": entry.previous.expires if entry.previous else None,
    }


def told_as_json(told: Sequence[Told]) -> list[dict[str, object]]:
    return [dict(vars(one)) for one in told]


def table(entries: Sequence[ConsumerEntry], now: datetime, console: Console) -> None:
    if not entries:
        console.print("no consumers yet: ./flexi keys add SITE NAME", highlight=False)
        return
    shown = Table(box=None, padding=(0, 1), header_style="bold")
    for column in ("consumer", "class", "owner", "purpose", "key made", "good until"):
        shown.add_column(column, overflow="fold")
    for entry in entries:
        shown.add_row(
            entry.name,
            entry.class_name,
            escape(entry.owner or ""),
            escape(entry.purpose or ""),
            (entry.created or "")[:10],
            _end(entry, now),
        )
    console.print(shown)


def one(entry: ConsumerEntry, rules: ClassPlan, now: datetime, console: Console) -> None:
    """A consumer, and what its class lets it do."""
    lines: Mapping[str, str | None] = {
        "consumer": entry.name,
        "owner": entry.owner,
        "purpose": entry.purpose,
        "key made": (entry.created or "")[:10],
        "good until": _end(entry, now) or "revoked",
        "key before": f"good until {until(entry.previous.expires, now)}" if entry.previous else None,
        "class": entry.class_name,
        **{f"  {name}": value for name, value in limits(rules).items()},
    }
    shown = Table.grid(padding=(0, 2))
    for name, value in lines.items():
        if value:
            shown.add_row(name, value if name == "good until" else escape(value))
    console.print(shown)


def limits(rules: ClassPlan) -> dict[str, str]:
    """What a class may do, in words."""
    return {
        "models": "all" if rules.models is None else ", ".join(rules.models),
        **{name.replace("_", " "): str(value) for name, value in rules.limits},
        "priority": rules.priority,
        "networks": ", ".join(rules.networks) or "all",
        "options": rules.options if isinstance(rules.options, str) else ", ".join(rules.options),
    }


def _end(entry: ConsumerEntry, now: datetime) -> str:
    if entry.expires is None:
        return ""
    text = until(entry.expires, now)
    return f"[bold red]{text}[/]" if text.endswith("(ended)") else text
