"""`flexi bundle`: everything that a site's hosts would ask the internet for, in one folder, each file checked.

A run that was killed anywhere is continued by the next: whole files are known by their digest, half ones go on.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.filesize import decimal

from flexi.catalog.platforms import OLLAMA_ARCHIVE
from flexi.errors import FlexiError, InputError
from flexi.plan.build.needs import package_set, set_name
from flexi.plan.model.ollama import ModelOnInstance, OllamaPlan
from flexi.plan.model.site import HostPlan, Plan
from flexi.terminal.bars import Bars

from . import download, manifest, models, packages, release, sources
from .checking import Checked, wrong_files
from .manifest import File, Model, Release, Repository

WORK = ".work"
STREAMS = 4
"""Files that come at once."""
RESERVE = 256 * 1024 * 1024
"""Bytes that stay free on the bundle's disk."""


@dataclass
class Summary:
    """What a run did. Sizes in bytes."""

    folder: Path
    parts: tuple[str, ...]
    files: int = 0
    bytes: int = 0
    fetched_files: int = 0
    fetched_bytes: int = 0
    mended: list[str] = field(default_factory=list)
    """Files that were there and wrong, and were fetched anew."""
    seconds: float = 0.0


def make(
    plan: Plan,
    folder: Path,
    parts: Sequence[str],
    own_sources: Mapping[str, Path],
    *,
    bars: Bars,
    kernels: Sequence[str] = (),
    renew: bool = False,
) -> Summary:
    """Make the bundle of `plan` in `folder`, or check and complete the one that is there.

    `parts` of apt, ollama, models. `own_sources`: platform to a deb822 file. `kernels`: releases beside the newest that
    the driver gets modules for. What the bundle was already made for is
    checked and not asked for again, unless `renew` says that it may have become newer.

    Raises:
        InputError: the folder cannot be used, or no sources are known for a platform.
        FlexiError: something cannot be had; what came stays.
    """
    begin = time.monotonic()
    with _locked(folder):
        bundle = _Bundle(folder, bars, Summary(folder, tuple(parts)))
        bundle.look(plan, renew=renew)
        units: list[_Unit] = []
        if "ollama" in parts:
            units += _releases(plan, bundle)
        if "models" in parts:
            units += _models(plan, bundle)
        if "apt" in parts:
            units += _packages(plan, bundle, own_sources, kernels)
        _need_room(folder, sum(unit.missing_bytes() for unit in units))
        bundle.fetch_all({one.path: one for unit in units for one in unit.fetches}.values())
        for unit in units:
            unit.finish()
            bundle.write()
        bundle.close(plan)
        bundle.summary.seconds = time.monotonic() - begin
    return bundle.summary


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise InputError(f"{folder} cannot be written to ({error.strerror}): give another folder with --to") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"another flexi bundle is at work in {folder}") from None
        yield


def _need_room(folder: Path, missing: int) -> None:
    free = shutil.disk_usage(folder).free
    if missing and missing + RESERVE > free:
        raise FlexiError(
            f"{folder} needs {decimal(missing)} more and has {decimal(free)} free: nothing was fetched. "
            "Make room, or give a folder on another disk with --to"
        )


@dataclass(frozen=True)
class _Fetch:
    """A file that is still to come, at `path` of the bundle."""

    path: str
    url: str
    sha256: str
    size: int | None


class _Bundle:
    """The folder while it is worked on."""

    def __init__(self, folder: Path, bars: Bars, summary: Summary) -> None:
        self.folder = folder
        self.bars = bars
        self.summary = summary
        self.manifest = manifest.read(folder)
        self._before = set(self.manifest.files)
        self._checked = Checked(folder)
        self._lock = threading.Lock()

    def look(self, plan: Plan, *, renew: bool) -> None:
        """Check every file that the plan uses; forget what is wrong, and with `renew` what could be newer."""
        files = self._of(plan)
        wrong = wrong_files(self.folder, files, self.bars, anew=True)
        self._checked = Checked(self.folder)
        for path, what in wrong.items():
            self.bars.line(f"{path} {what}: it is fetched anew")
            (self.folder / path).unlink(missing_ok=True)
            self.summary.mended.append(path)
        forgotten = set(files) if renew else set(wrong)
        have = self.manifest
        have.apt = {name: entry for name, entry in have.apt.items() if not forgotten & set(entry.files)}
        have.ollama = {
            version: release for version, release in have.ollama.items() if not forgotten & set(release.files)
        }
        have.models = {name: model for name, model in have.models.items() if not forgotten & set(model.files)}

    def is_there(self, one: _Fetch) -> bool:
        """Whether an earlier run brought the file. A wrong one is removed."""
        place = self.folder / one.path
        if place.is_file() and self._checked.digest(one.path, self.bars, anew=False) == one.sha256:
            return True
        place.unlink(missing_ok=True)
        return False

    def fetch_all(self, wanted: Iterable[_Fetch]) -> None:
        """Several at once; the first that fails ends all of them."""
        with ThreadPoolExecutor(STREAMS) as pool:
            running = [pool.submit(self._fetch, one) for one in wanted]
            try:
                for one in as_completed(running):
                    one.result()
            except BaseException:
                self.bars.stopped = True
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _fetch(self, one: _Fetch) -> None:
        target = self.folder / one.path
        part = download.part_of(target)
        before = part.stat().st_size if part.exists() else 0
        bar = self.bars.bar(one.path, one.size)
        download.fetch(one.url, target, sha256=one.sha256, size=one.size, bar=bar)
        bar.finished("fetched")
        with self._lock:
            self._checked.remember(one.path, one.sha256)
            self.summary.fetched_files += 1
            self.summary.fetched_bytes += target.stat().st_size - before

    def put(self, path: str, data: bytes) -> None:
        """Write a small file."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(target.name + ".new")
        draft.write_bytes(data)
        draft.replace(target)

    def list(self, paths: Sequence[str]) -> None:
        """Take files that are whole into the manifest."""
        for path in paths:
            digest = self._checked.digest(path, self.bars, anew=False)
            assert digest is not None, path
            self.manifest.files[path] = File(digest, (self.folder / path).stat().st_size)

    def write(self) -> None:
        manifest.write(self.folder, self.manifest)
        self._checked.save()

    def close(self, plan: Plan) -> None:
        """Remove what the last manifest named and this one does not, and what only this run needed."""
        named = self.manifest.named()
        self.manifest.files = {path: file for path, file in self.manifest.files.items() if path in named}
        self.write()
        for path in self._before - named:
            (self.folder / path).unlink(missing_ok=True)
        shutil.rmtree(self.folder / WORK, ignore_errors=True)
        files = self._of(plan)
        self.summary.files = len(files)
        self.summary.bytes = sum(file.size for file in files.values())

    def _of(self, plan: Plan) -> dict[str, File]:
        parts = self.summary.parts
        return {path: file for host in plan.hosts for path, file in self.manifest.of_host(host, parts).items()}


class _Unit(ABC):
    """Something that the bundle gets as a whole: `fetches` first, then `finish`."""

    fetches: Sequence[_Fetch] = ()

    def __init__(self, bundle: _Bundle) -> None:
        self.bundle = bundle

    def missing_bytes(self) -> int:
        """That are still to come, as far as anybody knows."""
        parts = (download.part_of(self.bundle.folder / one.path) for one in self.fetches)
        there = sum(part.stat().st_size for part in parts if part.exists())
        return max(0, sum(one.size or 0 for one in self.fetches) - there)

    @abstractmethod
    def finish(self) -> None:
        """What follows the last of `fetches`."""


class _Release(_Unit):
    def __init__(self, bundle: _Bundle, plan: OllamaPlan) -> None:
        super().__init__(bundle)
        self._version = plan.version
        self._archive = f"ollama/v{plan.version}/{OLLAMA_ARCHIVE}"
        self._digest = release.digest(plan)
        local = release.local_archive(plan)
        size = local.stat().st_size if local and local.exists() else download.size(plan.archive_url)
        wanted = _Fetch(self._archive, plan.archive_url, self._digest, size)
        self.fetches = [] if bundle.is_there(wanted) else [wanted]

    def finish(self) -> None:
        sums = f"ollama/v{self._version}/{release.SUMS}"
        self.bundle.put(sums, f"{self._digest}  ./{OLLAMA_ARCHIVE}\n".encode())
        self.bundle.list([self._archive, sums])
        self.bundle.manifest.ollama[self._version] = Release(self._archive, sums)


def _releases(plan: Plan, bundle: _Bundle) -> list[_Unit]:
    wanted: dict[str, OllamaPlan] = {}
    for host in plan.hosts:
        if host.ollama is None:
            continue
        have = bundle.manifest.archive(host.ollama.version)
        if have is None or host.ollama.sha256 not in (None, have.sha256):
            wanted[host.ollama.version] = host.ollama
    return [_Release(bundle, one) for one in wanted.values()]


class _Model(_Unit):
    def __init__(self, bundle: _Bundle, model: ModelOnInstance) -> None:
        super().__init__(bundle)
        self._name = model.name.lower()
        self._path = manifest.manifest_path(model.name)
        self._data, blobs = models.manifest(model)
        self._blobs = [blob.path for blob in blobs]
        wanted = (_Fetch(blob.path, blob.url, blob.sha256, blob.size) for blob in blobs)
        missing = [one for one in wanted if not bundle.is_there(one)]
        # As Ollama's client: what counts is what the server will send (server/download.go, Prepare).
        self.fetches = [replace(one, size=download.size(one.url) or one.size) for one in missing]

    def finish(self) -> None:
        self.bundle.put(self._path, self._data)
        self.bundle.list([self._path, *self._blobs])
        self.bundle.manifest.models[self._name] = Model(self._path, tuple(self._blobs))


def _models(plan: Plan, bundle: _Bundle) -> list[_Unit]:
    wanted: dict[str, ModelOnInstance] = {}
    for instance in plan.instances:
        for model in instance.models:
            if model.name.lower() not in bundle.manifest.models:
                wanted.setdefault(model.name.lower(), model)
    return [_Model(bundle, model) for model in wanted.values()]


class _Packages(_Unit):
    def __init__(
        self, bundle: _Bundle, host: HostPlan, own_sources: Mapping[str, Path], kernels: Sequence[str]
    ) -> None:
        super().__init__(bundle)
        self._set = package_set(host)
        self._name = set_name(self._set)
        self._repository = f"apt/{host.platform}"
        self._what = f"packages for {host.platform}"
        root = bundle.folder / WORK / "apt" / self._name
        pins = (*self._set.pins, *(host.cuda.pins if host.cuda else ()))
        self._apt = packages.PrivateApt(root, sources.of_host(host, own_sources, root), pins)
        bundle.bars.line(f"{self._what}: reading the repositories")
        self._apt.update()
        self._kernels = packages.kernels(self._apt, host.driver, kernels) if host.driver else []
        modules = [host.driver.module_package.format(release=r) for r in self._kernels] if host.driver else []
        self._wanted = [*self._set.packages, *modules]
        self._debs = self._apt.choose(self._wanted)
        pool = bundle.folder / self._repository / "pool"
        for deb in self._debs:
            # apt takes what an earlier run brought, after a look at its digest.
            known, place = pool / deb.file_name, self._apt.archives / deb.name
            if known.is_file() and not place.exists():
                place.hardlink_to(known)

    def missing_bytes(self) -> int:
        return sum(deb.size for deb in self._debs if not (self._apt.archives / deb.name).exists())

    def finish(self) -> None:
        missing = self.missing_bytes()
        came = sum(not (self._apt.archives / deb.name).exists() for deb in self._debs)
        if missing:
            self._apt.fetch(self._wanted, self._debs, self.bundle.bars, self._what)
        repository = self.bundle.folder / self._repository
        (repository / "pool").mkdir(parents=True, exist_ok=True)
        for deb in self._debs:
            (self._apt.archives / deb.name).replace(repository / "pool" / deb.file_name)
        debs = [f"pool/{deb.file_name}" for deb in self._debs]
        indexes = packages.index(repository, self._name, debs)
        files = [f"{self._repository}/{path}" for path in (*indexes, *debs)]
        self.bundle.list(files)
        self.bundle.manifest.apt[self._name] = Repository(
            self._set.platform, self._set.packages, tuple(self._kernels), tuple(files)
        )
        self.bundle.summary.fetched_files += came
        self.bundle.summary.fetched_bytes += missing


def _packages(plan: Plan, bundle: _Bundle, own_sources: Mapping[str, Path], kernels: Sequence[str]) -> list[_Unit]:
    wanted = {}
    for host in plan.hosts:
        name = set_name(package_set(host))
        have = bundle.manifest.apt.get(name)
        if have is None or (host.driver and not set(kernels) <= set(have.kernels)):
            wanted[name] = host
    return [_Packages(bundle, host, own_sources, kernels) for host in wanted.values()]
