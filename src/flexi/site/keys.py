"""The consumers' keys file beside the site file: `lab.yaml` has `lab.keys.json`. It holds digests, never keys."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime
from pathlib import Path as FilePath
from typing import Annotated

from pydantic import AfterValidator, Field

from flexi.catalog.consumers import DEFAULT_CLASS
from flexi.configfile import names
from flexi.configfile.document import Document, Path, parse_document, read_text
from flexi.configfile.findings import Problem, SiteError, shown, suggestion
from flexi.configfile.section import Line, Section
from flexi.configfile.validate import findings, validate
from flexi.site.consumers import Consumer, Grant

MAX_BYTES = 1024 * 1024

Instant = Annotated[str, AfterValidator(names.instant)]
Digest = Annotated[str, AfterValidator(names.sha256)]


class PreviousKey(Section):
    """The key before the last rotation, while both are good."""

    sha256: Digest
    expires: Instant


class ConsumerEntry(Section):
    """A consumer as the keys file has it. Owner and purpose are for the admins: they never leave that file."""

    name: Annotated[str, AfterValidator(names.consumer_name)]
    class_name: Annotated[str, AfterValidator(names.class_name)] = Field(default=DEFAULT_CLASS, alias="class")
    owner: Line | None = None
    purpose: Line | None = None
    created: Instant | None = None
    """When the key was made, so the last rotation."""
    expires: Instant | None = None
    sha256: Digest
    previous: PreviousKey | None = None


class KeysFile(Section):
    consumers: list[ConsumerEntry]


def keys_path(site_file: FilePath) -> FilePath:
    return site_file.with_suffix(".keys.json")


def read_entries(site_file: FilePath, shown_as: str, classes: Collection[str]) -> tuple[ConsumerEntry, ...]:
    """What the keys file says; nothing where there is none. SiteError with its findings.

    `classes` are those that the site has.
    """
    path = keys_path(site_file)
    if not path.exists():
        return ()
    # JSON is YAML, and read as such the findings have lines.
    document = parse_document(read_text(path, shown_as, MAX_BYTES), shown_as)
    content = validate(KeysFile, document)
    _refuse_contradictions(content.consumers, classes, document)
    return tuple(content.consumers)


def consumers(entries: Collection[ConsumerEntry]) -> tuple[Consumer, ...]:
    """The entries as the plan has them."""
    return tuple(
        Consumer(name=entry.name, class_name=entry.class_name, grants=tuple(_grants(entry))) for entry in entries
    )


def _grants(entry: ConsumerEntry) -> Iterator[Grant]:
    yield Grant(sha256=entry.sha256, expires=seconds(entry.expires) if entry.expires else None)
    if entry.previous:
        yield Grant(sha256=entry.previous.sha256, expires=seconds(entry.previous.expires))


def seconds(instant: str) -> int:
    """Whole seconds since 1970 of an instant that `names.instant` let pass."""
    return int(datetime.fromisoformat(instant).timestamp())


def _refuse_contradictions(entries: list[ConsumerEntry], classes: Collection[str], document: Document) -> None:
    problems = []
    seen: set[str] = set()
    owners: dict[str, str] = {}
    for index, entry in enumerate(entries):
        here = ("consumers", index)
        if entry.name in seen:
            problems.append(Problem((*here, "name"), "stands here twice", "remove one of the two", shown(entry.name)))
        seen.add(entry.name)
        if entry.class_name not in classes:
            remedy = suggestion(entry.class_name, list(classes))
            reason = "is no class of the site (gateway.classes)"
            problems.append(Problem((*here, "class"), reason, remedy, shown(entry.class_name)))
        digests: list[tuple[Path, str]] = [((*here, "sha256"), entry.sha256)]
        if entry.previous:
            digests.append(((*here, "previous", "sha256"), entry.previous.sha256))
        for path, digest in digests:
            if digest in owners:
                reason = f"is the key of {owners[digest]} too"
                problems.append(Problem(path, reason, "give each consumer its own key"))
            owners.setdefault(digest, entry.name)
    if problems:
        raise SiteError(findings(problems, document))
