"""The database between two releases of Open WebUI, run with the chat's user and environment while the chat rests.

    python -m flexi_chat.webui.schema keep             before another release: SQLite gets a copy, until that one runs
    python -m flexi_chat.webui.schema back SITE-PACKAGES   for the release installed there: the copy in place, where the
                                                     newer release never came up; else what that one has changed undone

Standard error has one sentence where it cannot be done; the database is as it was then. PostgreSQL needs no copy: there
a migration takes place as a whole or not at all (Alembic: transactional DDL).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sqlalchemy import text

from flexi_chat.backup import sqlite_files
from flexi_chat.webui.database import address, engine

COPY = "before-upgrade.db"
MIGRATIONS = "open_webui/migrations"


def _sqlite() -> Path | None:
    url = address(os.environ)
    return Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None


def keep() -> str | None:
    """Why there is no copy, or None. One that is there is from before a release that never came up: it stays."""
    database = _sqlite()
    if database is None or not database.is_file() or database.with_name(COPY).exists():
        return None
    try:
        _copy(database, database.with_name(COPY))
    except OSError as error:
        return f"the database cannot be copied: {error.strerror or error}"
    return None


def back(packages: Path) -> str | None:
    """Why the database does not go back, or None."""
    database = _sqlite()
    if database is not None and (before := database.with_name(COPY)).is_file():
        _replace(database, before)
        return None
    wanted, known = _history(packages / MIGRATIONS)
    current = _revision()
    if current in known:
        return None
    kept = None if database is None else database.with_name("before-rollback.db")
    if database is not None and kept is not None:
        _copy(database, kept)
    try:
        _downgrade(wanted)
    except Exception as error:  # whatever a migration may raise
        if database is not None and kept is not None:
            _replace(database, kept)
        words = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"what the newer release has changed in the database cannot be undone: {words}"
    if kept is not None:
        kept.unlink()
    return None


def _copy(database: Path, target: Path) -> None:
    """A whole copy or none."""
    draft = target.with_name(f"{target.name}.new")
    draft.unlink(missing_ok=True)
    sqlite_files.copy(database, draft)
    draft.replace(target)


def _replace(database: Path, other: Path) -> None:
    for beside in sqlite_files.belongings(database):
        beside.unlink(missing_ok=True)
    other.replace(database)


def _history(migrations: Path) -> tuple[str, frozenset[str]]:
    """The newest revision of a release, and all that it knows."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(migrations))
    scripts = ScriptDirectory.from_config(config)
    head = scripts.get_current_head()
    assert head is not None
    return head, frozenset(script.revision for script in scripts.walk_revisions())


def _revision() -> str | None:
    with engine().connect() as connection:
        row = connection.execute(text("SELECT version_num FROM alembic_version")).first()
    return None if row is None else str(row[0])


def _downgrade(revision: str) -> None:
    """With the migrations of the release that runs this."""
    import open_webui.env
    from alembic import command
    from alembic.config import Config

    config = Config(open_webui.env.OPEN_WEBUI_DIR / "alembic.ini")
    config.set_main_option("script_location", str(open_webui.env.OPEN_WEBUI_DIR / "migrations"))
    command.downgrade(config, revision)


def main(arguments: list[str]) -> int:
    if arguments == ["keep"]:
        reason = keep()
    elif len(arguments) == 2 and arguments[0] == "back":
        reason = back(Path(arguments[1]))
    else:
        reason = "usage: python -m flexi_chat.webui.schema keep | back SITE-PACKAGES"
    if reason:
        print(reason, file=sys.stderr)
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
