"""Reading the courses folder: each folder in it that has a course.yaml is a course."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from flexi.configfile.document import Document, read_document
from flexi.configfile.findings import Finding, Problem, SiteError
from flexi.configfile.validate import findings, validate

from .material import FOLDER, Material, list_material
from .schema import CourseFile

FILE = "course.yaml"
EXAMPLE = "docs/chat/courses.md"


@dataclass(frozen=True)
class Course:
    """A course that was read and found fine."""

    folder: Path
    shown_as: str
    """How messages call its course.yaml."""
    content: CourseFile
    material: tuple[Material, ...]
    document: Document
    """Where each key of the file stands."""

    def finding(self, *path: str | int, reason: str, remedy: str, value: str | None = None) -> Finding:
        """A finding at a key of the file."""
        (found,) = findings([Problem(path, reason, remedy, value)], self.document)
        return found


def load_courses(folder: Path, shown_as: str) -> tuple[Course, ...]:
    """All courses in `folder`, by id. SiteError with every finding of all of them; nothing else is raised.

    `shown_as` is how messages call the folder. A folder that is itself one course is read as such.
    """
    _refuse_unreadable(folder, shown_as)
    found: list[Finding] = []
    courses: dict[str, Course] = {}
    for place, shown in _places(folder, shown_as):
        try:
            course = load_course(place, shown)
        except SiteError as error:
            found += error.findings
            continue
        other = courses.setdefault(course.content.id, course)
        if other is not course:
            reason = f"is the id of {other.shown_as} too"
            found.append(
                course.finding("id", reason=reason, remedy="give each course its own", value=course.content.id)
            )
    if not courses and not found:
        remedy = f"make a folder for each course, with a {FILE} in it ({EXAMPLE})"
        found.append(Finding(shown_as, 0, 0, "", None, "holds no course", remedy))
    if found:
        raise SiteError(found)
    return tuple(courses[name] for name in sorted(courses))


def _refuse_unreadable(folder: Path, shown_as: str) -> None:
    """SiteError where the folder is none, or nobody may look into it."""
    try:
        os.scandir(folder).close()
        return
    except (FileNotFoundError, NotADirectoryError):
        reason, remedy = "is no folder", "name the folder with the courses in it"
    except OSError as error:
        reason = f"cannot be read ({(error.strerror or 'no folder').lower()})"
        remedy = "check its name and permissions"
    raise SiteError([Finding(shown_as, 0, 0, "", None, reason, remedy)])


def _places(folder: Path, shown_as: str) -> list[tuple[Path, str]]:
    if os.path.lexists(folder / FILE):
        return [(folder, shown_as)]
    # A README beside the courses harms nobody.
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and os.path.isdir(path))
    return [(path, f"{shown_as}/{path.name}") for path in inside]


def load_course(folder: Path, shown_as: str) -> Course:
    """The course in `folder`. SiteError with every finding of its file and its material."""
    file = f"{shown_as}/{FILE}"
    found: list[Finding] = []
    content = None
    document = None
    try:
        document = read_document(folder / FILE, file, EXAMPLE)
        content = validate(CourseFile, document)
        found += findings(_contradictions(content), document)
    except SiteError as error:
        found += error.findings
    place = folder / FOLDER
    material: list[Material] = []
    if place.is_symlink() or not os.path.isdir(place):  # unlike Path.is_dir it takes a folder that is closed
        reason, remedy = "is no folder", f"make it, and put the course's texts there ({EXAMPLE})"
        found.append(Finding(f"{shown_as}/{FOLDER}", 0, 0, "", None, reason, remedy))
    else:
        material, wrong = list_material(place, f"{shown_as}/{FOLDER}")
        if not material and not wrong:
            wrong.append(
                Finding(f"{shown_as}/{FOLDER}", 0, 0, "", None, "holds no file", "put the course's texts there")
            )
        found += wrong
    if found or content is None or document is None:
        raise SiteError(found)
    return Course(folder, file, content, tuple(material), document)


def _contradictions(content: CourseFile) -> list[Problem]:
    access = content.access
    named = access.groups or access.accounts
    if not access.everyone and not named:
        remedy = "write groups, accounts, or everyone: true"
        return [Problem(("access",), "names nobody: no student would see the bot", remedy, at_key=True)]
    if access.everyone and named:
        remedy = "remove everyone, or the groups and accounts"
        return [Problem(("access", "everyone"), "stands beside groups or accounts", remedy, at_key=True)]
    problems = []
    for key, entries in (("groups", access.groups), ("accounts", access.accounts), ("questions", content.questions)):
        path = (key,) if key == "questions" else ("access", key)
        for index, entry in enumerate(entries):
            if entry in entries[:index]:
                problems.append(Problem((*path, index), "stands here twice", "remove one of the two", entry))
    return problems
