"""End to end: a lab of its own for the whole session, made from nothing and taken down whatever happens."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab_site import UP_TIMEOUT_S, Figure, Site, flexi, parse_env

from flexi.lab.lifecycle import Lab
from flexi.paths import ROOT


@pytest.fixture(scope="session")
def machines() -> Iterator[Lab]:
    """Bare machines: booted, reachable, nothing deployed."""
    lab = Lab(f"test{os.getpid()}")
    try:
        lab.up()
        yield lab
    finally:
        with contextlib.suppress(KeyboardInterrupt):
            lab.down()


@pytest.fixture(scope="session")
def site(machines: Lab) -> Site:
    """The lab after `./flexi lab up`: deployed and verified."""
    done = flexi("lab", "up", "--name", machines.name, timeout_s=UP_TIMEOUT_S)
    assert done.status == 0, done.text[-6000:]
    assert "is well" in done.stdout, done.text[-6000:]
    env = flexi("lab", "env", "--name", machines.name)
    assert env.status == 0, env.text
    return Site(machines, parse_env(env.stdout))


FIGURE = "figure"
OURS = re.compile(r"(?:test|bare)(\d+)")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Labs of workers that died without taking theirs down."""
    labs = ROOT / ".lab"
    if hasattr(session.config, "workerinput") or not labs.is_dir():
        return
    for directory in labs.iterdir():
        ours = OURS.fullmatch(directory.name)
        if ours and not Path("/proc", ours[1]).exists():
            Lab(directory.name).down()


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Figure:
    """Say what was counted or measured: the run's last lines show it, also of tests that passed."""
    return lambda text: record_property(FIGURE, text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [*terminalreporter.stats.get("passed", ()), *terminalreporter.stats.get("failed", ())]
    figures = [text for report in reports for name, text in report.user_properties if name == FIGURE]
    if figures:
        terminalreporter.section("figures")
        for text in figures:
            terminalreporter.write_line(text)
