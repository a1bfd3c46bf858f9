"""Imports point one way, from what is known of the world to the command line (docs/develop/architecture.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from flexi.paths import ROOT

SRC = ROOT / "src"
TIERS: tuple[frozenset[str], ...] = tuple(
    frozenset(tier.split())
    for tier in (
        "errors paths",
        "catalog components terminal",
        "configfile",
        "courses",
        "site",
        "plan",
        "configs probe ssh health",
        "facts local_files usage accounts backup keys moodle questions",
        "bundle status",
        "deploy doctor",
        "operations inventory",
        "roles",
        "lab",
        "bench docgen selftest",
        "cli",
        "__main__",
    )
)
"""Lowest first. A package imports from lower tiers and from itself."""
LEVEL = {name: level for level, tier in enumerate(TIERS) for name in tier}
LOOSE = {"__init__", "__main__", "errors", "paths"}
"""The only modules of flexi that stand in no folder."""


def modules(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of every import in a file, relative ones resolved."""
    package = list(path.relative_to(SRC if SRC in path.parents else ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            dotted = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{dotted}.{alias.name}") for alias in node.names)


def package_of(dotted: str) -> str | None:
    """Return the package below flexi that a dotted name belongs to; None for anything that is not ours."""
    parts = dotted.split(".")
    if parts[0] == "roles":
        return "roles"
    return parts[1] if parts[0] == "flexi" and len(parts) > 1 else None


OURS = [*modules(SRC / "flexi"), *modules(ROOT / "roles")]


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_to_lower_tiers(path: Path) -> None:
    parts = path.relative_to(SRC if SRC in path.parents else ROOT).with_suffix("").parts
    own = "roles" if parts[0] == "roles" else parts[1]
    if own == "__init__":
        return
    upward = [
        f"line {line}: {dotted}"
        for line, dotted in imported(path)
        if (other := package_of(dotted)) and other != own and LEVEL[other] >= LEVEL[own]
    ]
    assert not upward


def test_every_package_has_a_tier() -> None:
    found = {path.stem for path in (SRC / "flexi").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert found - {"__init__"} == set(LEVEL) - {"roles"}


def test_no_module_lies_loose() -> None:
    assert {path.stem for path in (SRC / "flexi").glob("*.py")} == LOOSE


@pytest.mark.parametrize("package", ["flexi_host", "flexi_chat"])
def test_programs_on_hosts_import_nothing_of_flexi(package: str) -> None:
    """They are shipped alone."""
    for path in modules(SRC / package):
        foreign = [dotted for _, dotted in imported(path) if dotted.split(".")[0] in ("flexi", "roles")]
        assert not foreign, path


def test_no_file_repeats_its_folders_name() -> None:
    repeated = [
        path.relative_to(ROOT)
        for folder in ("flexi", "flexi_host", "flexi_chat")
        for path in modules(SRC / folder)
        if path.parent != SRC / folder and path.stem.split("_")[0] == path.parent.name
    ]
    assert not repeated
