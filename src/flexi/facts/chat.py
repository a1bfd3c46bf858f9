"""pyinfra facts about the chat's host, read without changing it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyinfra.api import FactBase, StringCommand
from pyinfra.api.command import QuoteString

from flexi.components.chat_programs import PYTHON, chat_program

CHAT_KEY_DIGEST = "/etc/flexi/chat-key.sha256"


class ChatKeyDigest(FactBase[str | None]):
    """SHA-256 (hex) of the key that the chat on this host shows to the gateway; None where there is none."""

    def command(self) -> StringCommand:
        return StringCommand("sh", "-c", QuoteString(f"cat {CHAT_KEY_DIGEST} 2>/dev/null || true"))

    def process(self, output: list[str]) -> str | None:
        found = [line.strip() for line in output if re.fullmatch(r"[0-9a-f]{64}", line.strip())]
        return found[0] if found else None


@dataclass(frozen=True)
class ChatDatabaseState:
    """State of the chat's database in a host's own PostgreSQL."""

    role: bool = False
    database: bool = False
    extension: bool = False
    """pgvector, in that database."""
    used: bool = False
    """Open WebUI has its tables there."""


class ChatDatabase(FactBase[ChatDatabaseState]):
    """Nothing is there where PostgreSQL is not installed, or does not run yet."""

    default = ChatDatabaseState

    def command(self, database: str) -> StringCommand:
        ask = "cd / && runuser -u postgres -- psql -XAtq"
        role = f"SELECT 'role' FROM pg_roles WHERE rolname = '{database}'"
        there = f"SELECT 'database' FROM pg_database WHERE datname = '{database}'"
        has = "SELECT 'extension' FROM pg_extension WHERE extname = 'vector'"
        used = "SELECT 'used' WHERE to_regclass('public.\"user\"') IS NOT NULL"
        script = (
            "command -v psql >/dev/null && id -u postgres >/dev/null 2>&1 || exit 0; "
            f"{ask} -d postgres -c {shlex.quote(role)} -c {shlex.quote(there)} 2>/dev/null; "
            f"{ask} -d {database} -c {shlex.quote(has)} -c {shlex.quote(used)} 2>/dev/null; true"
        )
        return StringCommand("sh", "-c", QuoteString(script))

    def process(self, output: list[str]) -> ChatDatabaseState:
        found = {line.strip() for line in output}
        return ChatDatabaseState(*(part in found for part in ("role", "database", "extension", "used")))


COURSES = "courses"


@dataclass(frozen=True)
class CourseStoreState:
    """Course material on the host: names, each the SHA-256 of what was sent, and the free space in bytes."""

    files: frozenset[str]
    free_bytes: int


class CourseStore(FactBase[CourseStoreState]):
    """A file has its name only after its digest was found right."""

    def command(self, home: str) -> StringCommand:
        script = (
            f"for d in {home} /var/lib; do df -Pk $d 2>/dev/null | awk 'NR==2{{print \"free\", $4}}'; done | head -n1; "
            f"[ ! -d {home} ] || find {home} -maxdepth 1 -type f -printf 'file %f\\n'"
        )
        return StringCommand("sh", "-c", QuoteString(script))

    def process(self, output: list[str]) -> CourseStoreState:
        words = [line.split(" ", 1) for line in output if " " in line]
        free = next((int(rest) for kind, rest in words if kind == "free"), 0) * 1024
        return CourseStoreState(frozenset(rest for kind, rest in words if kind == "file" and len(rest) == 64), free)


class CourseBots(FactBase[Mapping[str, Any] | None]):
    """Course bots that there are, as flexi_chat.courses.wanted has it; None where the chat cannot be asked."""

    def command(self, url: str) -> StringCommand:
        state = chat_program(COURSES, "--url", url, "state")
        return StringCommand("sh", "-c", QuoteString(f"[ ! -x {PYTHON} ] || {state} 2>/dev/null || true"))

    def process(self, output: list[str]) -> Mapping[str, Any] | None:
        for line in output:
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict) and "courses" in found:
                return found
        return None
