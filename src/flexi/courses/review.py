"""A look at all material of courses before any deploy: each file opened, and its text looked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from flexi.configfile.findings import Finding

from . import text
from .load import Course
from .material import FOLDER, Material


@dataclass(frozen=True)
class Reviewed:
    """A course, and what is wrong with its files."""

    course: Course
    findings: tuple[Finding, ...]

    @property
    def size(self) -> int:
        """Bytes of all material."""
        return sum(file.size for file in self.course.material)


def review(courses: Sequence[Course], looked_at: Callable[[Course, Material], None]) -> list[Reviewed]:
    """Open every file; `looked_at` is told each one."""
    return [Reviewed(course, tuple(_findings(course, looked_at))) for course in courses]


def _findings(course: Course, looked_at: Callable[[Course, Material], None]) -> Iterator[Finding]:
    seen: dict[bytes, str] = {}
    folder = course.shown_as.rpartition("/")[0]
    for file in course.material:
        problem = text.problem(file) or _again(file, seen)
        looked_at(course, file)
        if problem is not None:
            yield Finding(f"{folder}/{FOLDER}/{file.name}", 0, 0, "", None, *problem)


def _again(file: Material, seen: dict[bytes, str]) -> tuple[str, str] | None:
    """The chat takes no text twice into one course."""
    with file.path.open("rb") as opened:
        other = seen.setdefault(hashlib.file_digest(opened, "sha256").digest(), file.name)
    return None if other == file.name else (f"is the same as {other}", "remove one of the two")
