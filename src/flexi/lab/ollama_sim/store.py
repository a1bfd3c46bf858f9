"""The model store: manifests and blobs under OLLAMA_MODELS, in the real one's layout.

Sources: manifest/{manifest,paths,layer}.go, server/{images,create,model}.go.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import catalogue, gguf, log
from .goformat import human_number
from .names import Name

_DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}")
_GRACE_SECONDS = 3600.0
"""Prune leaves younger blobs alone: another process may be writing them."""


@dataclass(frozen=True)
class Layer:
    media_type: str
    digest: str
    size: int

    def as_json(self) -> dict[str, object]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@dataclass(frozen=True)
class Manifest:
    name: Name
    path: Path
    digest: str
    """Hex SHA-256 of the manifest file, without a prefix."""
    modified_ns: int
    config: Layer
    layers: tuple[Layer, ...]

    @property
    def size(self) -> int:
        return sum(layer.size for layer in self.layers) + self.config.size


@dataclass(frozen=True)
class Model:
    """A model of the store, ready to be loaded."""

    manifest: Manifest
    path: Path
    """The blob with the weights."""
    config: Mapping[str, Any]
    values: Mapping[str, gguf.Value]
    template: str
    system: str
    license: tuple[str, ...]
    options: Mapping[str, Any]

    @property
    def name(self) -> Name:
        return self.manifest.name

    @property
    def key(self) -> str:
        """What tells runners apart: models that share their weights share a runner."""
        return str(self.path)

    @property
    def size(self) -> int:
        """For lists: as large as the real one, whose weights the header tells."""
        small = sum(layer.size for layer in self.manifest.layers if layer.media_type == catalogue.MEDIA_MODEL)
        weights = int(self.values.get(catalogue.WEIGHTS_KEY, small))
        return self.manifest.size - small + weights

    def architecture_value(self, key: str, default: int) -> int:
        architecture = self.values.get("general.architecture", "unknown")
        return int(self.values.get(f"{architecture}.{key}", default))

    @property
    def capabilities(self) -> tuple[str, ...]:
        architecture = self.values.get("general.architecture")
        found = ["embedding" if f"{architecture}.pooling_type" in self.values else "completion"]
        if f"{architecture}.vision.block_count" in self.values:
            found.append("vision")
        if ".Tools" in self.template:
            found.append("tools")
        if ".Suffix" in self.template:
            found.append("insert")
        return tuple(found)

    @property
    def sizes(self) -> dict[str, int]:
        """What versions from 0.30 add to the `details` of /api/tags (server/model_list_cache.go); none that is 0."""
        found = {key: self.architecture_value(key, 0) for key in ("context_length", "embedding_length")}
        return {key: value for key, value in found.items() if value}

    @property
    def details(self) -> dict[str, Any]:
        """The `details` object of lists (its parent_model is filled only by show)."""
        return {
            "parent_model": "",
            "format": self.config.get("model_format", ""),
            "family": self.config.get("model_family", ""),
            "families": self.config.get("model_families"),
            "parameter_size": self.config.get("model_type", ""),
            "quantization_level": self.config.get("file_type", ""),
        }


class DigestError(ValueError):
    """What stands where a digest should be is none."""


class Store:
    """One directory of models. Methods raise FileNotFoundError for what is not there, OSError for a broken disk."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def manifests_dir(self) -> Path:
        path = self.directory / "manifests"
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def blobs_dir(self) -> Path:
        path = self.directory / "blobs"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def blob_path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise DigestError("invalid digest format")
        return self.blobs_dir / digest.replace(":", "-")

    def read_manifest(self, name: Name) -> Manifest:
        return self._read(name, self.manifests_dir / name.path())

    def manifests(self) -> list[Manifest]:
        """Every readable manifest; broken ones are logged and left out."""
        found = []
        for path in sorted(self.manifests_dir.glob("*/*/*/*")):
            if path.is_dir():
                continue
            host, namespace, model, tag = path.relative_to(self.manifests_dir).parts
            name = Name(model, tag, namespace, host)
            if not name.is_valid():
                log.warn("bad manifest name", path=path.relative_to(self.manifests_dir))
                continue
            try:
                found.append(self._read(name, path))
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warn("bad manifest", name=name, error=error)
        return found

    def existing(self, name: Name) -> Name:
        """The name in the spelling (upper and lower case) that the store has for its parts."""
        parts = {"host": name.host, "namespace": name.namespace, "model": name.model, "tag": name.tag}
        for manifest in self.manifests():
            for part, wanted in parts.items():
                have: str = getattr(manifest.name, part)
                if have.lower() == wanted.lower():
                    parts[part] = have
        return Name(parts["model"], parts["tag"], parts["namespace"], parts["host"], name.scheme)

    def model(self, name: Name) -> Model:
        manifest = self.read_manifest(name)
        config: Mapping[str, Any] = json.loads(self.blob_path(manifest.config.digest).read_bytes())
        path: Path | None = None
        template, system, licenses = "", "", []
        options: Mapping[str, Any] = {}
        for layer in manifest.layers:
            blob = self.blob_path(layer.digest)
            if layer.media_type == catalogue.MEDIA_MODEL:
                path = blob
            elif layer.media_type == catalogue.MEDIA_TEMPLATE:
                template = blob.read_text()
            elif layer.media_type == catalogue.MEDIA_SYSTEM:
                system = blob.read_text()
            elif layer.media_type == catalogue.MEDIA_LICENSE:
                licenses.append(blob.read_text())
            elif layer.media_type == catalogue.MEDIA_PARAMS:
                options = json.loads(blob.read_bytes())
        if path is None:
            raise gguf.GgufError("no weights in the manifest")
        with path.open("rb") as file:
            values = gguf.read(file)
        return Model(manifest, path, config, values, template, system, tuple(licenses), options)

    def write_manifest(self, name: Name, data: bytes) -> None:
        path = self.manifests_dir / name.path()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def add_layer(self, data: bytes, media_type: str) -> tuple[Layer, str]:
        """Put `data` into the blobs; the layer and the status line that `create` shows."""
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        path = self.blob_path(digest)
        status = "using existing layer"
        if not path.exists():
            status = "creating new layer"
            with tempfile.NamedTemporaryFile(dir=self.blobs_dir, prefix="sha256-", delete=False) as file:
                file.write(data)
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        return Layer(media_type, digest, len(data)), f"{status} {digest}"

    def copy(self, source: Name, destination: Name) -> None:
        """Only the manifest is copied; the blobs are shared."""
        data = (self.manifests_dir / source.path()).read_bytes()
        if source.path() != destination.path():
            self.write_manifest(destination, data)

    def delete(self, name: Name) -> None:
        manifest = self.read_manifest(name)
        manifest.path.unlink()
        _remove_empty(self.manifests_dir)
        self.remove_unused(layer.digest for layer in (*manifest.layers, manifest.config))

    def remove_unused(self, digests: Any) -> None:
        """Delete those of `digests` that no manifest needs any more."""
        used = {layer.digest for m in self.manifests() for layer in (*m.layers, m.config)}
        for digest in set(digests) - used:
            self.blob_path(digest).unlink(missing_ok=True)

    def create(
        self, name: Name, source: Name, *, template: str, system: str, license: str, parameters: Mapping[str, Any]
    ) -> list[str]:
        """A new model from one of the store with some layers replaced; the status lines that `create` shows."""
        base = self.read_manifest(source)
        base_model = self.model(source)
        layers = list(base.layers)
        statuses = {layer.digest: f"using existing layer {layer.digest}" for layer in layers}
        merged = {**base_model.options, **parameters}
        for media, text in (
            (catalogue.MEDIA_TEMPLATE, template),
            (catalogue.MEDIA_SYSTEM, system),
            (catalogue.MEDIA_PARAMS, json.dumps(merged) if parameters else ""),
            (catalogue.MEDIA_LICENSE, license),
        ):
            if text:
                if media != catalogue.MEDIA_LICENSE:
                    layers = [layer for layer in layers if layer.media_type != media]
                layer, status = self.add_layer(text.encode(), media)
                layers.append(layer)
                statuses[layer.digest] = status
        config = {**base_model.config, "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]}}
        config.setdefault("model_type", human_number(int(base_model.values.get("general.parameter_count", 0))))
        config_layer, _ = self.add_layer(json.dumps(config).encode(), catalogue.MEDIA_CONFIG)
        old: list[str] = []
        try:
            previous = self.read_manifest(name)
            old = [layer.digest for layer in (*previous.layers, previous.config)]
        except FileNotFoundError:
            pass
        document = {
            "schemaVersion": 2,
            "mediaType": catalogue.MEDIA_MANIFEST,
            "config": config_layer.as_json(),
            "layers": [layer.as_json() for layer in layers],
        }
        self.write_manifest(name, (json.dumps(document) + "\n").encode())
        self.remove_unused(old)
        return [statuses[layer.digest] for layer in layers]

    def prune(self) -> None:
        """At start: delete blobs that no manifest names and leftovers of downloads, both only when they are old."""
        horizon = time.time() - _GRACE_SECONDS
        candidates = []
        for path in self.blobs_dir.iterdir():
            if path.is_dir() or path.stat().st_mtime > horizon:
                continue
            digest = path.name.replace("-", ":")
            if _DIGEST.fullmatch(digest):
                candidates.append(digest)
            else:
                path.unlink()
        log.info(f"total blobs: {len(candidates)}")
        before = len(candidates)
        self.remove_unused(candidates)
        left = sum(1 for digest in candidates if self.blob_path(digest).exists())
        log.info(f"total unused blobs removed: {before - left}")
        _remove_empty(self.manifests_dir)

    def _read(self, name: Name, path: Path) -> Manifest:
        data = path.read_bytes()
        document = json.loads(data)

        def layer(entry: Mapping[str, Any]) -> Layer:
            return Layer(str(entry["mediaType"]), str(entry["digest"]), int(entry["size"]))

        return Manifest(
            name,
            path,
            hashlib.sha256(data).hexdigest(),
            path.stat().st_mtime_ns,
            layer(document["config"]),
            tuple(layer(entry) for entry in document["layers"] or ()),
        )


def _remove_empty(directory: Path) -> None:
    """Remove empty directories below `directory`, deepest first."""
    for path in sorted((p for p in directory.rglob("*") if p.is_dir()), reverse=True):
        if not any(path.iterdir()):
            path.rmdir()
