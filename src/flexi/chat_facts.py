"""pyinfra facts about the chat's host, read without changing it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyinfra.api import FactBase, StringCommand
from pyinfra.api.command import QuoteString

from flexi.chat_programs import PYTHON, chat_program

COURSES = "courses"


@dataclass(frozen=True)
class StoreTruth:
    """Course material on the host: names, each the SHA-256 of what was sent, and the room that is left in bytes."""

    files: frozenset[str]
    free_bytes: int


class CourseStore(FactBase[StoreTruth]):
    """A file has its name only after its digest was found right."""

    def command(self, home: str) -> StringCommand:
        script = (
            f"for d in {home} /var/lib; do df -Pk $d 2>/dev/null | awk 'NR==2{{print \"free\", $4}}'; done | head -n1; "
            f"[ ! -d {home} ] || find {home} -maxdepth 1 -type f -printf 'file %f\\n'"
        )
        return StringCommand("sh", "-c", QuoteString(script))

    def process(self, output: list[str]) -> StoreTruth:
        words = [line.split(" ", 1) for line in output if " " in line]
        free = next((int(rest) for kind, rest in words if kind == "free"), 0) * 1024
        return StoreTruth(frozenset(rest for kind, rest in words if kind == "file" and len(rest) == 64), free)


class CourseBots(FactBase[Mapping[str, Any] | None]):
    """What course bots there are, as flexi.chathost.courses_wanted has it; None where the chat cannot be asked."""

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
