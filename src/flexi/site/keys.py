"""The consumers' keys file beside the site file: `lab.yaml` has `lab.keys.json`. It holds digests, never keys."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from flexi.plan.model import ConsumerKey

from . import names
from .document import parse_document, read_text
from .findings import Problem, SiteError, shown
from .validate import findings, validate

MAX_BYTES = 1024 * 1024


class _Consumer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: Annotated[str, AfterValidator(names.consumer_name)]
    sha256: Annotated[str, AfterValidator(names.sha256)]
    created: str | None = None


class _KeysFile(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    consumers: list[_Consumer]


def keys_path(site_file: FilePath) -> FilePath:
    return site_file.with_suffix(".keys.json")


def load_consumers(site_file: FilePath, shown_as: str) -> tuple[ConsumerKey, ...]:
    """Consumers of the site; none where there is no keys file. SiteError with its findings."""
    path = keys_path(site_file)
    if not path.exists():
        return ()
    # JSON is YAML, and read as such the findings have lines.
    document = parse_document(read_text(path, shown_as, MAX_BYTES), shown_as)
    content = validate(_KeysFile, document)
    problems = []
    seen: dict[str, int] = {}
    digests: dict[str, str] = {}
    for index, consumer in enumerate(content.consumers):
        if consumer.name in seen:
            path_ = ("consumers", index, "name")
            problems.append(Problem(path_, "stands here twice", "remove one of the two", shown(consumer.name)))
        if consumer.sha256 in digests:
            reason = f"is the key of {digests[consumer.sha256]} too"
            problems.append(Problem(("consumers", index, "sha256"), reason, "give each consumer its own key"))
        seen[consumer.name] = index
        digests.setdefault(consumer.sha256, consumer.name)
    if problems:
        raise SiteError(findings(problems, document))
    return tuple(ConsumerKey(name=c.name, sha256=c.sha256) for c in content.consumers)
