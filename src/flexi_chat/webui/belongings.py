"""What belongs to users of the chat, and when it goes: tables of Open WebUI 0.12.4 (open_webui/models).

Open WebUI deletes a chat's messages with it, and a user's chats with the user; it leaves the files that were uploaded
into them, and most else that has the user's id.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine, inspect, text

PERSONAL = (
    "api_key",
    "automation",
    "calendar",
    "calendar_event",
    "calendar_event_attendee",
    "channel_member",
    "chat_file",
    "feedback",
    "flexi_agreement",
    "folder",
    "group_member",
    "memory",
    "note",
    "oauth_session",
    "pinned_note",
    "tag",
)
"""Tables whose rows are about one user (`user_id`) and nobody else."""

_STILL_USED = """
    SELECT file_id FROM chat_file WHERE chat_id IN (SELECT id FROM chat)
    UNION SELECT file_id FROM knowledge_file
    UNION SELECT file_id FROM channel_file WHERE file_id IS NOT NULL
"""
_TAGGED = """
    SELECT 1 FROM chat WHERE chat.user_id = tag.user_id AND CAST(chat.meta AS TEXT) LIKE '%"' || tag.id || '"%'
"""
_MENTIONS = (("chat", "chat"), ("chat_message", "files"), ("folder", "data"), ("model", "meta"), ("note", "data"))
"""Columns whose JSON may name files by their id."""


def files_of(database: Engine, user: str) -> list[str]:
    """Ids of the files that `user` uploaded, but for those in a knowledge base, which others use."""
    asked = "SELECT id FROM file WHERE user_id = :user AND id NOT IN (SELECT file_id FROM knowledge_file)"
    with database.connect() as connection:
        return [row[0] for row in connection.execute(text(asked), {"user": user})]


def forget(database: Engine) -> int:
    """Delete the personal rows of users who are no more; how many."""
    there = set(inspect(database).get_table_names())
    with database.begin() as connection:
        return sum(
            connection.execute(text(f'DELETE FROM {table} WHERE user_id NOT IN (SELECT id FROM "user")')).rowcount
            for table in PERSONAL
            if table in there
        )


def forget_chats(database: Engine, before: int) -> int:
    """Delete the chats that last changed before the Unix time `before`, seconds, also pinned and archived ones, with
    what was made of them: messages, shared copies, ratings (which hold the chat), tags; how many chats."""
    old = "SELECT id FROM chat WHERE updated_at < :before"
    with database.begin() as connection:
        if database.dialect.name == "sqlite":
            # Deleted content is overwritten (sqlite.org/pragma.html); Debian's library does so anyway.
            connection.execute(text("PRAGMA secure_delete = ON"))

        def run(statement: str) -> Any:
            return connection.execute(text(statement), {"before": before})

        run(f"UPDATE automation_run SET chat_id = NULL WHERE chat_id IN ({old})")
        for table in ("chat_message", "shared_chat", "chat_file"):
            run(f"DELETE FROM {table} WHERE chat_id IN ({old})")
        run("DELETE FROM feedback WHERE updated_at < :before")
        gone: int = run("DELETE FROM chat WHERE updated_at < :before").rowcount
        connection.execute(text(f"DELETE FROM tag WHERE NOT EXISTS ({_TAGGED})"))
        return gone


def wipe(database: Engine) -> None:
    """Let nothing of what was deleted stay in SQLite's files: its journal (WAL) keeps pages until it is written back.
    Where somebody reads just then, the next day's run does it. PostgreSQL has its own autovacuum."""
    if database.dialect.name == "sqlite":
        with database.connect() as connection:
            connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))


def unused_files(database: Engine, before: int) -> list[str]:
    """Ids of files that were uploaded before the Unix time `before`, seconds, and that nothing uses any more: no chat,
    knowledge base, folder or bot."""
    asked = f"SELECT id FROM file WHERE created_at < :before AND id NOT IN ({_STILL_USED})"
    columns = {
        (table, column)
        for table in inspect(database).get_table_names()
        for column in (entry["name"] for entry in inspect(database).get_columns(table))
    }
    with database.connect() as connection:
        found = [row[0] for row in connection.execute(text(asked), {"before": before})]
        return [file for file in found if not _is_mentioned(connection, file, columns)]


def _is_mentioned(connection: Connection, file: str, columns: set[tuple[str, str]]) -> bool:
    return any(
        connection.execute(
            text(f"SELECT 1 FROM {table} WHERE CAST({column} AS TEXT) LIKE :pattern LIMIT 1"), {"pattern": f"%{file}%"}
        ).first()
        for table, column in _MENTIONS
        if (table, column) in columns
    )
