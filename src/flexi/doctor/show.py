"""An examination for people and for programs."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from . import Examination, live

SERVICE_KINDS = tuple(live.KINDS.values())
"""Kinds that a look at the service alone can find."""
MARKS = {"error": "[bold red]error[/]", "warning": "[yellow]warning[/]"}


def as_json(examination: Examination) -> dict[str, object]:
    """docs/admin/doctor.md describes it."""
    return {
        "schema": 1,
        "site": examination.site,
        "hosts": list(examination.hosts),
        "errors": sum(finding.kind.severity == "error" for finding in examination.findings),
        "warnings": sum(finding.kind.severity == "warning" for finding in examination.findings),
        "findings": findings_as_json(examination),
    }


def findings_as_json(examination: Examination) -> list[dict[str, object]]:
    return [
        {
            "id": finding.kind.id,
            "severity": finding.kind.severity,
            "host": finding.host,
            "what": finding.what,
            "means": finding.kind.means,
            "mend": finding.mend,
        }
        for finding in examination.findings
    ]


def verdict(examination: Examination, site: str) -> Text:
    """The last lines of `flexi status`: whether the site is well, and if not, what is wrong; `site` is for commands."""
    text = Text()
    for found in examination.findings:
        style = "bold red" if found.kind.severity == "error" else "yellow"
        text.append(found.kind.severity, style)
        text.append(f" {found.host}: {found.kind.id}: {found.what}\n")
    if examination.errors:
        text.append(f"{examination.site} is not well", "bold red")
        text.append(f". What it means and what mends it: ./flexi doctor {site}")
    else:
        text.append(f"{examination.site} is well", "bold green")
        text.append("." if not examination.findings else f"; what to look at: ./flexi doctor {site}")
    return text


def show(examination: Examination, console: Console) -> None:
    """The findings of each host, and one closing line."""
    for host in examination.hosts:
        findings = [finding for finding in examination.findings if finding.host == host]
        if not findings:
            console.print(f"[bold]{escape(host)}[/]  [green]nothing is wrong[/]")
            continue
        console.print(f"[bold]{escape(host)}[/]")
        for finding in findings:
            console.print(f"  {MARKS[finding.kind.severity]} {finding.kind.id}: {escape(finding.what)}", soft_wrap=True)
            console.print(f"    it means: {escape(finding.kind.means)}", soft_wrap=True)
            console.print(f"    mend it:  {escape(finding.mend)}", soft_wrap=True)
    count = len(examination.errors)
    if count:
        things = "one thing is" if count == 1 else f"{count} things are"
        console.print(f"\n[bold red]{escape(examination.site)} is not well[/]: {things} wrong. Nothing was changed.")
    elif examination.findings:
        look = "Nothing is wrong; the warnings are worth a look."
        console.print(f"\n[bold green]{escape(examination.site)} is well[/]. {look}")
    else:
        console.print(f"\n[bold green]{escape(examination.site)} is well[/]: nothing is wrong.")
