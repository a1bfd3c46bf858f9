"""An examination for people and for programs."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from . import Examination

MARKS = {"error": "[bold red]error[/]", "warning": "[yellow]warning[/]"}


def as_json(examination: Examination) -> dict[str, object]:
    """docs/doctor.md describes it."""
    return {
        "schema": 1,
        "site": examination.site,
        "hosts": list(examination.hosts),
        "errors": sum(finding.kind.severity == "error" for finding in examination.findings),
        "warnings": sum(finding.kind.severity == "warning" for finding in examination.findings),
        "findings": [
            {
                "id": finding.kind.id,
                "severity": finding.kind.severity,
                "host": finding.host,
                "what": finding.what,
                "means": finding.kind.means,
                "mend": finding.mend,
            }
            for finding in examination.findings
        ],
    }


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
    count = len(examination.findings)
    if count:
        things = "one thing is" if count == 1 else f"{count} things are"
        console.print(f"\n[bold red]{escape(examination.site)}[/]: {things} wrong. Nothing was changed.")
    else:
        console.print(f"\n[bold green]{escape(examination.site)}[/]: nothing is wrong.")
