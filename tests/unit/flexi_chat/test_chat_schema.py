"""The copy of the chat's database that is there from a switch of the release until the new one answers."""

from __future__ import annotations

import importlib
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import pytest

from flexi.paths import ROOT


@pytest.fixture
def schema(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """With a stand-in of SQLAlchemy, which only the chat's host has."""
    for name in ("sqlalchemy", "sqlalchemy.exc", "sqlalchemy.engine", "sqlalchemy.pool"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    ours = ("flexi_chat.webui.schema", "flexi_chat.webui.database")
    for name in ours:
        sys.modules.pop(name, None)
    yield importlib.import_module(ours[0])
    for name in ours:
        sys.modules.pop(name, None)


def write(database: Path, text: str) -> None:
    with closing(sqlite3.connect(database)) as opened, opened:
        opened.execute("CREATE TABLE IF NOT EXISTS message (text TEXT)")
        opened.execute("INSERT INTO message VALUES (?)", (text,))


def messages(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as opened:
        return [text for (text,) in opened.execute("SELECT text FROM message")]


def test_the_copy_from_before_a_release_that_never_came_up_stays(
    schema: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "webui.db"
    monkeypatch.setattr(schema, "address", lambda environment: f"sqlite:///{database}")
    write(database, "before")
    assert schema.keep() is None
    write(database, "half a migration")
    assert schema.keep() is None
    assert messages(tmp_path / schema.COPY) == ["before"]
    assert schema.back(tmp_path) is None
    assert messages(database) == ["before"]
    assert not (tmp_path / schema.COPY).exists()


def test_the_unit_removes_the_copy_once_the_chat_has_answered(schema: ModuleType) -> None:
    """Not only the deploy starts it: what comes up by itself would keep a copy that hides all that is said since."""
    unit = (ROOT / "templates/chat/flexi-chat.service").read_text(encoding="utf-8").splitlines()
    first, last = (line for line in unit if line.startswith("ExecStartPost="))
    assert "/usr/bin/curl -fs" in first
    assert last == f"ExecStartPost=/usr/bin/rm -f /var/lib/flexi-chat/{schema.COPY}"
