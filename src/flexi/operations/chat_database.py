"""The chat's PostgreSQL on its own host: its role, its database, and pgvector in it."""

from __future__ import annotations

import shlex
from collections.abc import Generator

from pyinfra import host
from pyinfra.api import FunctionCommand, QuoteString, StringCommand, operation
from pyinfra.facts.deb import DebPackages
from pyinfra.facts.files import File, FileContents

from flexi.components import chat
from flexi.facts.chat import ChatDatabase
from flexi.operations.apt_locks import update_index
from flexi.operations.host_failure import fail_host
from flexi.operations.packages import install_command
from flexi.plan.build.chat_database import LOCAL, NAME, SQLITE

Commands = Generator[StringCommand | FunctionCommand, None, None]


@operation()
def fail_if_chats_hidden(wanted: str, left: str = "") -> Commands:
    """Fail the host before anything changes where its chats are elsewhere than `wanted` and the page would begin
    without them; `left` names where an admin leaves them. Both as in flexi.local_files.chat_place."""
    found = _chat_locations()
    if not found or wanted in found or left in found:
        host.noop("nothing would be hidden")
        return
    yield fail_host(
        f"the chats are in {_describe(found[0])}, and the site file wants them in {_describe(wanted)}, where the page "
        f"would begin without them: go back in the site file, or run `flexi backup` and deploy with "
        f"`--leave-chats {found[0]}` ({_RESTORE_HINT if SQLITE not in (found[0], wanted) else _NO_WAY_HINT})"
    )


_RESTORE_HINT = "`flexi restore` then brings them to the new place; docs/chat/database.md"
_NO_WAY_HINT = "nothing carries chats from SQLite to PostgreSQL or back; docs/chat/database.md"


def _chat_locations() -> tuple[str, ...]:
    """Return where this host's chats are; without a note, which an older flexi did not make, where some are found."""
    noted = host.get_fact(FileContents, path=chat.PLACE)
    file = host.get_fact(File, path=chat.SQLITE)
    if noted and noted[0] != SQLITE:
        return (noted[0],)
    if noted:
        return (SQLITE,) if file else ()
    used = host.get_fact(ChatDatabase, database=NAME).used
    return (*((SQLITE,) if file else ()), *((LOCAL,) if used else ()))


def _describe(place: str) -> str:
    if place == SQLITE:
        return f"SQLite ({chat.SQLITE})"
    return "PostgreSQL on this host" if place == LOCAL else f"PostgreSQL at {place}"


@operation()
def create(database: str) -> Commands:
    """Make the role `database`, which PostgreSQL knows by the user of that name, its database of the same name, and
    pgvector in it."""
    present = host.get_fact(ChatDatabase, database=database)
    if present.extension:
        host.noop("it is there")
        return
    if not present.role:
        yield _psql("postgres", f'CREATE ROLE "{database}" LOGIN')
    if not present.database:
        # template0: a template that somebody changed is no business of ours, and it allows any encoding.
        yield _psql("postgres", f'CREATE DATABASE "{database}" OWNER "{database}" ENCODING \'UTF8\' TEMPLATE template0')
    yield _psql(database, "CREATE EXTENSION IF NOT EXISTS vector")


def _psql(database: str, statement: str) -> StringCommand:
    command = f"cd / && runuser -u postgres -- psql -Xq -v ON_ERROR_STOP=1 -d {shlex.quote(database)}"
    return StringCommand("sh", "-c", QuoteString(f"{command} -c {shlex.quote(statement)}"))


@operation()
def install_redis(package: str, service: str) -> Commands:
    """Install Redis without the service that its package starts: the chat has one of its own, on no port. A Redis that
    was there before is left alone."""
    if package in (host.get_fact(DebPackages) or {}):
        host.noop("it is installed")
        return
    yield update_index()
    # A masked unit is not started by its package (deb-systemd-invoke(1p)).
    yield StringCommand("systemctl", "mask", "--quiet", service)
    yield install_command([package])
    yield StringCommand("sh", "-c", QuoteString(f"systemctl unmask --quiet {service}; systemctl disable -q {service}"))
