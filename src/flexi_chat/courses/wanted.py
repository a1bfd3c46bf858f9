"""What course bots there should be, what there is, and the difference. Standard library only; no input, no output.

Both sides have one shape, made of plain JSON (the admin's machine compares, too, and foretells):

    {"index": "nomic-embed-text:latest",           what the material is embedded with; only in what is wanted
     "models": {"llama3:8b": {"access": ACCESS, "hidden": false}},
     "courses": {"algorithms-1": {"title": "…", "bot": {"base_model_id": "…", "params": {…}, "meta": {…}},
                                  "access": ACCESS, "files": {"heaps.md": {"sha256": "…", "kind": "text/markdown"}}}}}

ACCESS is `{"everyone": bool, "groups": [name], "accounts": [mail]}`, sorted. What there is differs in this: `files` of
a course are a list of `{"name", "sha256", "index"}`; `knowledge` has the title and access of the indexed material; and
"absent" are those of the wanted accounts that the chat does not know (yet).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Json = Mapping[str, Any]
What = Literal[
    "show a model",
    "hide a model",
    "make the course",
    "remove the course",
    "change who may use it",
    "change the bot",
    "index",
    "index anew",
    "take out",
]


@dataclass(frozen=True)
class Step:
    """One thing that differs. `subject` is a file's or a model's name."""

    what: What
    course: str | None = None
    subject: str = ""

    @property
    def indexes(self) -> bool:
        return self.what in ("index", "index anew")

    def __str__(self) -> str:
        words = f"{self.what} {self.subject}".strip()
        return f"{self.course}: {words}" if self.course else words


def difference(wanted: Json, found: Json) -> list[Step]:
    """All steps from what is found to what is wanted; none where a converge would change nothing."""
    absent = set(found.get("absent", ()))
    steps: list[Step] = []
    models, shown = wanted["models"], found.get("models", {})
    for name in sorted(models):
        if name not in shown or not _same_model(models[name], shown[name], absent):
            steps.append(Step("show a model", subject=name))
    steps += [Step("hide a model", subject=name) for name in sorted(set(shown) - set(models))]
    courses, present = wanted["courses"], found.get("courses", {})
    steps += [Step("remove the course", name) for name in sorted(set(present) - set(courses))]
    for name in sorted(courses):
        steps += course_steps(name, courses[name], present.get(name), wanted["index"], absent)
    return steps


def course_steps(name: str, wanted: Json, found: Json | None, index: str, absent: set[str]) -> list[Step]:
    """The steps of one course; `found` None where there is nothing of it."""
    steps: list[Step] = []
    if found is None:
        steps.append(Step("make the course", name))
        found = {"bot": None, "access": None, "knowledge": None, "files": []}
    else:
        if not same_access(wanted["access"], found["access"], absent) or not same_access(
            wanted["access"], found["knowledge"]["access"], absent
        ):
            steps.append(Step("change who may use it", name))
        if found["bot"] != wanted["bot"] or any(
            title != wanted["title"] for title in (found["title"], found["knowledge"]["title"])
        ):
            steps.append(Step("change the bot", name))
    kept: set[str] = set()
    stale: set[str] = set()
    for file in found["files"]:
        same = wanted["files"].get(file["name"], {}).get("sha256") == file["sha256"] and file["index"] == index
        (kept if same and file["name"] not in kept else stale).add(file["name"])
    for file_name in sorted(wanted["files"]):
        if file_name not in kept:
            steps.append(Step("index anew" if file_name in stale else "index", name, file_name))
        elif file_name in stale:
            steps.append(Step("take out", name, file_name))
    steps += [Step("take out", name, file_name) for file_name in sorted(stale - set(wanted["files"]))]
    return steps


def embedded_anew(wanted: Json, found: Json) -> dict[str, int]:
    """Number of files by course, for courses with material that another embedding model indexed: none of it is found
    by what the wanted one makes of a question."""
    present = found.get("courses", {})
    return {
        name: len(course["files"])
        for name, course in sorted(wanted["courses"].items())
        if any(file["index"] != wanted["index"] for file in present.get(name, {}).get("files", ()))
    }


def same_access(wanted: Json, found: Json | None, absent: set[str]) -> bool:
    """Whether all get in who shall and can; who has no account yet cannot."""
    if found is None:
        return False
    accounts = [mail for mail in wanted["accounts"] if mail not in absent]
    return {**wanted, "accounts": accounts} == found


def _same_model(wanted: Json, found: Json, absent: set[str]) -> bool:
    return bool(wanted["hidden"] == found["hidden"]) and same_access(wanted["access"], found["access"], absent)
