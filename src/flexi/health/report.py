"""pytest plugin: turns a run of the health checks into records that a table or a program can show.

A check is known to people by the first line of its docstring, in which `{…}` are the names of its parameters.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

REPORT_SCHEMA = 1


@dataclass(frozen=True)
class Check:
    host: str
    check: str
    outcome: str
    """`passed`, `failed` or `skipped`."""
    reason: str
    """Why it failed or was skipped, in words; empty where it passed."""
    seconds: float


def title(item: pytest.Item) -> str:
    doc = (getattr(getattr(item, "function", None), "__doc__", None) or item.name).strip().splitlines()[0].rstrip(".")
    names: dict[str, Any] = {key: _name(value) for key, value in _parameters(item).items()}
    return doc.format(**names)


def host_name(item: pytest.Item) -> str:
    for value in _parameters(item).values():
        host = getattr(value, "host", None)
        if isinstance(host, str):
            return host
    host_plan = _parameters(item).get("host_plan")
    return str(host_plan.name) if host_plan is not None else "site"


def _parameters(item: pytest.Item) -> dict[str, Any]:
    callspec = getattr(item, "callspec", None)
    return dict(callspec.params) if callspec is not None else {}


def _name(value: Any) -> str:
    return str(getattr(value, "label", None) or getattr(value, "name", None) or getattr(value, "group", value))


class Recorder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.checks: list[Check] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.when == "call" or (report.when == "setup" and report.outcome != "passed"):
            reason = ""
            if call.excinfo is not None:
                text = str(call.excinfo.value).strip()
                reason = text.splitlines()[0] if text else call.excinfo.typename
            outcome = "skipped" if report.outcome == "skipped" else str(report.outcome)
            self.checks.append(Check(host_name(item), title(item), outcome, reason, round(call.duration, 2)))
        return report

    def pytest_sessionfinish(self) -> None:
        checks = [asdict(check) for check in self.checks]
        self.path.write_text(json.dumps({"schema": REPORT_SCHEMA, "checks": checks}), encoding="utf-8")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--health-report", type=Path, help="write the checks' outcomes as JSON to this file")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--health-report")
    if path is not None:
        config.pluginmanager.register(Recorder(path), "flexi-health-recorder")
