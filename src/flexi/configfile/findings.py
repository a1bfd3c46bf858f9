"""What is wrong with a file, said so that a person can mend it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_SHOWN = 60
_LISTED = 50


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: where, what stands there, why that cannot be, and what to do.

    `line` and `column` count from 1; 0 means the file as a whole. `path` is dotted (`hosts.server-a.groups.a.gpus`).
    """

    file: str
    line: int
    column: int
    path: str
    value: str | None
    reason: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        subject = ": ".join(part for part in (self.path, self.value) if part)
        return f"{where}: {subject + ' ' if subject else ''}{self.reason}; {self.remedy}"


class SiteError(Exception):
    """A site file that cannot be used, with all findings of the file in the order of its lines."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        in_order = sorted(set(findings), key=lambda f: (f.file, f.line, f.column, f.path, f.reason))
        self.findings: tuple[Finding, ...] = tuple(in_order)
        lines = [str(finding) for finding in self.findings[:_LISTED]]
        if len(self.findings) > _LISTED:
            lines.append(f"and {len(self.findings) - _LISTED} more findings")
        super().__init__("\n".join(lines))


@dataclass(frozen=True)
class Problem:
    """A finding that does not know its line yet: `path` leads there in the document."""

    path: tuple[str | int, ...]
    reason: str
    remedy: str
    value: str | None = None
    at_key: bool = False
    """Point to the key and not to what it holds."""


def shown(value: object) -> str:
    """`value` as it may stand in a message: short, on one line, printable."""
    text = repr(value) if isinstance(value, str) else str(value)
    text = re.sub(r"//.*@", "//…@", text)  # what stands there in an address is a password
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def nearest(word: object, known: Sequence[str]) -> str | None:
    """The known spelling that is closest to `word`, or None where nothing is close."""
    if not isinstance(word, str):
        return None
    folded = {name.lower(): name for name in reversed(known)}
    close = difflib.get_close_matches(word.lower(), list(folded), n=1, cutoff=0.55)
    if close:
        return folded[close[0]]
    starts = [name for name in known if word and name.lower().startswith(word.lower())]
    return starts[0] if len(starts) == 1 else None


def suggestion(word: object, known: Sequence[str], what: str = "one of") -> str:
    """`did you mean 'x'?`, or all that is known where nothing is close."""
    close = nearest(word, known)
    if close is not None:
        return f"did you mean '{close}'?"
    return f"write {what} {', '.join(known)}"
