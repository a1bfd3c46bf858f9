"""Whatever stands in a site file, the answer is a Site or a SiteError."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from support.site_text import GOOD

from flexi.paths import INVENTORY
from flexi.plan import build_plan
from flexi.site import SiteError, load_site
from flexi.site.schema.site_file import SiteFile

quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

Loads = Callable[[bytes], None]


@pytest.fixture(scope="module")
def loads(tmp_path_factory: pytest.TempPathFactory) -> Loads:
    path = tmp_path_factory.mktemp("fuzz") / "x.yaml"

    def load(content: bytes) -> None:
        path.write_bytes(content)
        try:
            build_plan(load_site(path))
        except SiteError as error:
            found = error.findings
        else:
            return
        assert found
        assert all(f.reason and f.remedy and "\n" not in str(f) for f in found)

    return load


@quick
@given(st.binary(max_size=300))
@example(b"\x85")
@example(b"!<x> 1")
@example(b"'\\u0000'")
def test_any_bytes(loads: Loads, content: bytes) -> None:
    loads(content)


@quick
@given(st.text(alphabet="abc:- \n\t[]{},&*!|>'\"#%@`?~0123456789.", max_size=120))
def test_any_text_of_yamls_signs(loads: Loads, text: str) -> None:
    loads(text.encode())


@quick
@given(st.integers(0, len(GOOD)), st.integers(0, 40), st.text(alphabet=" \n:[]{}-&*!a0\"'#", max_size=12))
def test_a_good_file_with_a_piece_torn_out(loads: Loads, start: int, length: int, insert: str) -> None:
    loads((GOOD[:start] + insert + GOOD[start + length :]).encode())


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["all", "llama3:8b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def _paths(node: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    found = [path]
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        found += _paths(value, (*path, key))
    return found


PATHS = [path for path in _paths(YAML(typ="safe", pure=True).load(GOOD)) if path]


@settings(quick, max_examples=300)
@given(st.sampled_from(PATHS), values)
def test_a_good_file_with_any_value_in_any_place(loads: Loads, path: tuple[str | int, ...], value: Any) -> None:
    content = YAML(typ="safe", pure=True).load(GOOD)
    node = content
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    # JSON is YAML, but for its NaN and Infinity, which are then plain words.
    loads(json.dumps(content, ensure_ascii=True).encode())


@settings(quick, max_examples=100)
@given(st.sampled_from(sorted(SiteFile.model_fields)), values)
def test_any_section(loads: Loads, section: str, value: Any) -> None:
    content = {**YAML(typ="safe", pure=True).load(GOOD), section: value}
    loads(json.dumps(content).encode())


def test_the_inventory_is_fine() -> None:
    for path in sorted(INVENTORY.glob("*.yaml")):
        build_plan(load_site(path))
