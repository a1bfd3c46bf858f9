"""Where the chats of a site are, in words that hold no secret: what the chat's host notes of it."""

from __future__ import annotations

import functools
from urllib.parse import urlsplit

from flexi.errors import InputError
from flexi.local_files import chat as chat_supplies
from flexi.plan.build.chat_database import LOCAL, SQLITE
from flexi.plan.model.chat import ChatPlan
from flexi_chat.backup.archive import BackupError
from flexi_chat.backup.postgres import Server

_KEY = "chat.database_url"
_PORT = "5432"
"""PostgreSQL's own (IANA)."""


@functools.cache
def place(chat: ChatPlan) -> str:
    """`sqlite`, `postgresql` (on the chat's host), or `HOST:PORT/DATABASE`.

    InputError where the address is none of a PostgreSQL, never with a word of it: it holds a password.
    """
    if chat.database == "sqlite":
        return SQLITE
    return LOCAL if chat.database_url is None else _reached(chat_supplies.secret(chat.database_url, _KEY))


def _reached(url: str) -> str:
    try:
        parts = urlsplit(url)
        # A sign of the password that is not encoded ends its part of an address, and the rest would be shown.
        if parts.fragment or "@" in parts.path + parts.query:
            raise ValueError
        found = Server.of(url, "").environment
    except (BackupError, ValueError):
        raise InputError(
            f"{_KEY}: is no address of a PostgreSQL: postgresql://user:password@host/database, in the password "
            "%2F for /, %3F for ?, %23 for #, %40 for @"
        ) from None
    host, port = found.get("PGHOST", "localhost").lower(), found.get("PGPORT", _PORT)
    return f"{host}:{port}/{found.get('PGDATABASE', found.get('PGUSER', ''))}"
