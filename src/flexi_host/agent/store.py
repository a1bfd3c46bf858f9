"""One copy of the weights on a host: a model of another store of this host, put into a group's own by hard links.

Layout after Ollama v0.24.0, the same in v0.32.15: `manifests/<host>/<namespace>/<model>/<tag>` (types/model/name.go
Filepath) names blobs by digest and size, `blobs/sha256-<hex>` holds them (manifest/paths.go BlobsPath). What makes
links safe beside running servers:
- Lists read the manifests' directory each time (server/routes.go ListHandler; from 0.30 on server/model_list_cache.go
  syncManifests, and server/model_inference_cache.go compares digests): a new manifest is seen without a restart.
- A blob is never written again under its name: downloads and layers are renamed into place (server/download.go,
  manifest/layer.go), and a blob that is there is not loaded again (downloadBlob).
- Deleting a model and clearing up at the start remove names (manifest/manifest.go RemoveLayers, server/images.go
  deleteUnusedLayers): the other stores keep theirs, and the disk is freed with the last one.
- Clearing up spares what is younger than an hour (server/images.go layerPruneGracePeriod): a blob is touched before it
  is linked, as Ollama touches a layer that it uses again (manifest/layer.go touchLayer), so the manifest can come last.
- A file in `manifests` whose name is none keeps Ollama from clearing up at all (server/routes.go Serve), so nothing
  temporary stands there. In `blobs` it clears up what has no digest for its name (server/images.go PruneLayers).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

CHUNK_BYTES = 8 * 2**20
MAX_MANIFEST_BYTES = 2**20
_FICLONE = 0x40049409
"""linux/fs.h: a copy that shares its blocks (XFS, Btrfs)."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_PART = re.compile(r"[\w.:-]+\Z", re.ASCII)

Tell = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) where a copy or a check takes its time."""


class StoreError(Exception):
    """A store cannot be used; the message says why in words."""


@dataclass(frozen=True)
class Source:
    """A store that may hold the model."""

    label: str
    """For people: `group a`, `the bundle`."""
    directory: Path
    """With `manifests` and `blobs`."""
    verified: bool
    """Ollama has compared the digests when it downloaded them; else that is done here."""


@dataclass(frozen=True)
class Blob:
    digest: str
    size: int

    def path(self, store: Path) -> Path:
        return store / "blobs" / self.digest.replace(":", "-")


@dataclass(frozen=True)
class _Found:
    manifest: bytes
    blobs: tuple[Blob, ...]


def manifest_path(model: str) -> Path:
    """Where the manifest of `model` lies below `manifests`; StoreError for what is no name of a model."""
    rest, colon, tag = model.rpartition(":")
    if not colon or "/" in tag:
        rest, tag = model, "latest"
    parts = rest.split("/")
    given = [("registry.ollama.ai", "library"), ("registry.ollama.ai",), ()]
    path = [*given[len(parts) - 1], *parts, tag] if len(parts) <= 3 else []
    if not path or any(not _PART.match(part) or part in (".", "..") for part in path):
        raise StoreError(f"{model!r} is no name of a model")
    return Path(*path)


def obtain(model: str, store: Path, sources: Sequence[Source], tell: Tell) -> str | None:
    """Put `model` into `store` from the first of `sources` that has all of it; its label, or None where none has.

    Interrupted at any point, `store` names the model wholly or not at all. StoreError and OSError where it cannot.
    """
    relative = manifest_path(model)
    with _alone(store):
        for source in sources:
            found = _find(source.directory, relative)
            if found is None:
                continue
            _place_blobs(found.blobs, source, store, tell)
            _write_manifest(store, relative, found.manifest)
            return source.label
    return None


def _find(store: Path, relative: Path) -> _Found | None:
    """The model in `store`, where every one of its blobs is there in its full size."""
    path = _whatever_case(store / "manifests", relative)
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            manifest = file.read(MAX_MANIFEST_BYTES)
        value = json.loads(manifest)
        entries = [value["config"], *(value["layers"] or ())]
        blobs = tuple(dict.fromkeys(Blob(entry["digest"], entry["size"]) for entry in entries))
    except (OSError, ValueError, TypeError, KeyError):
        return None  # gone, or being written at this moment
    for blob in blobs:
        if not isinstance(blob.digest, str) or not _DIGEST.match(blob.digest) or not _is_whole(blob, store):
            return None
    return _Found(manifest, blobs)


def _whatever_case(directory: Path, relative: Path) -> Path | None:
    """`directory/relative` in the spelling that it has there: Ollama compares names without case."""
    for part in relative.parts:
        if (directory / part).exists():
            directory = directory / part
            continue
        try:
            directory = next(child for child in directory.iterdir() if child.name.lower() == part.lower())
        except (OSError, StopIteration):
            return None
    return directory


def _is_whole(blob: Blob, store: Path) -> bool:
    """A regular file of the right size. A link out of the store is none: what it leads to may change."""
    try:
        status = blob.path(store).lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == blob.size


def _place_blobs(blobs: Sequence[Blob], source: Source, store: Path, tell: Tell) -> None:
    (store / "blobs").mkdir(parents=True, exist_ok=True)
    missing = [blob for blob in blobs if not _is_whole(blob, store)]
    total, done = sum(blob.size for blob in missing), 0

    def moved(count: int) -> None:
        nonlocal done
        done += count
        tell(done, total)

    for blob in missing:
        _place(blob, source, store, moved)
    for blob in blobs:
        with suppress(OSError):
            os.utime(blob.path(store))  # those that were here before may be old ones that nothing names


def _place(blob: Blob, source: Source, store: Path, moved: Callable[[int], None]) -> None:
    origin, target = blob.path(source.directory), blob.path(store)
    temporary = Path(f"{target}-flexi")  # no digest: Ollama clears it up should this program be killed
    temporary.unlink(missing_ok=True)
    try:
        if not source.verified:
            with origin.open("rb") as file:
                _check(blob, _chunks(file.fileno()), moved, source)
        if _linked(origin, temporary):
            moved(0 if not source.verified else blob.size)
        else:
            _copy(blob, origin, temporary, moved, source)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _linked(origin: Path, target: Path) -> bool:
    """False where a hard link is not possible: another file system, or the file is somebody else's (protected_hardlinks
    in `man proc_sys_fs`)."""
    try:
        os.utime(origin)
        os.link(origin, target, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EROFS, errno.EMLINK, errno.EOPNOTSUPP):
            return False
        raise
    return True


def _copy(blob: Blob, origin: Path, target: Path, moved: Callable[[int], None], source: Source) -> None:
    with origin.open("rb") as read, target.open("xb") as write:
        try:
            fcntl.ioctl(write.fileno(), _FICLONE, read.fileno())
        except OSError:

            def copied() -> Iterator[bytes]:
                for chunk in _chunks(read.fileno()):
                    write.write(chunk)
                    yield chunk

            # Unverified ones were read, and counted, once already.
            _check(blob, copied(), moved if source.verified else lambda count: None, source)
        else:
            moved(blob.size if source.verified else 0)
        write.flush()
        os.fsync(write.fileno())


def _chunks(file: int) -> Iterator[bytes]:
    while chunk := os.read(file, CHUNK_BYTES):
        yield chunk


def _check(blob: Blob, chunks: Iterator[bytes], moved: Callable[[int], None], source: Source) -> None:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
        moved(len(chunk))
    if f"sha256:{digest.hexdigest()}" != blob.digest:
        raise StoreError(f"{blob.path(source.directory)} is damaged: its SHA-256 is not the one in its name")


def _write_manifest(store: Path, relative: Path, manifest: bytes) -> None:
    """Write it beside the store and move it there in one step."""
    target = store / "manifests" / relative
    handle, temporary = tempfile.mkstemp(dir=store.parent, prefix=".flexi-manifest-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(manifest)
        os.chmod(temporary, 0o644)
        for last in (False, True):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.replace(temporary, target)
                return
            except FileNotFoundError:
                if last:  # once, Ollama may have cleared up the empty directory (manifest/paths.go PruneDirectory)
                    raise
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


@contextmanager
def _alone(store: Path) -> Iterator[None]:
    """One at a time for each store; the lock ends with the process."""
    with (store.parent / ".flexi-share.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
