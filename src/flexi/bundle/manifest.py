"""bundle.json: what a bundle was made for, and every file with its digest. SHA256SUMS beside it is for people."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from flexi.errors import FlexiError
from flexi.plan.build.needs import package_set, set_name
from flexi.plan.model.site import HostPlan, Plan

from .models import parse_name

NAME = "bundle.json"
SUMS = "SHA256SUMS"
SCHEMA = 1
PARTS = ("apt", "ollama", "models")
_PATH = re.compile(r"(?!.*(^|/)\.\.?(/|$))[A-Za-z0-9_][A-Za-z0-9._+~:/-]*", re.ASCII)
"""Of a file in a bundle: nothing that a shell or another directory could make something else of."""


@dataclass(frozen=True)
class File:
    sha256: str
    size: int


@dataclass(frozen=True)
class Repository:
    """The packages of one package set: an index of its own, files that sets of a platform share."""

    platform: str
    packages: tuple[str, ...]
    kernels: tuple[str, ...]
    """Releases of those that it has the driver's modules for."""
    files: tuple[str, ...]


@dataclass(frozen=True)
class Model:
    """A model's manifest and its blobs, as paths."""

    manifest: str
    blobs: tuple[str, ...]

    @property
    def files(self) -> tuple[str, ...]:
        return (self.manifest, *self.blobs)


@dataclass(frozen=True)
class Release:
    """Ollama's archive and the list with its digest, as paths."""

    archive: str
    sums: str

    @property
    def files(self) -> tuple[str, ...]:
        return (self.archive, self.sums)


@dataclass
class Manifest:
    """What a bundle holds. Paths are relative to it."""

    apt: dict[str, Repository] = field(default_factory=dict)
    """By the name of the package set."""
    ollama: dict[str, Release] = field(default_factory=dict)
    """By version."""
    models: dict[str, Model] = field(default_factory=dict)
    """By name, in small letters."""
    files: dict[str, File] = field(default_factory=dict)

    def of_host(self, host: HostPlan, parts: Sequence[str] = PARTS) -> dict[str, File]:
        """The files that the host's plan uses, of those parts that the bundle was made for."""
        paths: list[str] = []
        if "apt" in parts and (repository := self.apt.get(set_name(package_set(host)))):
            paths += repository.files
        if host.ollama and "ollama" in parts and (release := self.ollama.get(host.ollama.version)):
            paths += release.files
        for instance in host.ollama.instances if host.ollama and "models" in parts else ():
            for model in instance.models:
                if found := self.models.get(model.name.lower()):
                    paths += found.files
        return {path: self.files[path] for path in dict.fromkeys(paths)}

    def lacks(self, plan: Plan, parts: Sequence[str] = PARTS) -> list[str]:
        """What of a plan this bundle was not made for, in words."""
        found = []
        for host in plan.hosts:
            packages = package_set(host)
            if "apt" in parts and set_name(packages) not in self.apt:
                found.append(f"packages of {host.name} ({host.platform}: {', '.join(packages.packages)})")
            if host.ollama is None:
                continue
            if "ollama" in parts and host.ollama.version not in self.ollama:
                found.append(f"Ollama {host.ollama.version}")
            if "ollama" in parts and host.ollama.sha256 is not None:
                have = self.archive(host.ollama.version)
                if have is not None and have.sha256 != host.ollama.sha256:
                    found.append(f"Ollama {host.ollama.version} with the SHA-256 {host.ollama.sha256}")
            for instance in host.ollama.instances:
                for model in instance.models if "models" in parts else ():
                    if model.name.lower() not in self.models:
                        found.append(f"model {model.name}")
        return list(dict.fromkeys(found))

    def archive(self, version: str) -> File | None:
        """Ollama's archive of that version."""
        release = self.ollama.get(version)
        return self.files[release.archive] if release else None

    def named(self) -> set[str]:
        """Every file that belongs to something in here."""
        paths = {path for repository in self.apt.values() for path in repository.files}
        paths |= {path for release in self.ollama.values() for path in release.files}
        return paths | {path for model in self.models.values() for path in model.files}


def manifest_path(model: str) -> str:
    """Of a model's manifest in a bundle: under the name that clients say, wherever it was pulled from."""
    return parse_name(model).path


def read(folder: Path) -> Manifest:
    """The bundle's manifest, an empty one where there is none. FlexiError where it cannot be understood."""
    path = folder / NAME
    if not path.exists():
        return Manifest()
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            raise FlexiError(f"{path} was written by another version of flexi: make the bundle anew")
        manifest = Manifest(
            apt={
                name: Repository(
                    entry["platform"], tuple(entry["packages"]), tuple(entry["kernels"]), tuple(entry["files"])
                )
                for name, entry in document["apt"].items()
            },
            ollama={
                version: Release(str(entry["archive"]), str(entry["sums"]))
                for version, entry in document["ollama"].items()
            },
            models={
                name: Model(entry["manifest"], tuple(entry["blobs"])) for name, entry in document["models"].items()
            },
            files={name: File(str(entry["sha256"]), int(entry["size"])) for name, entry in document["files"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FlexiError(f"{path} cannot be read as a bundle's list of files ({error}): make the bundle anew") from None
    if lost := manifest.named() - set(manifest.files):
        raise FlexiError(f"{path} has no digest of {min(lost)}: make the bundle anew")
    for name, file in manifest.files.items():
        if not _PATH.fullmatch(name) or not re.fullmatch(r"[0-9a-f]{64}", file.sha256):
            raise FlexiError(f"{path} names a file {name!r} that no bundle has: make the bundle anew")
    return manifest


def write(folder: Path, manifest: Manifest) -> None:
    """Put the manifest and SHA256SUMS into the folder; each is whole or as it was, whatever ends this."""
    document = {"schema": SCHEMA, **asdict(manifest)}
    _replace(folder / SUMS, "".join(f"{file.sha256}  {path}\n" for path, file in sorted(manifest.files.items())))
    _replace(folder / NAME, json.dumps(document, indent=1, sort_keys=True) + "\n")


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(path.name + ".new")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
