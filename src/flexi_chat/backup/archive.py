"""What a backup of the chat is: a tar that begins with what it is, and ends with how much it holds.

manifest.json     schema, site, version of Open WebUI, kind of database, time
secrets.env       what sessions and stored credentials are encrypted with
database.dump     PostgreSQL only: a custom archive of pg_dump
data/…            Open WebUI's own folder; its SQLite databases as consistent copies
end.json          the number of members before it: a backup that was cut has none
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

SCHEMA = 1
KIND = "flexi chat backup"
MANIFEST = "manifest.json"
SECRETS = "secrets.env"
DUMP = "database.dump"
DATA = "data"
END = "end.json"
_SMALL = 1 << 20
"""Bytes; no member but data and dump is larger."""
_PIECE = 1 << 20


class BackupError(Exception):
    """Why there is no backup, or why it is not restored, in one sentence."""


@dataclass(frozen=True)
class Manifest:
    site: str
    version: str
    """Of Open WebUI."""
    database: str
    """sqlite or postgresql."""
    made: str
    """When, ISO 8601, UTC."""

    def to_bytes(self) -> bytes:
        return json.dumps({"kind": KIND, "schema": SCHEMA, **asdict(self)}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """BackupError for anything that is not a manifest of this schema."""
        try:
            found: Any = json.loads(data)
            if found["kind"] != KIND:
                raise BackupError("this is no backup of a chat")
            if found["schema"] != SCHEMA:
                raise BackupError(f"this backup has schema {found['schema']}, and this flexi reads {SCHEMA}")
            return cls(**{name: str(found[name]) for name in cls.__dataclass_fields__})
        except (ValueError, KeyError, TypeError):
            raise BackupError("this is no backup of a chat") from None


class Writer:
    """Writes the members one after the other to `file`, which need not be seekable."""

    def __init__(self, file: IO[bytes]) -> None:
        self._tar = tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._members = 0

    def text(self, name: str, data: bytes) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        entry.mode = 0o600
        entry.mtime = int(time.time())
        self._tar.addfile(entry, io.BytesIO(data))
        self._members += 1

    def folder(self, name: str) -> None:
        entry = tarfile.TarInfo(name)
        entry.type = tarfile.DIRTYPE
        entry.mode = 0o700
        self._tar.addfile(entry)
        self._members += 1

    def file(self, name: str, source: Path) -> None:
        """FileNotFoundError where it is gone by now; BackupError where it became shorter while it was read."""
        with source.open("rb") as opened:
            status = os.fstat(opened.fileno())
            entry = tarfile.TarInfo(name)
            entry.size = status.st_size
            entry.mtime = int(status.st_mtime)
            entry.mode = 0o600
            try:
                self._tar.addfile(entry, opened)
            except OSError as error:
                raise BackupError(f"{source} could not be read to its end: {error}") from None
        self._members += 1

    def end(self) -> None:
        self.text(END, json.dumps({"members": self._members}).encode())
        self._tar.close()


@dataclass(frozen=True)
class Member:
    name: str
    folder: bool
    file: IO[bytes] | None

    def small(self) -> bytes:
        """Its whole content; BackupError where that is too much for what it should be."""
        target = io.BytesIO()
        self.copy(target, _SMALL)
        return target.getvalue()

    def copy(self, target: IO[bytes], limit: int | None = None) -> None:
        """Its content to `target`. BackupError where it is cut, or has more than `limit` bytes."""
        assert self.file is not None
        left = limit
        try:
            while piece := self.file.read(_PIECE):
                if left is not None and (left := left - len(piece)) < 0:
                    raise BackupError(f"this is no backup of a chat: {self.name} is too large")
                target.write(piece)
        except (tarfile.TarError, EOFError):
            raise BackupError("the backup is not whole") from None


def read(file: IO[bytes]) -> Iterator[Member]:
    """The members of a whole backup in their order, manifest first, without the last one, which is checked instead.

    BackupError for what is no backup, what was cut, and names that lead elsewhere.
    """
    count = 0
    try:
        with tarfile.open(fileobj=file, mode="r|") as tar:
            for entry in tar:
                if count == 0 and entry.name != MANIFEST:
                    raise BackupError("this is no backup of a chat")
                member = Member(_safe(entry), entry.isdir(), tar.extractfile(entry) if entry.isreg() else None)
                if entry.name == END:
                    if json.loads(member.small()) != {"members": count}:
                        raise BackupError("the backup is not whole")
                    return
                yield member
                count += 1
    except (tarfile.TarError, EOFError, ValueError):
        raise BackupError("the backup is not whole" if count else "this is no backup of a chat") from None
    raise BackupError("the backup is not whole" if count else "this is no backup of a chat")


def _safe(entry: tarfile.TarInfo) -> str:
    path = PurePosixPath(entry.name)
    if path.is_absolute() or ".." in path.parts or not (entry.isreg() or entry.isdir()):
        raise BackupError(f"this is no backup of a chat: {entry.name!r} does not belong into one")
    return str(path)
