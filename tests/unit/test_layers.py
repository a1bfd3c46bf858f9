"""The layers of docs/develop/architecture.md, held by reading the code."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest
from jinja2 import Environment, nodes

from flexi.paths import ROOT

ROLES = sorted((ROOT / "roles").rglob("*.py"))


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """(dotted name, call) of every call in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def is_operation(value: object) -> bool:
    """Return whether pyinfra made an operation of it."""
    return hasattr(value, "_inner")


def own_operations(path: Path) -> set[str]:
    """Return the names by which a role can call flexi's operations: `module.operation`, and `operation` alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("flexi.operations"):
            continue
        for alias in node.names:
            local = alias.asname or alias.name
            if node.module == "flexi.operations":
                members = vars(import_module(f"flexi.operations.{alias.name}"))
                found |= {f"{local}.{name}" for name, value in members.items() if is_operation(value)}
            elif is_operation(getattr(import_module(str(node.module)), alias.name)):
                found.add(local)
    return found


def operation_calls(path: Path) -> list[tuple[str, ast.Call]]:
    """Return (dotted name, call) of every operation that a file calls: pyinfra's by their modules, flexi's by name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    pyinfra_modules = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "pyinfra.operations"
        for alias in node.names
    }
    own = own_operations(path)
    return [(name, call) for name, call in calls(path) if name.split(".")[0] in pyinfra_modules or name in own]


def unnamed_operations(path: Path) -> list[str]:
    return [
        f"{name} at line {call.lineno}"
        for name, call in operation_calls(path)
        if "name" not in {keyword.arg for keyword in call.keywords}
    ]


@pytest.mark.parametrize("path", ROLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_operation_is_named(path: Path) -> None:
    """An unnamed operation prints its arguments, secrets included (pyinfra-dev/pyinfra issue 1896)."""
    assert not unnamed_operations(path)


def test_the_lint_sees_operations() -> None:
    assert sum(len(operation_calls(path)) for path in ROLES) > 100


@pytest.mark.parametrize(
    "text",
    [
        "from flexi.operations import restart\nrestart.on_change(service='x', watch=())",
        "from flexi.operations import restart as again\nagain.on_change(service='x', watch=())",
        "from flexi.operations.restart import on_change\non_change(service='x', watch=())",
        "from pyinfra.operations import systemd\nsystemd.service(service='x')",
    ],
)
def test_an_unnamed_operation_is_seen_in_every_import_style(text: str, tmp_path: Path) -> None:
    role = tmp_path / "role.py"
    role.write_text(text)
    assert len(unnamed_operations(role)) == 1


def test_what_is_no_operation_needs_no_name(tmp_path: Path) -> None:
    role = tmp_path / "role.py"
    role.write_text("from flexi.operations import drain\ndrain.Interruption(('a',), 60)")
    assert unnamed_operations(role) == []


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


ARITHMETIC = (nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow, nodes.Neg)
DECISIONS = (nodes.Compare, nodes.And, nodes.Or)
LITERALS = (nodes.List, nodes.Tuple, nodes.Dict, nodes.Const)


def decisions(template: str) -> list[str]:
    """Name what a template decides by itself: comparisons, arithmetic, literal lists, and variables set to a literal.

    It may loop, leave out what is empty, and join strings; everything else belongs to the plan.
    """
    tree = Environment(autoescape=False).parse(template)
    found = [
        f"line {node.lineno}: {type(node).__name__}" for node in tree.find_all((*ARITHMETIC, nodes.List, nodes.Dict))
    ]
    for branch in tree.find_all((nodes.If, nodes.CondExpr)):
        tests = [branch.test, *branch.test.find_all(DECISIONS)]
        found += [
            f"line {branch.lineno}: if with {type(test).__name__}" for test in tests if isinstance(test, DECISIONS)
        ]
    found += [
        f"line {loop.lineno}: literal list" for loop in tree.find_all(nodes.For) if isinstance(loop.iter, LITERALS)
    ]
    found += [f"line {node.lineno}: set" for node in tree.find_all(nodes.Assign) if isinstance(node.node, LITERALS)]
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "templates").rglob("*.j2")), ids=lambda path: path.name)
def test_a_template_decides_nothing(path: Path) -> None:
    assert not decisions(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "template",
    [
        "{% if plan.count > 1 %}x{% endif %}",
        "{{ 'x' if a and b else '' }}",
        "{% for name in ('minute', 'hour') %}{{ name }}{% endfor %}",
        "{% for name in ['minute'] %}{{ name }}{% endfor %}",
        "{% set windows = [('minute', 60)] %}",
        "{% set limit = 60 %}",
        "{{ plan.seconds * 2 }}",
        "{{ -plan.seconds }}",
    ],
)
def test_a_template_that_decides_is_seen(template: str) -> None:
    assert decisions(template)
