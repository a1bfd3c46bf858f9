"""SQLite databases while somebody writes to them: which files are such, and a copy as of one moment."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

_MAGIC = b"SQLite format 3\0"
"""The first bytes of a database (sqlite.org/fileformat.html, 1.3)."""
_BESIDE = ("-wal", "-shm", "-journal")
_TIMEOUT_S = 60.0


def databases(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if _is_database(path)]


def belongings(database: Path) -> list[Path]:
    """The files beside a database that are a part of it while it is in use."""
    return [database.with_name(database.name + ending) for ending in _BESIDE]


def copy(source: Path, target: Path) -> None:
    """A whole, consistent copy; what writes to `source` goes on meanwhile (sqlite.org/backup.html)."""
    with (
        closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True, timeout=_TIMEOUT_S)) as old,
        closing(sqlite3.connect(target)) as new,
    ):
        # Nobody needs half of it after a power cut.
        new.execute("PRAGMA synchronous=OFF")
        old.backup(new)
        # The copy is one file, also of a database that has a write-ahead log.
        new.execute("PRAGMA journal_mode=DELETE")


def broken(database: Path) -> str | None:
    """What SQLite finds wrong with a database that nobody uses; None where it is whole."""
    try:
        with closing(sqlite3.connect(database)) as opened:
            (said,) = opened.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        return str(error)
    return None if said == "ok" else str(said)


def _is_database(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False
