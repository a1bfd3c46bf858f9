"""From pytest's outcomes to the table and the JSON of `flexi verify`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from flexi.health import verify
from flexi.health.report import Check
from flexi.health.verify import Health
from flexi.paths import INVENTORY
from flexi.site import site_argument

pytest_plugins = ["pytester"]

CHECKS = (
    Check("server-a", "all its GPUs are there", "passed", "", 0.1),
    Check("server-a", "the driver that runs is the wanted one", "failed", "driver 580 runs, [red] is wanted", 0.1),
    Check("gateway", "its disks have space left", "passed", "", 0.1),
)


def test_one_failure_is_exit_status_1_and_nothing_at_all_too() -> None:
    assert Health("lab", CHECKS).exit_status == 1
    assert Health("lab", CHECKS[:1]).exit_status == 0
    assert Health("lab", ()).exit_status == 1


def test_the_table_has_every_check_and_the_reason() -> None:
    console = Console(file=io.StringIO(), width=120, no_color=True)
    verify.show(Health("lab", CHECKS), console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "driver 580 runs, [red] is wanted" in text
    assert all(check.check in text for check in CHECKS)
    assert "lab is not well: 1 of 3 checks failed" in text


def test_the_command_that_it_names_finds_the_site(tmp_path: Path) -> None:
    for file, argument in ((INVENTORY / "lab.yaml", "lab"), (tmp_path / "uni.yaml", str(tmp_path / "uni.yaml"))):
        console = Console(file=io.StringIO(), width=40, no_color=True)
        verify.show(Health(file.stem, CHECKS, site_argument(file)), console)
        assert isinstance(console.file, io.StringIO)
        assert console.file.getvalue().endswith(f"./flexi doctor {argument}\n")


def test_what_was_skipped_is_not_called_passed() -> None:
    health = Health(
        "lab", (CHECKS[0], Check("server-a", "its ports are closed", "skipped", "nobody to try it from", 0.1))
    )
    console = Console(file=io.StringIO(), width=120, no_color=True)
    verify.show(health, console)
    assert isinstance(console.file, io.StringIO)
    assert "nobody to try it from" in console.file.getvalue()
    assert "lab is well: 1 checks passed, 1 skipped." in console.file.getvalue()
    report = verify.as_json(health)
    assert (report["passed"], report["failed"], report["skipped"]) == (1, 0, 1)


def test_json_is_for_programs() -> None:
    report = verify.as_json(Health("lab", CHECKS))
    assert json.loads(json.dumps(report)) == report
    assert (report["passed"], report["failed"]) == (2, 1)


def test_the_plugin_records_titles_hosts_and_reasons(pytester: pytest.Pytester) -> None:
    """Titles come from docstrings with the parameters' names; of a failure the sentence stays, not the traceback."""
    pytester.makepyfile(
        '''
        import pytest

        class Resident:
            host = "server-b"
            label = "llama3:8b on b"

        @pytest.mark.parametrize("resident", [Resident()])
        def test_resident(resident):
            """{resident} is loaded

            And more."""
            assert resident.host == "x", "it is on the CPU"

        @pytest.fixture
        def broken():
            pytest.fail("the host does not answer", pytrace=False)

        def test_setup(broken):
            """needs a host"""

        def test_fine():
            """is fine."""

        def test_nobody():
            """is closed"""
            pytest.skip("nobody to try it from")
        '''
    )
    report = Path(pytester.path) / "report.json"
    pytester.runpytest("-p", "flexi.health.report", "--health-report", str(report))
    found = [Check(**check) for check in json.loads(report.read_text())["checks"]]
    assert [(c.host, c.check, c.outcome, c.reason) for c in found] == [
        ("server-b", "llama3:8b on b is loaded", "failed", "it is on the CPU"),
        ("site", "needs a host", "failed", "the host does not answer"),
        ("site", "is fine", "passed", ""),
        ("site", "is closed", "skipped", "nobody to try it from"),
    ]
