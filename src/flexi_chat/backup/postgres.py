"""The chat's PostgreSQL: what its own programs need to reach it, a dump of it, and a dump back into it."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from flexi_chat.backup.archive import BackupError

_SCHEMES = re.compile(r"postgres(?:ql)?(?:\+\w+)?")
# libpq's variables (PostgreSQL 15, 34.15) by the names of a URL's parameters (34.1.2).
_PARAMETERS = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "dbname": "PGDATABASE",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "connect_timeout": "PGCONNECT_TIMEOUT",
}

# What a dump does not know of must not stay: a newer release's tables would be in the way of an older one's. Extensions
# stay: to make one takes rights that the chat's own role may not have. `public` is where Open WebUI has its tables.
# Somebody else's session with a table in use must not keep the chat away for good.
_EMPTY = """
SET client_min_messages = warning;
SET lock_timeout = '60s';
DO $$
DECLARE thing record;
BEGIN
  FOR thing IN
    SELECT c.oid::regclass::text AS name, CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
      WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind
    FROM pg_class c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
    UNION ALL
    SELECT t.oid::regtype::text, 'TYPE'
    FROM pg_type t
    WHERE t.typnamespace = 'public'::regnamespace AND t.typtype IN ('e', 'd')
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = t.oid AND d.deptype = 'e')
  LOOP
    EXECUTE format('DROP %s IF EXISTS %s CASCADE', thing.kind, thing.name);
  END LOOP;
END $$;
"""


@dataclass(frozen=True)
class Server:
    """How PostgreSQL's programs reach the chat's database: by the environment, so that no argument has the password."""

    environment: Mapping[str, str]
    user: str
    """Of the operating system: PostgreSQL on the same host knows the chat by it."""

    @classmethod
    def of(cls, url: str, user: str) -> Server:
        """From SQLAlchemy's or libpq's URL; BackupError for anything else."""
        parts = urlsplit(url)
        if not _SCHEMES.fullmatch(parts.scheme):
            raise BackupError(f"the chat's database is neither SQLite nor PostgreSQL: {parts.scheme}")
        found: dict[str, str] = {}
        if parts.hostname:
            found["PGHOST"] = parts.hostname
        if parts.port:
            found["PGPORT"] = str(parts.port)
        if parts.username:
            found["PGUSER"] = unquote(parts.username)
        if parts.password:
            found["PGPASSWORD"] = unquote(parts.password)
        if parts.path.strip("/"):
            found["PGDATABASE"] = unquote(parts.path.strip("/"))
        for name, value in parse_qsl(parts.query):
            if name in _PARAMETERS:
                found[_PARAMETERS[name]] = value
        return cls(found, user)

    def dump(self, target: Path) -> None:
        """Write a dump of everything that is the chat's, as of one moment. BackupError with pg_dump's words."""
        # Of the schema alone, and so without extensions (pg_dump.c, selectDumpableExtension).
        command = ["pg_dump", "--format=custom", "--schema=public", "--no-owner", "--no-acl", "--no-comments"]
        with target.open("wb") as file:
            self._run(command, stdout=file)

    def load(self, source: Path) -> None:
        """Put `source` in the place of what is there, all of it or nothing. BackupError with psql's words."""
        script, contents = (source.with_name(f"{source.name}.{ending}") for ending in ("sql", "list"))
        try:
            with source.open("rb") as dump, contents.open("wb") as listed:
                self._run(["pg_restore", "--list"], stdin=dump, stdout=listed)
            lines = contents.read_text(encoding="utf-8").splitlines()
            # The schema is there, and stays.
            contents.write_text("\n".join(line for line in lines if " SCHEMA - " not in line), encoding="utf-8")
            with source.open("rb") as dump, script.open("wb") as sql:
                sql.write(_EMPTY.encode())
                sql.flush()
                options = ["--no-owner", "--no-acl", f"--use-list={contents}", "--file=-"]
                self._run(["pg_restore", *options], stdin=dump, stdout=sql)
            with script.open("rb") as sql:
                options = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--single-transaction"]
                self._run(["psql", *options, "--file=-"], stdin=sql, stdout=subprocess.DEVNULL)
        finally:
            script.unlink(missing_ok=True)
            contents.unlink(missing_ok=True)

    def _run(self, command: list[str], *, stdout: IO[bytes] | int, stdin: IO[bytes] | int = subprocess.DEVNULL) -> None:
        if shutil.which(command[0]) is None:
            raise BackupError(f"{command[0]} is missing on this host: apt-get install postgresql-client")
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
        done = subprocess.run(
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=kept | dict(self.environment),
            # pg_restore writes a script here and reaches no server; the others never run as root, which PostgreSQL on
            # the same host does not know.
            **({} if command[0] == "pg_restore" else self._identity()),
            check=False,
        )
        if done.returncode != 0:
            words = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
            raise BackupError(f"{command[0]}: {words[0]}")

    def _identity(self) -> dict[str, Any]:
        """Arguments of subprocess: the chat's user, for root."""
        if os.getuid() != 0:
            return {}
        found = pwd.getpwnam(self.user)
        return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
