"""Who used what: sums by the hour in SQLite, for `flexi usage`. No single request is in it, and no address."""

from __future__ import annotations

import sqlite3
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from flexi_host.ledger.records import Request
from flexi_host.ledger.sums import FIGURES, Sums

HOUR_S = 3600
DAY_S = 24 * HOUR_S
NOBODY = ""
"""Stands for a consumer, class or model that is not known: the key columns of SQLite hold no NULL."""

COLUMNS = {"consumer": "consumer", "class": "class", "model": "model", "day": f"hour / {DAY_S} * {DAY_S}"}
"""By what usage can be summed: the name and its SQL. A day is the Unix time of its beginning in UTC."""

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS usage (
    hour INTEGER NOT NULL, consumer TEXT NOT NULL, class TEXT NOT NULL, model TEXT NOT NULL,
    {", ".join(f"{name} INTEGER NOT NULL" for name in FIGURES)},
    PRIMARY KEY (hour, consumer, class, model)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS halves (record TEXT NOT NULL);
"""
_ADD = f"""
INSERT INTO usage VALUES (?, ?, ?, ?, {", ".join("?" * len(FIGURES))})
ON CONFLICT (hour, consumer, class, model)
DO UPDATE SET {", ".join(f"{name} = {name} + excluded.{name}" for name in FIGURES)}
"""

_Key = tuple[int, str, str, str]


class Usage:
    """The database and what is not in it yet. `add` only counts; `flush` writes, so that a slow disk costs nothing."""

    def __init__(self, path: Path, days: int) -> None:
        self._path = path
        self._days = days
        self._new: dict[_Key, Sums] = defaultdict(Sums)
        self._pruned_hour = 0
        self._database = _opened(path)

    def add(self, request: Request) -> None:
        hour = int(request.at) // HOUR_S * HOUR_S
        key = (hour, request.consumer or NOBODY, request.class_ or NOBODY, request.model or NOBODY)
        self._new[key].add(request)

    def flush(self, now: float) -> None:
        """Write what was counted. sqlite3.Error where that fails: nothing is lost, the next call tries again."""
        hour = int(now) // HOUR_S * HOUR_S
        if not self._new and hour == self._pruned_hour:
            return
        with self._database:
            self._database.executemany(_ADD, [(*key, *sums.row()) for key, sums in self._new.items()])
            if hour != self._pruned_hour:
                self._database.execute("DELETE FROM usage WHERE hour < ?", (hour - self._days * DAY_S,))
        self._new.clear()
        self._pruned_hour = hour

    def keep(self, records: Sequence[str]) -> None:
        """Keep the halves of requests for the next start."""
        with self._database:
            self._database.executemany("INSERT INTO halves VALUES (?)", [(text,) for text in records])

    def kept(self) -> list[str]:
        """What `keep` was given in the last run; each is given back once."""
        with self._database:
            found = [str(text) for (text,) in self._database.execute("SELECT record FROM halves")]
            self._database.execute("DELETE FROM halves")
        return found

    def close(self) -> None:
        self._database.close()


def read(path: Path, since: float, by: Sequence[str]) -> list[dict[str, object]]:
    """Sums of the hours from the one of `since` (Unix seconds) on, one for each combination of `by` (keys of
    `COLUMNS`), the most requests first. A connection of its own, so that nobody waits for it."""
    keys = ", ".join(f"{COLUMNS[name]} AS {name}" for name in by)
    sums = ", ".join(f"SUM({name})" for name in FIGURES)
    order = ", ".join(str(number + 1) for number in range(len(by)))
    query = f"SELECT {keys}, {sums} FROM usage WHERE hour >= ? GROUP BY {order} ORDER BY SUM(requests) DESC, {order}"
    database = sqlite3.connect(path)
    try:
        rows = database.execute(query, (int(since) // HOUR_S * HOUR_S,)).fetchall()
    finally:
        database.close()
    return [
        {name: None if value == NOBODY else value for name, value in zip((*by, *FIGURES), row, strict=True)}
        for row in rows
    ]


def _opened(path: Path) -> sqlite3.Connection:
    try:
        return _prepared(path)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        # A service that does not start would lose every figure from now on; what is left of the old ones is kept.
        broken = path.with_suffix(".broken")
        print(f"{path} cannot be read ({error}): it is {broken} now, and a new one begins", file=sys.stderr)
        path.replace(broken)
        for ending in ("-wal", "-shm"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
        return _prepared(path)


def _prepared(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=5.0, check_same_thread=False)
    try:
        # Readers and the writer do not wait for each other; a power cut may lose the last seconds, never the file
        # (https://www.sqlite.org/wal.html).
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.executescript(_SCHEMA)
    except BaseException:
        database.close()
        raise
    return database
