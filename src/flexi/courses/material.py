"""The files of a course: which there are, and which cannot be material. Looks at names and sizes, opens nothing."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flexi.configfile.findings import Finding, shown

FOLDER = "material"
KINDS = {
    ".pdf": "application/pdf",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".html": "text/html",
    ".htm": "text/html",
    ".txt": "text/plain",
}
"""What the chat can read without more programs, by the end of its name: the media type that the chat is told."""
MAX_FILE = 100 * 1024 * 1024
"""Bytes. The chat holds a file whole in its memory, and its text again (open_webui/routers/files.py, 0.12.4)."""
MAX_FILES = 2000
"""Of one course. Far more than a course has; it bounds what a wrong folder would do."""
MAX_NAME = 200
"""Bytes of a name in UTF-8. File systems end at 255, and the chat puts 37 before it."""
Refuse = Callable[[Path, str, str], None]
"""Takes the path of what is wrong, reason and remedy."""
_NOT_MEANT = ("thumbs.db", "desktop.ini")
"""What desktops leave in folders, beside names that begin with a dot or `~$`."""


@dataclass(frozen=True)
class Material:
    """One file of a course."""

    name: str
    """Its path below `material/`, with `/`, in Unicode's composed form (NFC)."""
    path: Path
    size: int
    """Bytes."""

    @property
    def kind(self) -> str:
        """Media type."""
        return KINDS[Path(self.name).suffix.lower()]


def list_material(folder: Path, shown_as: str) -> tuple[list[Material], list[Finding]]:
    """The files below `folder`, by name, and what is wrong with others. Links are never followed."""
    files: dict[str, Material] = {}
    findings: list[Finding] = []

    def refuse(path: Path, reason: str, remedy: str) -> None:
        place = "".join(char if char.isprintable() else "?" for char in f"{shown_as}/{path.relative_to(folder)}")
        findings.append(Finding(place.encode(errors="replace").decode(), 0, 0, "", None, reason, remedy))

    for path, found in _walk(folder, refuse):
        relative = unicodedata.normalize("NFC", path.relative_to(folder).as_posix())
        problem = _problem(path, found, relative)
        if problem is not None:
            refuse(path, *problem)
        elif relative.casefold() in files:
            other = files[relative.casefold()].name
            refuse(path, f"has the same name as {shown(other)} but for capitals or accents", "rename one of the two")
        else:
            files[relative.casefold()] = Material(relative, path, found.st_size)
    if len(files) > MAX_FILES:
        refuse(folder, f"holds {len(files)} files", f"keep to {MAX_FILES}: is it the right folder?")
    return sorted(files.values(), key=lambda file: file.name), findings


def _walk(folder: Path, refuse: Refuse) -> Iterator[tuple[Path, os.stat_result]]:
    """Everything that is no directory and was meant, in the order of names."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        refuse(folder, f"cannot be read ({(error.strerror or 'no folder').lower()})", "check its permissions")
        return
    for entry in entries:
        path = Path(entry.path)
        if entry.name.startswith((".", "~$")) or entry.name.lower() in _NOT_MEANT:
            continue
        found = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            yield from _walk(path, refuse)
        else:
            yield path, found


def _problem(path: Path, found: os.stat_result, relative: str) -> tuple[str, str] | None:
    """Reason and remedy why a file cannot be material; None where it can."""
    if stat.S_ISLNK(found.st_mode):
        return "is a link, which could lead anywhere", "put the file itself there"
    if not stat.S_ISREG(found.st_mode):
        return "is no regular file", "remove it"
    try:
        name = path.name.encode()
    except UnicodeEncodeError:
        return "has a name that is not UTF-8", "rename it"
    if not relative.isprintable():
        return "has a name with control characters", "rename it"
    if len(name) > MAX_NAME:
        return f"has a name of more than {MAX_NAME} bytes", "shorten it"
    if path.suffix.lower() not in KINDS:
        return "is no kind of file that the chat can read", f"save it as one of {', '.join(KINDS)}, or remove it"
    if found.st_size == 0:
        return "is empty", "remove it"
    if found.st_size > MAX_FILE:
        return f"has more than {MAX_FILE // 2**20} MiB", "split it, or leave out its pictures"
    if not os.access(path, os.R_OK):
        return "cannot be read (permission denied)", "check its permissions"
    return None
