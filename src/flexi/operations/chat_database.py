"""The chat's PostgreSQL on its own host: its role, its database, and pgvector in it."""

from __future__ import annotations

import shlex
from collections.abc import Generator

from pyinfra import host
from pyinfra.api import FunctionCommand, QuoteString, StringCommand, operation
from pyinfra.facts.deb import DebPackages
from pyinfra.facts.files import File

from flexi import chat_files
from flexi.facts import ChatDatabase
from flexi.operations.apt_locks import fresh_index
from flexi.operations.packages import install_command
from flexi.operations.refusal import refuse

Commands = Generator[StringCommand | FunctionCommand, None, None]


@operation()
def chats_stay_seen(database: str) -> Commands:
    """Fail the host before anything changes where its chats are in SQLite: in PostgreSQL the chat would begin empty."""
    if host.get_fact(File, path=chat_files.SQLITE) and not host.get_fact(ChatDatabase, database=database).used:
        yield refuse(
            f"the chats of this host are in {chat_files.SQLITE}, and PostgreSQL would begin empty. To leave them "
            f"behind, stop {chat_files.UNIT} and move that file away; to keep them, set chat.database to sqlite"
        )
        return
    host.noop("nothing would be hidden")


@operation()
def database_made(database: str) -> Commands:
    """Make the role `database`, which PostgreSQL knows by the user of that name, its database of the same name, and
    pgvector in it."""
    truth = host.get_fact(ChatDatabase, database=database)
    if truth.extension:
        host.noop("it is there")
        return
    if not truth.role:
        yield _psql("postgres", f'CREATE ROLE "{database}" LOGIN')
    if not truth.database:
        # template0: a template that somebody changed is no business of ours, and it allows any encoding.
        yield _psql("postgres", f'CREATE DATABASE "{database}" OWNER "{database}" ENCODING \'UTF8\' TEMPLATE template0')
    yield _psql(database, "CREATE EXTENSION IF NOT EXISTS vector")


def _psql(database: str, statement: str) -> StringCommand:
    command = f"cd / && runuser -u postgres -- psql -Xq -v ON_ERROR_STOP=1 -d {shlex.quote(database)}"
    return StringCommand("sh", "-c", QuoteString(f"{command} -c {shlex.quote(statement)}"))


@operation()
def redis_installed(package: str, service: str) -> Commands:
    """Install Redis without the service that its package starts: the chat has one of its own, on no port. A Redis that
    was there before is left alone."""
    if package in (host.get_fact(DebPackages) or {}):
        host.noop("it is installed")
        return
    yield fresh_index()
    # A masked unit is not started by its package (deb-systemd-invoke(1p)).
    yield StringCommand("systemctl", "mask", "--quiet", service)
    yield install_command([package])
    yield StringCommand("sh", "-c", QuoteString(f"systemctl unmask --quiet {service}; systemctl disable -q {service}"))
