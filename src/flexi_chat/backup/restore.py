"""On the chat's host: a backup on standard input takes the place of what the chat has, whole or not at all.

    python -m flexi_chat.backup.restore SITE VERSION DATA SECRETS SETTINGS GIVEN USER UNIT HEALTH_URL

Everything is unpacked and looked at beside the chat, which goes on until then. After that the chat is stopped, folder
and database change places, and the chat is started; one that does not come back gets what it had before. Standard error
has one sentence where something is refused; standard output says in JSON what was restored.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pwd
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from flexi_chat.backup import archive, env_files, sqlite_files, staging
from flexi_chat.backup.archive import DATA, DUMP, MANIFEST, SECRETS, BackupError, Manifest
from flexi_chat.backup.write import SECRET_KEYS, Chat, chat_of

STARTS_WITHIN_S = 180.0
"""Open WebUI takes 13 s to its first answer on two cores, and longer where a newer release changes the database."""
_POLL_S = 0.5
_BEFORE = "before.dump"
"""In the staged folder: what the database had."""
_OLD_SECRETS = "secrets.before"


@dataclass(frozen=True)
class Service:
    """The chat's unit, and where it says that it is well."""

    unit: str
    health: str

    def stop(self) -> None:
        _systemctl("stop", self.unit)

    def start(self) -> None:
        """BackupError where it does not answer in time."""
        _systemctl("reset-failed", self.unit, check=False)
        _systemctl("start", self.unit)
        deadline = time.monotonic() + STARTS_WITHIN_S
        # Never by way of a proxy that the host has for the outside.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while True:
            try:
                with opener.open(self.health, timeout=5) as answer:
                    if answer.status == 200:
                        return
            except (OSError, urllib.error.URLError):
                pass
            if time.monotonic() > deadline:
                raise BackupError(f"{self.unit} does not come up with it (journalctl -u {self.unit})")
            time.sleep(_POLL_S)


def restore(chat: Chat, service: Service, source: IO[bytes]) -> Manifest:
    """BackupError where the backup does not fit or is not whole; the chat is then as it was."""
    with staging.beside(chat.data, "restore", lambda folder: _undo(chat, service, folder)) as staged:
        if not chat.data.is_dir() or not chat.secrets.is_file():
            raise BackupError("there is no chat on this host: deploy it first, then restore into it")
        manifest = _unpack(chat, source, staged)
        _own(staged / DATA, chat.user)
        _exchange(chat, service, staged)
    return manifest


def _unpack(chat: Chat, source: IO[bytes], staged: Path) -> Manifest:
    manifest: Manifest | None = None
    (staged / DATA).mkdir()
    for member in archive.read(source):
        if member.name == MANIFEST:
            manifest = Manifest.from_bytes(member.small())
            _fits(chat, manifest)
        elif member.name == SECRETS:
            (staged / SECRETS).write_bytes(member.small())
        elif member.name == DUMP or member.name.startswith(f"{DATA}/"):
            target = staged / member.name
            if member.folder:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                member.copy(file)
        else:
            raise BackupError(f"this is no backup of a chat: {member.name!r} does not belong into one")
    assert manifest is not None
    missing = [name for name in SECRET_KEYS if name not in env_files.read((staged / SECRETS,))]
    if missing:
        raise BackupError(f"the backup has no {', '.join(missing)}")
    if chat.server and not (staged / DUMP).exists():
        raise BackupError("the backup has no database")
    for database in sqlite_files.databases(path for path in (staged / DATA).rglob("*") if path.is_file()):
        trouble = sqlite_files.broken(database)
        if trouble:
            raise BackupError(f"{database.relative_to(staged)} is broken in the backup: {trouble}")
    return manifest


def _fits(chat: Chat, manifest: Manifest) -> None:
    kind = "postgresql" if chat.server else "sqlite"
    if manifest.database != kind:
        raise BackupError(
            f"the backup is of {manifest.database}, and this chat has {kind}: set chat.database to "
            f"{manifest.database}, deploy, restore"
        )
    if _numbers(manifest.version) > _numbers(chat.version):
        raise BackupError(
            f"the backup is of Open WebUI {manifest.version}, newer than {chat.version} here, which does not know its "
            f"database: set chat.version to {manifest.version}, deploy, restore"
        )


def _numbers(version: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in version.split("."))
    except ValueError:
        raise BackupError(f"{version!r} is no version of Open WebUI") from None


def _exchange(chat: Chat, service: Service, staged: Path) -> None:
    """The point of no return is behind the chat's first answer with the new content. Killed before all of that is in
    its place, the next restore undoes it (`_undo`)."""
    old, unfinished = staged / staging.OLD, staged / staging.UNFINISHED
    before = staged / _BEFORE
    _write_secrets(staged / _OLD_SECRETS, chat.secrets.read_text(encoding="utf-8"))
    try:
        service.stop()
        if chat.server:
            chat.server.dump(staged / "draft.dump")
            (staged / "draft.dump").rename(before)
        # A power cut must not leave the mark without what it stands for.
        os.sync()
        unfinished.touch()
        chat.data.rename(old)
        (staged / DATA).rename(chat.data)
        _write_secrets(chat.secrets, env_files.with_values(_old_secrets(staged), _secrets(staged)))
        if chat.server:
            chat.server.load(staged / DUMP)
        unfinished.unlink()
        service.start()
    except BaseException as error:
        trouble = _put_back(chat, service, staged)
        if trouble and isinstance(error, Exception):
            raise BackupError("; ".join((str(error), *trouble))) from None
        raise
    old.rename(staged / "replaced")


def _undo(chat: Chat, service: Service, staged: Path) -> None:
    """Put back what a restore has changed that was killed. BackupError where that fails: nothing is lost then, and the
    next run tries it again."""
    try:
        service.stop()
        _content_back(chat, staged)
        if chat.server and (staged / _BEFORE).exists():
            chat.server.load(staged / _BEFORE)
    except (BackupError, OSError) as error:
        raise BackupError(f"a restore was cut off on this host, and undoing it fails: {error}; try it again") from None
    (staged / staging.UNFINISHED).unlink()
    # Whether it comes up with what it had is no condition for another backup in its place.
    with contextlib.suppress(BackupError):
        service.start()


def _content_back(chat: Chat, staged: Path) -> None:
    """Folder and secrets; done twice it changes nothing more."""
    old = staged / staging.OLD
    if old.exists():
        if chat.data.exists():
            # A place of its own: whoever undid this before may have been killed, too.
            chat.data.rename(Path(tempfile.mkdtemp(prefix="refused-", dir=staged)) / DATA)
        old.rename(chat.data)
    _write_secrets(chat.secrets, _old_secrets(staged))


def _put_back(chat: Chat, service: Service, staged: Path) -> list[str]:
    """What went wrong with it, which keeps nothing else from being put back, nor the chat from its start."""
    before, trouble = staged / _BEFORE, []

    def content() -> None:
        _content_back(chat, staged)

    def database() -> None:
        if chat.server and before.exists():
            try:
                chat.server.load(before)
            except BackupError as error:
                kept = chat.data.with_name(f"{chat.data.name}-before-restore.dump")
                before.rename(kept)
                raise BackupError(f"{error}; the database has not what it had, which is in {kept}") from None

    def finished() -> None:
        (staged / staging.UNFINISHED).unlink(missing_ok=True)

    for step in (service.stop, content, database, finished, service.start):
        try:
            step()
        except (BackupError, OSError) as error:
            trouble.append(str(error))
    return trouble


def _old_secrets(staged: Path) -> str:
    return (staged / _OLD_SECRETS).read_text(encoding="utf-8")


def _secrets(staged: Path) -> dict[str, str]:
    found = env_files.read((staged / SECRETS,))
    return {name: found[name] for name in SECRET_KEYS}


def _write_secrets(path: Path, text: str) -> None:
    new = path.with_name(f"{path.name}.new")
    new.touch(mode=0o600)
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def _own(folder: Path, user: str) -> None:
    owner = pwd.getpwnam(user)
    for root, _, names in os.walk(folder):
        os.chown(root, owner.pw_uid, owner.pw_gid)
        os.chmod(root, 0o700)
        for name in names:
            os.chown(Path(root, name), owner.pw_uid, owner.pw_gid)


def _systemctl(verb: str, unit: str, check: bool = True) -> None:
    done = subprocess.run(["systemctl", verb, unit], capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise BackupError(f"systemctl {verb} {unit}: {done.stderr.strip() or 'failed'}")


def main() -> int:
    os.umask(0o077)
    *where, unit, health = sys.argv[1:]
    chat = chat_of(where)
    try:
        manifest = restore(chat, Service(unit, health), sys.stdin.buffer)
    except BackupError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.strerror or error}: {error.filename or chat.data}", file=sys.stderr)
        return 1
    print(json.dumps(dataclasses.asdict(manifest)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
