"""Model names: `host/namespace/model:tag` with defaults.

Sources: types/model/name.go, internal/modelref/modelref.go.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

_MISSING = "!MISSING!"
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}", re.ASCII)
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}", re.ASCII)
_MODEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}", re.ASCII)


class ModelRequiredError(ValueError):
    """No name was given at all."""


class InvalidNameError(ValueError):
    """A part of the name is missing or has a character that it may not have."""


class SourceConflictError(ValueError):
    """The name asks for both the local and the cloud model."""


@dataclass(frozen=True)
class Name:
    """A complete model name. `scheme` says how its registry is reached."""

    model: str
    tag: str = DEFAULT_TAG
    namespace: str = DEFAULT_NAMESPACE
    host: str = DEFAULT_HOST
    scheme: str = "https"

    def is_valid(self) -> bool:
        return bool(
            _HOST.fullmatch(self.host)
            and _NAMESPACE.fullmatch(self.namespace)
            and _MODEL.fullmatch(self.model)
            and _MODEL.fullmatch(self.tag)
        )

    def __str__(self) -> str:
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    def shortest(self) -> str:
        """The name as people see it: default host and namespace left out, the tag always there."""
        if self.host.lower() != DEFAULT_HOST:
            return str(self)
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"

    def path(self) -> PurePosixPath:
        """Where the manifest lies, below `manifests`."""
        return PurePosixPath(self.host, self.namespace, self.model, self.tag)

    def repository(self) -> str:
        return f"{self.namespace}/{self.model}"

    def base_url(self) -> str:
        return f"{self.scheme}://{self.host}"


def parse_name(text: str) -> Name:
    """The name with defaults filled in; it may be invalid (see `Name.is_valid`)."""
    rest, tag, scheme = text, "", ""
    if rest.rfind(":") > rest.rfind("/"):
        rest, tag = _cut_last(rest, ":")
    namespace = host = ""
    if "/" not in rest:
        model = rest
    else:
        rest, model = _cut_last(rest, "/")
        if "/" not in rest:
            namespace = rest
        else:
            rest, namespace = _cut_last(rest, "/")
            scheme, found, host = rest.partition("://")
            if not found:
                scheme, host = "", rest
    return Name(model, tag or DEFAULT_TAG, namespace or DEFAULT_NAMESPACE, host or DEFAULT_HOST, scheme or "https")


def parse_reference(text: str) -> Name:
    """A name that a client sent, `:local` suffix taken off; raises one of this module's errors."""
    text = text.strip()
    if not text:
        raise ModelRequiredError("model is required")
    base, source = _cut_source(text)
    if source and _cut_source(base)[1]:
        raise SourceConflictError(f'use either :local or :cloud, not both: "{text}"')
    name = parse_name(base)
    if not name.is_valid():
        raise InvalidNameError(f"unqualified name: {name}")
    return name


def is_cloud(text: str) -> bool:
    """Whether the client asks for a model in Ollama's cloud (`…:cloud`, `…-cloud`)."""
    return _cut_source(text.strip())[1] == "cloud"


def _cut_source(text: str) -> tuple[str, str]:
    base, colon, suffix = text.rpartition(":")
    if colon:
        lower = suffix.strip().lower()
        if lower in ("cloud", "local"):
            return base, lower
        if "/" not in suffix and lower.endswith("-cloud"):
            return text[: -len("-cloud")], "cloud"
    return text, ""


def _cut_last(text: str, separator: str) -> tuple[str, str]:
    before, _, after = text.rpartition(separator)
    return before or _MISSING, after or _MISSING
