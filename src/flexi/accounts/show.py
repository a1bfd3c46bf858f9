"""Accounts and acceptances, for people, programs and spreadsheets."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

ACCEPTANCE = ("mail", "name", "version", "language", "accepted_at", "digest")


def moment(seconds: int | None) -> str | None:
    """A Unix time as ISO 8601 in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def account(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "mail": row["mail"],
        "name": row["name"],
        "role": row["role"],
        "made": moment(row["made"]),
        "seen": moment(row["seen"]),
        "accepted": moment(row["accepted"]),
    }


def acceptance(row: dict[str, Any]) -> dict[str, Any]:
    return {name: moment(row[name]) if name == "accepted_at" else row[name] for name in ACCEPTANCE}


def accounts(rows: Sequence[dict[str, Any]], console: Console) -> None:
    if not rows:
        console.print("nobody has an account yet")
        return
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for column in ("mail", "name", "role", "made", "last seen", "accepted"):
        table.add_column(column, overflow="fold")
    for row in map(account, rows):
        days = [(row[name] or "never")[:10] for name in ("made", "seen", "accepted")]
        table.add_row(escape(row["mail"]), escape(row["name"]), escape(row["role"]), *days)
    console.print(table)


def acceptances(rows: Sequence[dict[str, Any]], console: Console) -> None:
    if not rows:
        console.print("nobody has accepted an agreement yet")
        return
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for column in ("mail", "name", "version", "language", "accepted (UTC)"):
        table.add_column(column, overflow="fold")
    for row in map(acceptance, rows):
        when = str(row["accepted_at"])[:16].replace("T", " ")
        table.add_row(*(escape(row[name]) for name in ("mail", "name", "version", "language")), when)
    console.print(table)


def write_csv(rows: Sequence[dict[str, Any]], file: TextIO) -> None:
    """A line of names, then one for each acceptance. What a spreadsheet would take for a formula is made text."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(ACCEPTANCE)
    for row in map(acceptance, rows):
        writer.writerow(f"'{value}" if str(value)[:1] in "=+-@" else value for value in row.values())
