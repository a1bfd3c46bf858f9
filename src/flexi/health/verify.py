"""`flexi verify`: runs the health checks and shows what they found."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flexi.errors import EXIT_FAILED, EXIT_OK, FlexiError
from flexi.health.report import Check
from flexi.paths import ROOT
from flexi.site import site_argument

MARKS = {"passed": "[green]ok[/]", "failed": "[bold red]FAIL[/]", "skipped": "[yellow]skipped[/]"}


@dataclass(frozen=True)
class Health:
    site: str
    checks: tuple[Check, ...]
    argument: str = ""
    """What commands call the site; empty where it is its name."""

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.outcome == "failed")

    @property
    def skipped(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.outcome == "skipped")

    @property
    def exit_status(self) -> int:
        return EXIT_FAILED if self.failed or not self.checks else EXIT_OK


SERVICE_CHECKS = ("test_gateway.py", "test_chat.py")
"""Files of tests/health that ask the service as its users do; the others look at hosts, as the doctor does."""


def verify(site_file: Path, files: Sequence[str] = ()) -> Health:
    """Run tests/health, or only these `files` of it, against the site. FlexiError where pytest could not run them."""
    with tempfile.TemporaryDirectory(prefix="flexi-verify-") as directory:
        report = Path(directory) / "report.json"
        argv = [sys.executable, "-m", "pytest", "-q", "-c", str(ROOT / "tests/health/pytest.ini")]
        argv += ["-p", "flexi.health.report", "-p", "no:cacheprovider"]
        argv += ["--site", str(site_file.resolve()), "--health-report", str(report)]
        argv += [str(ROOT / "tests/health" / file) for file in files or ("",)]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
        # 0: all passed, 1: some failed (pytest's exit codes); anything else is not an answer about the site.
        if done.returncode not in (0, 1) or not report.exists():
            raise FlexiError(f"the health checks could not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        checks = tuple(Check(**check) for check in json.loads(report.read_text(encoding="utf-8"))["checks"])
    return Health(site_file.stem, checks, site_argument(site_file))


def as_json(health: Health) -> dict[str, object]:
    return {
        "schema": 1,
        "site": health.site,
        "passed": sum(check.outcome == "passed" for check in health.checks),
        "failed": len(health.failed),
        "skipped": len(health.skipped),
        "checks": [vars(check) for check in health.checks],
    }


def show(health: Health, console: Console) -> None:
    """A table for each host, failures with their reason, and one closing line."""
    hosts = list(dict.fromkeys(check.host for check in health.checks))
    for host in hosts:
        checks = [check for check in health.checks if check.host == host]
        table = Table(title=host, title_justify="left", title_style="bold", show_header=False, box=None, padding=(0, 1))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for check in checks:
            color = "yellow" if check.outcome == "skipped" else "red"
            reason = f"\n[{color}]{escape(check.reason)}[/]" if check.reason else ""
            table.add_row(MARKS[check.outcome], escape(check.check) + reason)
        console.print(table)
        console.print()
    passed = sum(check.outcome == "passed" for check in health.checks)
    if health.exit_status == EXIT_OK:
        skipped = f", {len(health.skipped)} skipped" if health.skipped else ""
        console.print(f"[bold green]{health.site} is well[/]: {passed} checks passed{skipped}.")
    else:
        console.print(
            f"[bold red]{health.site} is not well[/]: {len(health.failed)} of {len(health.checks)} checks failed. "
            f"What it means and what mends it: ./flexi doctor {health.argument or health.site}",
            soft_wrap=True,
        )
