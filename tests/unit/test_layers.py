"""The layers of docs/develop/architecture.md, held by reading the code."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

from flexi.paths import ROOT

ROLES = sorted((ROOT / "roles").rglob("*.py"))
OPERATION_MODULES = {"apt", "files", "server", "systemd", "python"}


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """(dotted name, call) of every call in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def own_operations(path: Path) -> set[str]:
    """Names that a role imports from flexi.operations and that pyinfra made operations of."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules = [(node.module, node.names) for node in imports if (node.module or "").startswith("flexi.operations")]
    return {
        alias.asname or alias.name
        for module, names in modules
        for alias in names
        if module and hasattr(getattr(import_module(module), alias.name), "_inner")
    }


def operation_calls(path: Path) -> list[tuple[str, ast.Call]]:
    own = own_operations(path)
    return [(name, call) for name, call in calls(path) if name.split(".")[0] in OPERATION_MODULES or name in own]


@pytest.mark.parametrize("path", ROLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_operation_is_named(path: Path) -> None:
    """An unnamed operation prints its arguments, secrets included (pyinfra-dev/pyinfra issue 1896)."""
    unnamed = [
        f"{name} at line {call.lineno}"
        for name, call in operation_calls(path)
        if "name" not in {keyword.arg for keyword in call.keywords}
    ]
    assert not unnamed


def test_the_lint_sees_operations() -> None:
    assert sum(len(operation_calls(path)) for path in ROLES) > 30


def test_operations_stand_in_roles_only() -> None:
    """Outside roles/ and flexi.operations nobody calls pyinfra's operations."""
    allowed = {ROOT / "src/flexi/operations"}
    for path in (ROOT / "src").rglob("*.py"):
        if path.parent in allowed:
            continue
        assert "pyinfra.operations" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("path", ROLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_loops_over_operations_use_host_loop(path: Path) -> None:
    """A plain `for` around operations can end in "Cycle detected" (pyinfra docs: deploy-process#loops-cycle-errors)."""
    names = {id(call) for _, call in operation_calls(path)}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for loop in (node for node in ast.walk(tree) if isinstance(node, ast.For | ast.comprehension)):
        source = loop.iter
        body: list[ast.AST] = list(loop.body) if isinstance(loop, ast.For) else []
        if any(id(node) in names for statement in body for node in ast.walk(statement)):
            assert ast.unparse(source).startswith("host.loop("), f"{path}:{source.lineno}"


@pytest.mark.parametrize("forbidden", ["pyinfra", "subprocess", "requests", "paramiko", "open("])
def test_the_plan_does_no_input_or_output(forbidden: str) -> None:
    for path in (ROOT / "src/flexi/plan").rglob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith(("import ", "from ")) or "open(" in line:
                assert forbidden not in line, f"{path}: {line}"


def test_templates_decide_nothing() -> None:
    """A template may loop and leave out an empty list; comparisons and arithmetic on data belong to the plan."""
    for path in (ROOT / "templates").rglob("*.j2"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if "{% if" in line:
                condition = line.split("{% if", 1)[1].split("%}", 1)[0]
                assert not any(sign in condition for sign in ("==", "!=", "<", ">", " and ", " or ")), f"{path}: {line}"
