"""The wrapper around pyinfra: what it runs, and what it makes of the outcome."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flexi import deploying
from flexi.errors import InputError
from flexi.paths import INVENTORY


def test_it_runs_what_an_admin_could_type() -> None:
    command = deploying.pyinfra_command(INVENTORY / "lab.yaml", limit=["server-a"])
    assert command[1:] == ["-y", "--json", "--limit", "server-a", "inventory/lab.py", "deploy.py"]
    assert "--dry" in deploying.pyinfra_command(INVENTORY / "lab.yaml", dry=True)


def test_a_site_without_its_two_lines_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"uni\.py is missing: copy inventory/example\.py"):
        deploying.inventory_file(tmp_path / "uni.yaml")


def test_failed_hosts_are_read_from_the_outcome() -> None:
    output = json.dumps({"results": {"failed_hosts": ["server-b"], "totals": {"success": 3}}})
    assert deploying.failed_hosts(output) == ["server-b"]
    assert deploying.changes(output) == 3


@pytest.mark.parametrize("output", ["", "not json", "[]", '{"results": null}'])
def test_an_outcome_that_never_came_names_nobody(output: str) -> None:
    assert deploying.failed_hosts(output) == []
