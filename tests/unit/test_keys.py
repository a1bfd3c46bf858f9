"""Consumers' keys: shown once, kept as hashes, nothing lost."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from flexi import keys
from flexi.errors import InputError
from flexi.site.keys import keys_path


def test_only_the_digest_is_written(tmp_path: Path) -> None:
    site = tmp_path / "uni.yaml"
    key = keys.add(site, "moodle")
    written = keys_path(site).read_text()
    assert key not in written
    entry = json.loads(written)["consumers"][0]
    assert entry["sha256"] == hashlib.sha256(key.encode()).hexdigest()
    assert keys_path(site).stat().st_mode & 0o077 == 0


def test_keys_differ_and_add_up(tmp_path: Path) -> None:
    site = tmp_path / "uni.yaml"
    made = {keys.add(site, name) for name in ("ada", "grace", "edsger")}
    assert len(made) == 3
    names = [entry["name"] for entry in json.loads(keys_path(site).read_text())["consumers"]]
    assert names == ["ada", "grace", "edsger"]


@pytest.mark.parametrize("name", ["", "Ada", "a b", "-x", "a\nb", "ä", "x" * 64])
def test_a_name_that_a_log_or_map_could_not_carry_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="no name for a consumer"):
        keys.add(tmp_path / "uni.yaml", name)


def test_a_taken_name_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    site = tmp_path / "uni.yaml"
    keys.add(site, "ada")
    before = keys_path(site).read_bytes()
    with pytest.raises(InputError, match="already"):
        keys.add(site, "ada")
    assert keys_path(site).read_bytes() == before


@pytest.mark.parametrize("content", ["", "[]", "{", '{"consumers": [1]}', '{"consumers": null}'])
def test_a_broken_file_is_left_alone(tmp_path: Path, content: str) -> None:
    site = tmp_path / "uni.yaml"
    keys_path(site).write_text(content)
    with pytest.raises(InputError, match="not a keys file"):
        keys.add(site, "ada")
    assert keys_path(site).read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == ["uni.keys.json"]
