"""Keys in git, and commands in the docs."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from flexi.paths import INVENTORY, ROOT


def test_a_sites_keys_are_not_kept_out_of_its_repository() -> None:
    """A deploy from a clone without the keys file would revoke every key."""
    ignored = [line for line in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines() if line]
    for name in ("mysite", *(path.stem for path in INVENTORY.glob("*.yaml"))):
        file = f"inventory/{name}.keys.json"
        matching = [line for line in ignored if fnmatch(file, line) or fnmatch(Path(file).name, line)]
        assert matching == (["inventory/lab.keys.json"] if name == "lab" else [])


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda path: path.name)
def test_no_key_stands_among_a_commands_arguments(page: Path) -> None:
    """They are for every user of the machine to read, and stay in the shell's history."""
    assert not re.findall(r"curl .*(?:-H|--header) *[\"'](?:Authorization|x-api-key)", page.read_text(encoding="utf-8"))
