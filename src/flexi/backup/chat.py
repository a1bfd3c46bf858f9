"""Backups of the chat over SSH: encrypted on this machine while they come, decrypted here while they go back.

No plain byte of a backup touches this machine's disk. What the host runs is `flexi_chat.backup.write` and `.restore`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import pyrage

from flexi.components import chat as chat_files
from flexi.components.chat_programs import chat_program_as_root
from flexi.errors import FlexiError, InputError
from flexi.plan.model.chat import ChatPlan
from flexi.plan.model.site import HostPlan, Plan
from flexi.ssh import remote
from flexi.terminal.bars import Bar, Bars

SUFFIX = ".tar.age"
_HEADER = b"age-encryption.org/v1\n"
_TOTAL = "total "


@dataclass(frozen=True)
class Saved:
    """A backup on this machine; `size` in bytes, as encrypted."""

    file: Path
    host: str
    size: int
    recipients: int


@dataclass(frozen=True)
class Restored:
    """What has taken the chat's place; `made` is ISO 8601."""

    host: str
    site: str
    version: str
    made: str


def chat_of(plan: Plan) -> tuple[ChatPlan, HostPlan]:
    """InputError where the site has no chat."""
    if plan.chat is None:
        raise InputError("the site has no chat to make a backup of: see `chat` in docs/reference/site-file.md")
    return plan.chat, plan.host(plan.chat.host)


def backup(plan: Plan, recipients: Sequence[Any], folder: Path, bars: Bars) -> Saved:
    """Write `SITE-chat-TIME.tar.age` into `folder`, for the owner of the private keys alone to read.

    FlexiError where there is no whole backup; nothing with that name is left then.
    """
    chat, host = chat_of(plan)
    target = _target(folder, plan.site)
    command = _on_host("backup.write", plan, chat)
    part = tempfile.NamedTemporaryFile(dir=folder, prefix=f".{target.name}.", delete=False)  # noqa: SIM115
    try:
        with part:
            _receive(host, command, recipients, part, bars.bar(target.name, None))
            part.flush()
            os.fsync(part.fileno())
        os.rename(part.name, target)
    except BaseException:
        Path(part.name).unlink(missing_ok=True)
        raise
    # For `flexi status` alone: a backup that is here is one, noted or not.
    remote.run(host, remote.ROOT_SHELL, stdin=f"date +%s >{chat_files.SAVED}\n")
    return Saved(target, host.name, target.stat().st_size, len(recipients))


def _target(folder: Path, site: str) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--to {folder}: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"--to {folder}: not writable")
    return folder / f"{site}-chat-{datetime.now(UTC):%Y%m%dT%H%M%SZ}{SUFFIX}"


def _receive(host: HostPlan, command: str, recipients: Sequence[Any], target: IO[bytes], bar: Bar) -> None:
    process = subprocess.Popen(
        remote.ssh_command(host.ssh, command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    words = _Words(process, bar)
    try:
        pyrage.encrypt_io(_Counted(process.stdout, bar), target, recipients)
    except OSError as error:
        process.kill()
        raise FlexiError(f"{target.name} cannot be written: {error.strerror or error}") from None
    except BaseException:
        process.kill()
        raise
    finally:
        status = process.wait()
        said = words.all()
    if status != 0:
        raise FlexiError(f"there is no backup: {_reason(host, status, said)}")
    bar.finished()


def restore(plan: Plan, file: Path, identities: Sequence[Any], bars: Bars) -> Restored:
    """Put the backup `file` in the place of what the chat has. FlexiError where that is refused: the chat then has what
    it had before. InputError for a file that is no backup, or not for these keys; no host is touched."""
    chat, host = chat_of(plan)
    check(file, identities)
    command = _on_host("backup.restore", plan, chat, chat_files.UNIT, f"{chat.inside_url}/health")
    bar = bars.bar(file.name, file.stat().st_size)
    process = subprocess.Popen(
        remote.ssh_command(host.ssh, command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    words = _Words(process, bar)
    damaged = False
    try:
        with file.open("rb") as opened, contextlib.suppress(BrokenPipeError):  # then the host's own words say why
            try:
                pyrage.decrypt_io(_Counted(opened, bar), process.stdin, identities)
            except BrokenPipeError:
                raise
            except (pyrage.DecryptError, OSError):
                damaged = True
    finally:
        # What was cut has no end, and the host refuses it.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        output = process.stdout.read()
        status = process.wait()
        said = words.all()
    if damaged and status not in (0, remote.UNREACHABLE):
        raise FlexiError(f"{file} is damaged; the chat has what it had")
    if status != 0:
        raise FlexiError(f"not restored: {_reason(host, status, said)}")
    bar.finished()
    found = json.loads(output)
    return Restored(host.name, found["site"], found["version"], found["made"])


def check(file: Path, identities: Sequence[Any]) -> None:
    """InputError unless `file` is age's and one of `identities` opens it; reads its beginning alone."""

    class Opened(Exception):  # noqa: N818
        """The first bytes came out."""

    class Nowhere:
        def write(self, data: bytes) -> int:
            raise Opened

        def flush(self) -> None:
            pass

    try:
        with file.open("rb") as opened:
            if opened.read(len(_HEADER)) != _HEADER:
                raise InputError(f"{file} is no backup: it is not encrypted with age")
            opened.seek(0)
            pyrage.decrypt_io(opened, Nowhere(), identities)
    except Opened:
        return
    except pyrage.DecryptError:
        raise InputError(f"{file} is not for this key: --identity needs the private key of a recipient") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or 'it is damaged'}") from None
    raise InputError(f"{file} is empty")


def _on_host(module: str, plan: Plan, chat: ChatPlan, *more: str) -> str:
    files = (chat_files.DATA, chat_files.SECRETS, chat_files.SETTINGS, chat_files.GIVEN)
    words = (plan.site, chat.version, *files, chat_files.USER, *more)
    missing = "there is no chat on this host: deploy it first"
    script = (
        f"[ -x {chat_files.CURRENT}/bin/python ] || {{ echo '{missing}' >&2; exit 1; }}; "
        f"exec {chat_program_as_root(module, *words)}"
    )
    return f'if [ "$(id -u)" = 0 ]; then r=; else r="sudo -n"; fi; exec $r sh -c {shlex.quote(script)}'


def _reason(host: HostPlan, status: int, said: list[str]) -> str:
    last = said[-1] if said else f"the connection broke (ssh ended with {status})"
    return f"{host.name} {remote.unreachable(last)}" if status == remote.UNREACHABLE else f"{host.name}: {last}"


class _Words:
    """What a process says on standard error, read while it runs; its `total` goes to the bar."""

    def __init__(self, process: subprocess.Popen[bytes], bar: Bar) -> None:
        assert process.stderr is not None
        self._lines: list[str] = []
        self._thread = threading.Thread(target=self._read, args=(process.stderr, bar), daemon=True)
        self._thread.start()

    def _read(self, pipe: IO[bytes], bar: Bar) -> None:
        for raw in pipe:
            line = raw.decode(errors="replace").strip()
            if line.startswith(_TOTAL) and line[len(_TOTAL) :].isdigit():
                bar.expect(int(line[len(_TOTAL) :]))
            elif line:
                self._lines.append(line)

    def all(self) -> list[str]:
        self._thread.join()
        return self._lines


class _Counted:
    """A file that tells a bar what was read of it."""

    def __init__(self, file: IO[bytes], bar: Bar) -> None:
        self._file = file
        self._bar = bar

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._bar.advance(len(data))
        return data
