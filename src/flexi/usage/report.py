"""Who used what: the ledger's hourly sums of every gateway of the site, for `flexi usage`."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from flexi.errors import FlexiError, InputError
from flexi.plan.model.site import HostPlan, Plan
from flexi.ssh import remote
from flexi_host.ledger.sums import FIGURES

BY = ("consumer", "model", "class", "day")
_SPAN = re.compile(r"(\d{1,4})([hdw])")
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}
NOBODY = "-"


@dataclass(frozen=True)
class Usage:
    """Sums since `since`, one row for each combination of `by`, the most requests first.

    A row has the keys of `by` (None where nobody was named) and the ledger's figures; times are milliseconds.
    """

    since: datetime
    by: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]


def moment(text: str, now: datetime) -> datetime:
    """`7d`, `12h`, `4w` before `now`, or a date (UTC). The hour counts whole. InputError for anything else."""
    span = _SPAN.fullmatch(text)
    if span:
        return now - timedelta(**{_UNITS[span.group(2)]: int(span.group(1))})
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise InputError(f"--since {text}: write how long ago, like 7d or 12h, or a date like 2026-11-01") from None


def read(plan: Plan, since: datetime, by: Sequence[str]) -> Usage:
    """Ask the ledger of each gateway. FlexiError where one does not answer: half a sum would pass for a whole one."""
    gateways = [host for host in plan.hosts if "gateway" in host.roles]
    query = f"since={max(0, int(since.timestamp()))}&by={','.join(by)}"
    answers = remote.for_each(gateways, lambda host: ask(plan, host, f"/usage?{query}"))
    return Usage(since, tuple(by), tuple(_added(by, [row for answer in answers.values() for row in answer["rows"]])))


def ask(plan: Plan, host: HostPlan, target: str) -> Any:
    """What the ledger on `host` answers to GET `target`; FlexiError where it does not."""
    url = f"http://127.0.0.1:{plan.gateway.ledger.port}{target}"
    answer = remote.run(host, f"curl -fsS --noproxy '*' -m 20 {shlex.quote(url)}")
    if not answer.reached:
        raise FlexiError(f"{host.name} {answer.unreachable}")
    if answer.status != 0:
        raise FlexiError(f"the ledger on {host.name} does not answer (systemctl status flexi-ledger): {answer.stderr}")
    try:
        return json.loads(answer.stdout)
    except ValueError as error:
        raise FlexiError(f"the ledger on {host.name} answers what is no JSON: {error}") from error


def _added(by: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    sums: dict[tuple[Any, ...], dict[str, int]] = defaultdict(lambda: dict.fromkeys(FIGURES, 0))
    for row in rows:
        figures = sums[tuple(row[name] for name in by)]
        for name in FIGURES:
            figures[name] += row[name]
    found = [dict(zip(by, key, strict=True)) | figures for key, figures in sums.items()]
    return sorted(found, key=lambda row: (-row["requests"], [str(row[name] or "") for name in by]))


def as_json(usage: Usage, site: str) -> dict[str, object]:
    return {
        "schema": 1,
        "site": site,
        "since": usage.since.isoformat(timespec="seconds"),
        "by": list(usage.by),
        "rows": [_readable(row) for row in usage.rows],
    }


def write_csv(usage: Usage, file: TextIO) -> None:
    """One line for each row after a line of names."""
    writer = csv.DictWriter(file, [*usage.by, *FIGURES], lineterminator="\n")
    writer.writeheader()
    writer.writerows(_readable(row) for row in usage.rows)


def show(usage: Usage, console: Console) -> None:
    if not usage.rows:
        console.print(f"nobody has asked for anything since {usage.since:%Y-%m-%d %H:%M} UTC")
        return
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for name in usage.by:
        table.add_column(name, no_wrap=True)
    for name in ("requests", "refused", "failed", "tokens in", "out", "wait", "first", "whole"):
        table.add_column(name, justify="right")
    for row in usage.rows:
        keys = [str(_readable(row)[name] or NOBODY) for name in usage.by]
        counts = [f"{row[name]:,}" for name in ("requests", "refused", "failed", "prompt_tokens", "answer_tokens")]
        means = [mean(row, name) for name in ("queue_ms", "first_byte_ms", "total_ms")]
        table.add_row(*keys, *counts, *means)
    console.print(table)
    console.print(f"since {usage.since:%Y-%m-%d %H:%M} UTC; times are means", style="dim")


def mean(row: dict[str, Any], name: str) -> str:
    """The mean of a time over the requests that reached an instance, for people."""
    if not row["timed"]:
        return NOBODY
    milliseconds = row[name] / row["timed"]
    return f"{milliseconds / 1000:.1f} s" if milliseconds >= 1000 else f"{milliseconds:.0f} ms"


def _readable(row: dict[str, Any]) -> dict[str, Any]:
    """A day as a date."""
    if row.get("day") is None:
        return row
    return row | {"day": datetime.fromtimestamp(row["day"], UTC).date().isoformat()}
