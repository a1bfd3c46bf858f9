"""Backup and restore of the chat, with the real programs of both sides; ssh, sudo and systemctl are stand-ins."""

from __future__ import annotations

import dataclasses
import http.server
import io
import json
import os
import pwd
import shutil
import sqlite3
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyrage
import pytest
from rich.console import Console

from flexi.backup import chat as saving
from flexi.backup import keys
from flexi.components import chat as chat_files
from flexi.errors import FlexiError, InputError
from flexi.paths import INVENTORY, ROOT
from flexi.plan import build_plan
from flexi.plan.model.site import Plan
from flexi.site import load_site
from flexi.ssh import remote
from flexi.terminal.bars import Bars
from flexi_chat.backup import archive, env_files, postgres, restore, sqlite_files, staging
from flexi_chat.backup import write as backup
from flexi_chat.backup.archive import BackupError

CANARY = "Wie heißt der Hund von Professor Ada? Kanarienvogel-4711"
SECRET = "WEBUI_SECRET_KEY=that-of-the-backup\n"
USER = pwd.getpwuid(os.getuid()).pw_name


class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@dataclass
class Host:
    """A machine with a chat: a folder in place of its root."""

    root: Path
    plan: Plan

    @property
    def data(self) -> Path:
        return self.root / "var/flexi-chat"

    @property
    def secrets(self) -> Path:
        return self.root / "chat-secrets.env"

    @property
    def calls(self) -> list[str]:
        log = self.root / "systemctl.log"
        return log.read_text().splitlines() if log.exists() else []

    @property
    def chat(self) -> backup.Chat:
        return backup.Chat(
            "lab", "0.12.4", self.data, self.secrets, self.root / "chat.env", self.root / "given.env", USER
        )

    def messages(self) -> list[str]:
        with closing(sqlite3.connect(self.data / "webui.db")) as database:
            return [text for (text,) in database.execute("SELECT text FROM message ORDER BY rowid")]

    def write(self, text: str) -> None:
        with closing(sqlite3.connect(self.data / "webui.db")) as database, database:
            database.execute("INSERT INTO message VALUES (?)", (text,))


def fill(data: Path) -> None:
    (data / "uploads").mkdir(parents=True)
    (data / "uploads/skript.pdf").write_bytes(b"%PDF " + CANARY.encode() * 5000)
    (data / "vector_db/segment").mkdir(parents=True)
    (data / "vector_db/segment/data_level0.bin").write_bytes(b"\1" * 4096)
    (data / "cache/whisper").mkdir(parents=True)
    (data / "cache/whisper/model.bin").write_bytes(b"\2" * 4096)
    for path in (data / "webui.db", data / "vector_db/chroma.sqlite3"):
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("PRAGMA synchronous=OFF")
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("CREATE TABLE message (text TEXT)")


@pytest.fixture
def host(tmp_path: Path, lab: Plan, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    root = tmp_path / "host"
    programs = tmp_path / "programs"
    for folder in (root / "var", programs, root / "venv/bin"):
        folder.mkdir(parents=True)
    stand_ins = {
        "ssh": 'for last; do :; done; exec sh -c "$last"',
        "sudo": 'shift; exec "$@"',
        "systemctl": f'echo "$*" >>{root}/systemctl.log',
    }
    for name, script in stand_ins.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    (root / "venv/bin/python").symlink_to(sys.executable)
    monkeypatch.setattr(chat_files, "PACKAGE", str(ROOT / "src"))
    monkeypatch.setattr(chat_files, "CURRENT", str(root / "venv"))
    monkeypatch.setattr(chat_files, "DATA", str(root / "var/flexi-chat"))
    monkeypatch.setattr(chat_files, "SECRETS", str(root / "chat-secrets.env"))
    monkeypatch.setattr(chat_files, "SETTINGS", str(root / "chat.env"))
    monkeypatch.setattr(chat_files, "GIVEN", str(root / "given.env"))
    monkeypatch.setattr(chat_files, "SAVED", str(root / "saved"))
    monkeypatch.setattr(chat_files, "USER", USER)
    monkeypatch.setattr(remote, "control_path", lambda ssh: str(tmp_path / "socket"))
    monkeypatch.setattr(restore, "STARTS_WITHIN_S", 0.0)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Health)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    assert lab.chat
    chat = lab.chat.model_copy(update={"address": "127.0.0.1", "listen_port": server.server_address[1]})
    found = Host(root, lab.model_copy(update={"chat": chat}))
    fill(found.data)
    found.secrets.write_text(f"{SECRET}GATEWAY_KEY=of-this-host\n")
    yield found
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def lab() -> Plan:
    """The lab's plan."""
    return build_plan(load_site(INVENTORY / "lab.yaml"))


@pytest.fixture
def key() -> pyrage.x25519.Identity:
    return pyrage.x25519.Identity.generate()


def save(host: Host, key: pyrage.x25519.Identity, folder: Path) -> Path:
    with Bars(Console(file=io.StringIO())) as bars:
        return saving.backup(host.plan, [key.to_public()], folder, bars).file


def bring_back(host: Host, key: pyrage.x25519.Identity, file: Path) -> saving.Restored:
    with Bars(Console(file=io.StringIO())) as bars:
        return saving.restore(host.plan, file, [key], bars)


def test_what_was_there_comes_back(host: Host, key: pyrage.x25519.Identity, tmp_path: Path) -> None:
    host.write(CANARY)
    start = int(time.time())
    file = save(host, key, tmp_path / "new/folder")
    assert start <= int((host.root / "saved").read_text()) <= time.time()
    assert file.name.startswith(f"{host.plan.site}-chat-2")
    assert file.stat().st_mode & 0o077 == 0
    assert CANARY.encode() not in file.read_bytes()
    host.write("after the backup")
    (host.data / "uploads/skript.pdf").unlink()
    (host.data / "uploads/later.md").write_text("later")
    host.secrets.write_text("GATEWAY_KEY=of-this-host\nWEBUI_SECRET_KEY=another\n")

    restored = bring_back(host, key, file)
    assert (restored.site, restored.version) == (host.plan.site, "0.12.4")
    assert host.messages() == [CANARY]
    assert CANARY.encode() in (host.data / "uploads/skript.pdf").read_bytes()
    assert not (host.data / "uploads/later.md").exists()
    assert (host.data / "vector_db/segment/data_level0.bin").read_bytes() == b"\1" * 4096
    # The key that the gateway knows this host by stays; sessions are those of the backup.
    assert env_files.read((host.secrets,)) == {"GATEWAY_KEY": "of-this-host", "WEBUI_SECRET_KEY": "that-of-the-backup"}
    assert host.secrets.stat().st_mode & 0o077 == 0
    assert host.data.stat().st_mode & 0o077 == 0
    assert [call.split()[0] for call in host.calls] == ["stop", "reset-failed", "start"]
    assert sorted(path.name for path in host.data.parent.iterdir()) == ["flexi-chat"]


def test_a_backup_while_somebody_writes_has_what_was_stored(
    host: Host, key: pyrage.x25519.Identity, tmp_path: Path
) -> None:
    """What is committed lies in the write-ahead log beside the database, and counts; what is not, does not."""
    with closing(sqlite3.connect(host.data / "webui.db")) as writer:
        writer.execute("PRAGMA wal_autocheckpoint=0")
        writer.execute("INSERT INTO message VALUES ('stored')")
        writer.commit()
        writer.execute("INSERT INTO message VALUES ('not stored yet')")
        file = save(host, key, tmp_path)
        writer.rollback()
    bring_back(host, key, file)
    assert host.messages() == ["stored"]


def test_it_holds_no_cache_and_no_part_of_a_database(host: Host) -> None:
    with closing(sqlite3.connect(host.data / "webui.db")) as writer:
        writer.execute("INSERT INTO message VALUES ('x')")
        writer.commit()
        names = members(host)
    assert not [name for name in names if "cache" in name or name.endswith(("-wal", "-shm"))]
    assert names[0] == "manifest.json"
    assert names[-1] == "end.json"
    assert {"data/webui.db", "data/vector_db/chroma.sqlite3", "data/uploads/skript.pdf"} <= set(names)


def members(host: Host) -> list[str]:
    return tarfile.open(fileobj=io.BytesIO(plain(host))).getnames()


def plain(host: Host) -> bytes:
    target = io.BytesIO()
    backup.write(host.chat, target, lambda words: None)
    return target.getvalue()


def test_vectors_are_copied_again_until_nothing_changed_meanwhile(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chroma writes its index in place: a copy of which the half is older would be broken."""
    segment = host.data / "vector_db/segment/data_level0.bin"
    copies = []
    real = shutil.copyfile

    def meddling(source: Path, target: Path) -> None:
        real(source, target)
        copies.append(source)
        if len(copies) == 1:
            segment.write_bytes(b"\3" * 4096)

    monkeypatch.setattr(shutil, "copyfile", meddling)
    monkeypatch.setattr(backup, "_POLL_S", 0.0)
    with tarfile.open(fileobj=io.BytesIO(plain(host))) as tar:
        found = tar.extractfile("data/vector_db/segment/data_level0.bin")
        assert found is not None
        assert found.read() == b"\3" * 4096
    assert len(copies) == 2


def test_indexing_without_a_pause_is_said(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter(range(1000))
    monkeypatch.setattr(backup, "_fingerprint", lambda folder: next(numbers))
    monkeypatch.setattr(backup, "_POLL_S", 0.0)
    monkeypatch.setattr(backup, "PATIENCE_S", 0.05)
    with pytest.raises(BackupError, match="being indexed without a pause"):
        plain(host)


def test_a_file_that_goes_meanwhile_is_no_obstacle(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "_size", lambda path: path.unlink() if path.name == "skript.pdf" else None or 0)
    with pytest.raises(TypeError):
        plain(host)  # the stand-in's None cannot be added: the file is gone now
    assert "data/uploads/skript.pdf" not in members(host)


def read_all(data: bytes) -> None:
    for member in archive.read(io.BytesIO(data)):
        if member.file:
            member.copy(io.BytesIO())


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.9])
def test_a_cut_backup_is_refused(share: float, host: Host) -> None:
    data = plain(host)
    with pytest.raises(BackupError, match=r"not whole|no backup"):
        read_all(data[: int(len(data) * share)])


def test_a_backup_without_its_end_is_refused(host: Host) -> None:
    """Cut between two members, a tar looks whole to everybody else."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as cut, tarfile.open(fileobj=io.BytesIO(plain(host))) as whole:
        for entry in whole.getmembers()[:-2]:
            cut.addfile(entry, whole.extractfile(entry))
    with pytest.raises(BackupError, match="not whole"):
        list(archive.read(io.BytesIO(target.getvalue())))


def test_a_backup_that_lacks_a_member_is_refused(host: Host) -> None:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as less, tarfile.open(fileobj=io.BytesIO(plain(host))) as whole:
        for entry in whole.getmembers():
            if entry.name != "data/uploads/skript.pdf":
                less.addfile(entry, whole.extractfile(entry))
    with pytest.raises(BackupError, match="the backup is not whole"):
        read_all(target.getvalue())


def tampered(host: Host, change: Callable[[tarfile.TarInfo], None]) -> bytes:
    """A backup with one member changed, its end as it should be."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as new, tarfile.open(fileobj=io.BytesIO(plain(host))) as old:
        for entry in old.getmembers():
            content = old.extractfile(entry)
            if entry.name == "data/uploads/skript.pdf":
                change(entry)
            new.addfile(entry, content if entry.isreg() else None)
    return target.getvalue()


@pytest.mark.parametrize("name", ["/etc/passwd", "data/../../../etc/cron.d/x", "../x", "etc/x"])
def test_names_that_lead_elsewhere_are_refused(name: str, host: Host) -> None:
    data = tampered(host, lambda entry: setattr(entry, "name", name))
    with pytest.raises(BackupError, match="does not belong into one"):
        restore.restore(host.chat, restore.Service("x", "http://127.0.0.1:1/"), io.BytesIO(data))
    assert host.calls == []


def test_links_are_refused(host: Host) -> None:
    def link(entry: tarfile.TarInfo) -> None:
        entry.type, entry.linkname, entry.size = tarfile.SYMTYPE, "/etc/passwd", 0

    with pytest.raises(BackupError, match="does not belong into one"):
        restore.restore(host.chat, restore.Service("x", "http://127.0.0.1:1/"), io.BytesIO(tampered(host, link)))


def of_version(host: Host, version: str) -> bytes:
    target = io.BytesIO()
    backup.write(dataclasses.replace(host.chat, version=version), target, lambda words: None)
    return target.getvalue()


def test_a_newer_release_is_refused_before_anything_is_stopped(host: Host) -> None:
    """Alembic's migrations go forward: an older release does not know the tables."""
    with pytest.raises(BackupError, match=r"of Open WebUI 0\.13\.0, newer than 0\.12\.4 here.*set chat\.version"):
        restore.restore(host.chat, restore.Service("x", "http://127.0.0.1:1/"), io.BytesIO(of_version(host, "0.13.0")))
    assert host.calls == []


def test_another_kind_of_database_is_refused(host: Host) -> None:
    data = plain(host)
    (host.root / "given.env").write_text('DATABASE_URL="postgresql+psycopg:///flexi-chat?host=/run/postgresql"\n')
    with pytest.raises(BackupError, match=r"of sqlite, and this chat has postgresql: set chat\.database to sqlite"):
        restore.restore(host.chat, restore.Service("x", "http://127.0.0.1:1/"), io.BytesIO(data))
    assert host.calls == []


def test_a_broken_database_is_refused(host: Host) -> None:
    host.write("x" * 20000)
    (host.data / "webui.db-wal").unlink(missing_ok=True)
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as new, tarfile.open(fileobj=io.BytesIO(plain(host))) as old:
        for entry in old.getmembers():
            found = old.extractfile(entry)
            content = found.read() if found else b""
            if entry.name == "data/webui.db":
                content = content[:4096] + b"\xff" * (len(content) - 4096)
            new.addfile(entry, io.BytesIO(content))
    with pytest.raises(BackupError, match=r"data/webui\.db is broken in the backup"):
        restore.restore(host.chat, restore.Service("x", "http://127.0.0.1:1/"), io.BytesIO(target.getvalue()))
    assert host.calls == []


def test_a_chat_that_does_not_come_up_gets_back_what_it_had(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    data = plain(host)
    host.write("since the backup")
    host.secrets.write_text("WEBUI_SECRET_KEY=of-now\n")
    seen = []

    def opened(self: object, url: str, timeout: float) -> object:
        seen.append(host.messages())
        if len(seen) == 1:
            raise OSError("refused")
        return http_ok()

    monkeypatch.setattr("urllib.request.OpenerDirector.open", opened)
    with pytest.raises(BackupError, match="does not come up with it"):
        restore.restore(host.chat, restore.Service("flexi-chat.service", "http://127.0.0.1:1/"), io.BytesIO(data))
    assert seen == [[], ["since the backup"]]
    assert host.messages() == ["since the backup"]
    assert env_files.read((host.secrets,)) == {"WEBUI_SECRET_KEY": "of-now"}
    assert [call.split()[0] for call in host.calls] == ["stop", "reset-failed", "start"] * 2
    assert sorted(path.name for path in host.data.parent.iterdir()) == ["flexi-chat"]


class Database:
    """A stand-in of PostgreSQL: what fails, and what was loaded."""

    def __init__(self, *failing: str) -> None:
        self.failing = failing
        self.loaded: list[str] = []

    def dump(self, target: Path) -> None:
        target.write_bytes(b"half")
        if "dump" in self.failing:
            raise BackupError("pg_dump: no space left")

    def load(self, source: Path) -> None:
        self.loaded.append(source.name)
        if source.name in self.failing:
            raise BackupError("psql: the server is gone")


@pytest.mark.parametrize(
    ("failing", "loaded", "words"),
    [
        (("dump",), [], "^pg_dump: no space left$"),
        ((archive.DUMP,), [archive.DUMP, "before.dump"], "^psql: the server is gone$"),
        (
            (archive.DUMP, "before.dump"),
            [archive.DUMP, "before.dump"],
            "has not what it had, which is in .*/flexi-chat-before-restore.dump$",
        ),
    ],
)
def test_the_chat_runs_whatever_fails(
    failing: tuple[str, ...], loaded: list[str], words: str, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(*failing)
    monkeypatch.setattr(backup.Chat, "server", database)
    monkeypatch.setattr("urllib.request.OpenerDirector.open", lambda self, url, timeout: http_ok())
    staged = host.data.parent / ".flexi-restore-x"
    shutil.copytree(host.data, staged / "data")
    (staged / archive.SECRETS).write_text(SECRET)
    host.write("since the backup")
    with pytest.raises(BackupError, match=words):
        restore._exchange(host.chat, restore.Service("flexi-chat.service", "http://127.0.0.1:1/"), staged)
    assert database.loaded == loaded
    assert host.messages() == ["since the backup"]
    assert host.calls[-1] == "start flexi-chat.service"
    kept = host.data.parent / "flexi-chat-before-restore.dump"
    assert kept.exists() == ("before.dump" in failing)


SERVICE = restore.Service("flexi-chat.service", "http://127.0.0.1:1/")


def killed(host: Host, where: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a restore leaves that was killed at `where`: its folder beside the chat's."""
    staged = host.data.parent / ".flexi-restore-x"
    shutil.copytree(host.data, staged / "data")
    (staged / archive.SECRETS).write_text(SECRET)
    (staged / archive.DUMP).write_bytes(b"new")
    host.write("since the backup")
    host.secrets.write_text("WEBUI_SECRET_KEY=of-now\n")
    write = restore._write_secrets

    def write_secrets(path: Path, text: str) -> None:
        if where == "secrets" and path == host.secrets:
            raise KeyboardInterrupt
        write(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(restore, "_write_secrets", write_secrets)
        patch.setattr(restore, "_put_back", lambda *_: [])  # nobody is there to do it
        with pytest.raises((KeyboardInterrupt, BackupError)):
            restore._exchange(host.chat, SERVICE, staged)
    return staged


@pytest.mark.parametrize("where", ["secrets", "load"])
def test_a_restore_that_was_killed_is_undone_by_the_next(
    where: str, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(archive.DUMP)
    monkeypatch.setattr(backup.Chat, "server", database if where == "load" else None)
    monkeypatch.setattr("urllib.request.OpenerDirector.open", lambda self, url, timeout: http_ok())
    staged = killed(host, where, monkeypatch)
    assert (staged / staging.UNFINISHED).exists()
    assert host.messages() == []
    with pytest.raises(BackupError, match="a restore was cut off on this host, and the chat does not start before"):
        plain(host)
    database.failing = ("before.dump",)
    if where == "load":
        with pytest.raises(BackupError, match="undoing it fails: psql: the server is gone; try it again"):
            restore.restore(host.chat, SERVICE, io.BytesIO(b""))
        assert (staged / staging.UNFINISHED).exists()
        assert (staged / "before.dump").exists()
    database.failing = ()
    with pytest.raises(BackupError, match=r"not whole|no backup"):
        restore.restore(host.chat, SERVICE, io.BytesIO(b""))
    assert host.messages() == ["since the backup"]
    assert env_files.read((host.secrets,)) == {"WEBUI_SECRET_KEY": "of-now"}
    assert database.loaded[-1:] == (["before.dump"] if where == "load" else [])
    assert host.calls[-1] == "start flexi-chat.service"
    assert sorted(path.name for path in host.data.parent.iterdir()) == ["flexi-chat"]


def test_a_chat_does_not_start_between_the_two(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd looks for the mark at each start, also after a power cut; those of a restore itself find none."""
    unit = (ROOT / "templates/chat/flexi-chat.service").read_text()
    assert f"\nAssertPathExistsGlob=!/var/lib/{staging.PREFIX}restore-*/{staging.UNFINISHED}\n" in unit
    data, marks = plain(host), []

    def opened(self: object, url: str, timeout: float) -> http_ok:
        marks.append(list(host.data.parent.glob(f"{staging.PREFIX}restore-*/{staging.UNFINISHED}")))
        if len(marks) == 1:
            raise OSError("refused")
        return http_ok()

    monkeypatch.setattr("urllib.request.OpenerDirector.open", opened)
    with pytest.raises(BackupError, match="does not come up with it"):
        restore.restore(host.chat, SERVICE, io.BytesIO(data))
    assert marks == [[], []]


def test_what_a_killed_run_left_goes(host: Host) -> None:
    for name in (".flexi-backup-a", ".flexi-restore-b"):
        (host.data.parent / name).mkdir()
        (host.data.parent / name / "x").write_text(CANARY)
    # Killed while the chat started with the new content: which one people want is not ours to say.
    shutil.copytree(host.data, host.data.parent / ".flexi-restore-c/old")
    plain(host)
    assert sorted(path.name for path in host.data.parent.iterdir()) == [".flexi-restore-c", "flexi-chat"]
    assert (host.data.parent / ".flexi-restore-c/old/webui.db").exists()


def test_one_at_a_time(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "PATIENCE_S", 0.0)
    with staging.beside(host.data, "restore"), pytest.raises(BackupError, match="another backup or restore"):
        plain(host)
    assert plain(host)


class http_ok:  # noqa: N801
    status = 200

    def __enter__(self) -> http_ok:
        return self

    def __exit__(self, *problem: object) -> None:
        pass


def test_a_host_without_the_chat_says_so(host: Host, key: pyrage.x25519.Identity, tmp_path: Path) -> None:
    (host.root / "venv/bin/python").unlink()
    with pytest.raises(FlexiError, match="there is no chat on this host: deploy it first"):
        save(host, key, tmp_path / "to")
    assert list((tmp_path / "to").iterdir()) == []


def test_a_backup_that_fails_leaves_nothing(host: Host, key: pyrage.x25519.Identity, tmp_path: Path) -> None:
    host.secrets.write_text("")
    with pytest.raises(FlexiError, match=r"there is no backup: .*has no WEBUI_SECRET_KEY: deploy the chat first"):
        save(host, key, tmp_path / "to")
    assert list((tmp_path / "to").iterdir()) == []
    assert not (host.root / "saved").exists()


def test_another_key_does_not_open_it(host: Host, key: pyrage.x25519.Identity, tmp_path: Path) -> None:
    file = save(host, key, tmp_path)
    with pytest.raises(InputError, match="is not for this key"):
        bring_back(host, pyrage.x25519.Identity.generate(), file)
    assert host.calls == []


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\3\4" + b"x" * 5000])
def test_what_is_no_backup_is_refused(content: bytes, host: Host, key: pyrage.x25519.Identity, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError, match="is no backup: it is not encrypted with age"):
        bring_back(host, key, tmp_path / "x")
    assert host.calls == []


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_file_changes_nothing(damage: str, host: Host, key: pyrage.x25519.Identity, tmp_path: Path) -> None:
    host.write("kept")
    file = save(host, key, tmp_path)
    data = bytearray(file.read_bytes())
    if damage == "cut":
        del data[-70000:]
    else:
        data[-100] ^= 1
    file.write_bytes(data)
    with pytest.raises(FlexiError, match="is damaged; the chat has what it had"):
        bring_back(host, key, file)
    assert host.calls == []
    assert host.messages() == ["kept"]


def test_damage_behind_the_end_of_a_backup_hides_nothing_that_was_restored(
    host: Host, key: pyrage.x25519.Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save(host, key, tmp_path)
    host.write("since the backup")
    real = pyrage.decrypt_io

    def damaged(source: object, target: object, identities: object) -> None:
        real(source, target, identities)
        if hasattr(target, "fileno"):
            raise pyrage.DecryptError("the last chunk")

    monkeypatch.setattr(pyrage, "decrypt_io", damaged)
    assert bring_back(host, key, file).version == "0.12.4"
    assert host.messages() == []


def test_root_runs_no_module_of_the_folder_that_it_is_in(
    host: Host, key: pyrage.x25519.Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/tarfile.py").write_text("raise SystemExit('somebody else')")
    monkeypatch.chdir(tmp_path / "home")
    assert save(host, key, tmp_path).exists()


def test_something_else_encrypted_is_no_backup(host: Host, key: pyrage.x25519.Identity, tmp_path: Path) -> None:
    (tmp_path / "x.age").write_bytes(pyrage.encrypt(b"dear diary" * 1000, [key.to_public()]))
    with pytest.raises(FlexiError, match="this is no backup of a chat"):
        bring_back(host, key, tmp_path / "x.age")
    assert host.calls == []


def test_keys_are_read_as_age_writes_them(tmp_path: Path, key: pyrage.x25519.Identity) -> None:
    file = tmp_path / "k"
    file.write_text(f"# created: 2026-11-23T10:00:00Z\n# public key: {key.to_public()}\n{key}\n")
    (found,) = keys.identities(file)
    assert str(found) == str(key)
    file.write_text(str(key)[:-3])
    with pytest.raises(InputError, match="holds no private key of age") as caught:
        keys.identities(file)
    assert str(key)[:20] not in str(caught.value)
    with pytest.raises(InputError, match="No such file"):
        keys.identities(tmp_path / "none")
    with pytest.raises(InputError, match="nobody to encrypt a backup for"):
        keys.recipients([])


ENV_FILE = r"""# x
A=plain
B="two words \"quoted\" \$5 \\ \n"
C='{"a": "\\"}'
D=
"""


def test_env_files_are_read_as_systemd_reads_them(tmp_path: Path) -> None:
    """systemd.exec(5): in double quotes, a backslash takes the meaning from four signs and is itself before others."""
    file = tmp_path / "e"
    file.write_text(ENV_FILE)
    assert env_files.read((file, tmp_path / "none")) == {
        "A": "plain",
        "B": 'two words "quoted" $5 \\ \\n',
        "C": '{"a": "\\\\"}',
        "D": "",
    }
    file.write_text(env_files.with_values(ENV_FILE, {"B": 'new "$word"', "E": "1"}))
    assert file.read_text().startswith("# x\nA=plain\n")
    assert env_files.read((file,)) == {
        "A": "plain",
        "B": 'new "$word"',
        "C": '{"a": "\\\\"}',
        "D": "",
        "E": "1",
    }


def test_no_argument_has_the_password_of_the_database() -> None:
    server = postgres.Server.of("postgresql+psycopg://chat:s%40crt@db.example.edu:5433/chats?sslmode=require", "x")
    assert server.environment == {
        "PGHOST": "db.example.edu",
        "PGPORT": "5433",
        "PGUSER": "chat",
        "PGPASSWORD": "s@crt",
        "PGDATABASE": "chats",
        "PGSSLMODE": "require",
    }
    local = postgres.Server.of("postgresql+psycopg:///flexi-chat?host=/run/postgresql", "x")
    assert local.environment == {"PGHOST": "/run/postgresql", "PGDATABASE": "flexi-chat"}
    with pytest.raises(BackupError, match="neither SQLite nor PostgreSQL: mysql"):
        postgres.Server.of("mysql://x/y", "x")


def test_a_database_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"no database")
    with closing(sqlite3.connect(tmp_path / "b.bin")) as database, database:
        database.execute("CREATE TABLE t (x)")
    assert sqlite_files.databases(tmp_path.iterdir()) == [tmp_path / "b.bin"]


def test_the_manifest_says_what_it_is() -> None:
    manifest = archive.Manifest("lab", "0.12.4", "sqlite", "2026-11-23T10:00:00+00:00")
    assert archive.Manifest.from_bytes(manifest.to_bytes()) == manifest
    for bad in (b"", b"[]", b"{}", json.dumps({"kind": "x"}).encode()):
        with pytest.raises(BackupError, match="this is no backup of a chat"):
            archive.Manifest.from_bytes(bad)
    later = json.loads(manifest.to_bytes()) | {"schema": 2}
    with pytest.raises(BackupError, match="has schema 2, and this flexi reads 1"):
        archive.Manifest.from_bytes(json.dumps(later).encode())
