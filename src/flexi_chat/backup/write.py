"""On the chat's host: a consistent backup of the running chat, as a tar on standard output.

    python -m flexi_chat.backup.write SITE VERSION DATA SECRETS SETTINGS GIVEN USER

Standard error has `total BYTES` first, so that somebody can draw a bar, and one sentence where there is no backup.
The chat goes on meanwhile. First the database, then the files: each file that the copy of the database names was there
before, since Open WebUI stores a file before it records it (routers/files.py, upload_file_handler). The vectors beside
SQLite are files that Chroma changes in place; they are copied again until they were quiet from begin to end.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from flexi_chat.backup import env_files, sqlite_files, staging
from flexi_chat.backup.archive import DATA, DUMP, MANIFEST, SECRETS, BackupError, Manifest, Writer
from flexi_chat.backup.postgres import Server

MADE_ANEW = ("cache", "static")
"""Folders of Open WebUI's that hold only what it makes again by itself."""
VECTORS = "vector_db"
"""Chroma's folder below Open WebUI's (config.py, CHROMA_DATA_PATH)."""
DATABASE_URL = "DATABASE_URL"
SECRET_KEYS = ("WEBUI_SECRET_KEY",)
"""Signs sessions and encrypts stored credentials (env.py): the one secret that the content of a backup needs."""
PATIENCE_S = 120.0
_POLL_S = 0.5

Fingerprint = frozenset[tuple[str, int, int, int]]


@dataclass(frozen=True)
class Chat:
    """Where the chat keeps what on its host."""

    site: str
    version: str
    data: Path
    secrets: Path
    settings: Path
    given: Path
    """Secrets that others gave; it need not be there."""
    user: str

    @property
    def server(self) -> Server | None:
        """None where the database is SQLite."""
        url = env_files.read((self.settings, self.secrets, self.given)).get(DATABASE_URL)
        return None if url is None or url.startswith("sqlite") else Server.of(url, self.user)


def write(chat: Chat, target: IO[bytes], say: Callable[[str], None]) -> None:
    """The whole backup to `target`. BackupError where there is none."""
    server = chat.server
    with staging.beside(chat.data, "backup") as folder:
        if not chat.data.is_dir():
            raise BackupError(f"there is no chat on this host: {chat.data} is missing")
        staged = _stage(chat, server, folder)
        files = [path for path in _files(chat.data) if path not in staged.instead]
        say(f"total {sum(_size(path) for path in (*files, *staged.instead.values(), *staged.others.values()))}")
        writer = Writer(target)
        made = datetime.now(UTC).isoformat(timespec="seconds")
        kind = "postgresql" if server else "sqlite"
        writer.text(MANIFEST, Manifest(chat.site, chat.version, kind, made).to_bytes())
        writer.text(SECRETS, _secrets(chat).encode())
        for name, path in staged.others.items():
            writer.file(name, path)
        for path, copied in staged.instead.items():
            writer.file(_member(chat, path), copied)
        for path in files:
            try:
                writer.file(_member(chat, path), path)
            except FileNotFoundError:
                continue  # its owner has deleted it since
        writer.end()


@dataclass(frozen=True)
class _Staged:
    """What is not read from its own place: copies by the path that they stand for, and members by name."""

    instead: dict[Path, Path]
    others: dict[str, Path]


def _stage(chat: Chat, server: Server | None, folder: Path) -> _Staged:
    instead: dict[Path, Path] = {}
    others: dict[str, Path] = {}
    vectors = chat.data / VECTORS
    if server:
        others[DUMP] = folder / DUMP
        server.dump(others[DUMP])
    outside = [path for path in _files(chat.data) if vectors not in path.parents]
    for database in sqlite_files.databases(outside):
        instead[database] = folder / f"{len(instead)}.db"
        sqlite_files.copy(database, instead[database])
    if vectors.is_dir():
        _quietly(vectors, lambda: _copy_vectors(vectors, folder / VECTORS))
        copies = folder / VECTORS
        instead |= {vectors / path.relative_to(copies): path for path in _walk(copies)}
    return _Staged(instead, others)


def _copy_vectors(vectors: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    found = list(_files(vectors))
    databases = sqlite_files.databases(found)
    for path in found:
        copied = target / path.relative_to(vectors)
        copied.parent.mkdir(parents=True, exist_ok=True)
        if path in databases:
            sqlite_files.copy(path, copied)
        else:
            shutil.copyfile(path, copied)


def _quietly(folder: Path, work: Callable[[], None]) -> None:
    """Do `work` until no file below `folder` changed meanwhile. BackupError where that never happens."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        before = _fingerprint(folder)
        try:
            work()
            if _fingerprint(folder) == before:
                return
        except FileNotFoundError:
            pass  # a collection was removed while it was copied
        if time.monotonic() > deadline:
            raise BackupError("documents are being indexed without a pause: try again when that is done")
        time.sleep(_POLL_S)


def _fingerprint(folder: Path) -> Fingerprint:
    found = set()
    for path in _walk(folder):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        # Who reads a database with a log makes these two beside it; what was written is in the other files.
        if not path.name.endswith("-shm") and not (path.name.endswith("-wal") and status.st_size == 0):
            found.add((str(path), status.st_size, status.st_mtime_ns, status.st_ino))
    return frozenset(found)


def _files(folder: Path) -> Iterator[Path]:
    """What belongs into a backup: no sockets or links, nothing that is made anew, no part of a database in use."""
    paths = list(_walk(folder))
    parts = {part for database in sqlite_files.databases(paths) for part in sqlite_files.belongings(database)}
    for path in paths:
        if path not in parts and path.relative_to(folder).parts[0] not in MADE_ANEW:
            yield path


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(root, name)
            if path.is_file() and not path.is_symlink():
                yield path


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _secrets(chat: Chat) -> str:
    found = env_files.read((chat.secrets,))
    missing = [name for name in SECRET_KEYS if name not in found]
    if missing:
        raise BackupError(f"{chat.secrets} has no {', '.join(missing)}: deploy the chat first")
    return env_files.with_values("", {name: found[name] for name in SECRET_KEYS})


def _member(chat: Chat, path: Path) -> str:
    return f"{DATA}/{path.relative_to(chat.data).as_posix()}"


def chat_of(arguments: list[str]) -> Chat:
    site, version, data, secrets, settings, given, user = arguments
    return Chat(site, version, Path(data), Path(secrets), Path(settings), Path(given), user)


def main() -> int:
    os.umask(0o077)
    try:
        write(chat_of(sys.argv[1:]), sys.stdout.buffer, lambda words: print(words, file=sys.stderr, flush=True))
        sys.stdout.buffer.flush()
    except BackupError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1  # whoever wanted it has gone
    except OSError as error:
        print(f"{error.strerror or error}: {error.filename or chat_of(sys.argv[1:]).data}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
