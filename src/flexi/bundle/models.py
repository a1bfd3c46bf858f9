"""Models as Ollama's client gets them from a registry, in the layout of Ollama's own models directory.

Requests and layout: server/images.go, server/download.go and types/model/name.go of Ollama v0.24.0. The manifest lies
there as it came, byte by byte: its digest is what /api/tags shows.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from flexi.errors import FlexiError
from flexi.plan.model.ollama import ModelOnInstance

from .download import MissingError, read

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DEFAULT_HOST = "registry.ollama.ai"
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Blob:
    sha256: str
    size: int
    url: str

    @property
    def path(self) -> str:
        """In the bundle."""
        return f"models/blobs/sha256-{self.sha256}"


@dataclass(frozen=True)
class Name:
    """A model's name with all of its parts."""

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def path(self) -> str:
        """Of its manifest, in the bundle."""
        return str(PurePosixPath("models/manifests", self.host, self.namespace, self.model, self.tag))


def parse_name(name: str) -> Name:
    """`llama3:8b` with what it leaves out; a port in the host is no tag."""
    front, _, last = name.rpartition("/")
    model, _, tag = last.partition(":")
    host, _, namespace = front.rpartition("/")
    return Name(host or DEFAULT_HOST, namespace or "library", model, tag or "latest")


def manifest(model: ModelOnInstance) -> tuple[bytes, list[Blob]]:
    """The model's manifest from where the plan pulls it, and the blobs that it names.

    FlexiError where the registry does not have the model, or answers with something else.
    """
    name = parse_name(model.source)
    base = f"{'http' if model.insecure else 'https'}://{name.host}/v2/{name.namespace}/{name.model}"
    url = f"{base}/manifests/{name.tag}"
    try:
        data = read(url, {"Accept": MANIFEST}, limit=1024 * 1024)
    except MissingError:
        raise FlexiError(f"{name.host} has no model {model.name}: see its name at the registry ({url})") from None
    try:
        document = json.loads(data)
        layers = [*document["layers"], *([document["config"]] if document["config"]["digest"] else [])]
        blobs = {str(layer["digest"]): int(layer["size"]) for layer in layers}
    except (ValueError, KeyError, TypeError):
        raise FlexiError(f"{url} is no manifest of a model: is this address a model registry?") from None
    found = []
    for digest, size in blobs.items():
        match = _DIGEST.fullmatch(digest)
        if match is None:
            raise FlexiError(f"{url} names a blob {digest!r}, which is no SHA-256")
        found.append(Blob(match.group(1), size, f"{base}/blobs/{digest}"))
    return data, found
