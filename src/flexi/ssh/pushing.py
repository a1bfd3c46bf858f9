"""Large files from the admin's machine to a host, over OpenSSH: continued where a transfer broke, checked on arrival.

pyinfra's own upload hashes the file on the host, sends it by SFTP and copies it: thrice the work, and from the
beginning whenever it breaks.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO

from flexi.components.bundle import ARRIVED, INCOMING
from flexi.errors import FlexiError
from flexi.plan.model.ssh import SshPlan
from flexi.ssh import remote
from flexi.terminal.bars import Bars

TRIES = 3
"""Connections for one push; a transfer that was cut goes on with the next."""
PIECE = 256 * 1024
_AGAIN_S = 1.0


@dataclass(frozen=True)
class Item:
    """A file to bring: where it lies here, its path below the directory there, its SHA-256 and size in bytes."""

    source: Path
    path: str
    sha256: str
    size: int


# Reads one line for each file, then as many bytes as the line says are missing. `head -c` and `read` of a POSIX shell
# take from a pipe exactly what they need. A file gets its name only when its digest fits.
_RECEIVE = """
set -eu
umask 022
mkdir -p {home}/{incoming}
cd {home}
while read -r sha256 size offset path; do
  part={incoming}/$sha256
  [ "$offset" != 0 ] || : >"$part"
  head -c "$((size - offset))" >>"$part"
  have=$(wc -c <"$part")
  [ "$have" -eq "$size" ] || {{ echo "$path: the transfer was cut" >&2; exit 3; }}
  found=$(sha256sum <"$part" | cut -d' ' -f1)
  if [ "$found" != "$sha256" ]; then
    rm -f "$part"
    echo "$path arrived with the SHA-256 $found, wanted $sha256" >&2
    exit 4
  fi
  case $path in */*) mkdir -p "${{path%/*}}" ;; esac
  chown {owner}: "$part"
  mv -f "$part" "$path"
  find "$path" -printf "$sha256 %s %i %p\\n" >>{arrived}
done
"""
_HALF = "cd {home}/{incoming} 2>/dev/null && find . -type f -printf '%f %s\\n' || true"


def push(ssh: SshPlan, items: Sequence[Item], home: str, bars: Bars, owner: str = "root") -> None:
    """Bring `items` below the directory `home` of a host; `owner` has them and everybody may read them.

    FlexiError in words where that fails; what has arrived stays, and the next call goes on from there.
    """
    left = list(items)
    for attempt in range(TRIES):
        try:
            left = _push_once(ssh, left, home, bars, owner)
            return
        except _BrokenError as broken:
            left = broken.left
            if attempt + 1 == TRIES:
                raise FlexiError(f"{broken}; what has arrived stays: run it again to continue") from None
        time.sleep(_AGAIN_S)


class _BrokenError(Exception):
    def __init__(self, words: str, left: list[Item]) -> None:
        super().__init__(words)
        self.left = left


def _push_once(ssh: SshPlan, items: list[Item], home: str, bars: Bars, owner: str) -> list[Item]:
    half = _half(ssh, home)
    command = _RECEIVE.format(home=home, incoming=INCOMING, arrived=ARRIVED, owner=owner)
    with tempfile.TemporaryFile() as words:
        receiver = subprocess.Popen(
            _as_root(ssh, command), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=words
        )
        assert receiver.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # then the receiver's own words say why
                for item in items:
                    _send(item, half.get(item.sha256, 0), receiver.stdin, bars)
        finally:
            # Without its input the receiver keeps what has come and ends.
            with contextlib.suppress(BrokenPipeError):
                receiver.stdin.close()
            status = receiver.wait()
        if status == 0:
            return []
        words.seek(0)
        said = words.read().decode("utf-8", "replace").strip().splitlines()
    reason = said[-1] if said else f"the connection broke (ssh ended with {status})"
    arrived = _arrived(ssh, home)
    raise _BrokenError(reason, [item for item in items if arrived.get(item.path) != item.sha256])


def _send(item: Item, have: int, pipe: IO[bytes], bars: Bars) -> None:
    """One file, from where its half on the host ends. FlexiError where it cannot be read."""
    offset = have if 0 < have <= item.size else 0
    bar = bars.bar(item.path, item.size, offset)
    try:
        file = item.source.open("rb")
    except OSError as error:
        raise FlexiError(f"{item.source} cannot be read: {error.strerror}") from None
    with file:
        file.seek(offset)
        pipe.write(f"{item.sha256} {item.size} {offset} {item.path}\n".encode())
        left = item.size - offset
        while left and (piece := _read(file, min(PIECE, left))):
            pipe.write(piece)
            left -= len(piece)
            bar.advance(len(piece))
        pipe.flush()
    if left:
        raise FlexiError(f"{item.source} became shorter while it was read")
    bar.finished("sent")


def _read(file: BufferedReader, size: int) -> bytes:
    """A bad disk or a network file system that went away is no traceback."""
    try:
        return file.read(size)
    except OSError as error:
        raise FlexiError(f"{file.name} cannot be read: {error.strerror}") from None


def _half(ssh: SshPlan, home: str) -> dict[str, int]:
    """Digest to bytes of what an earlier transfer left. FlexiError where the host cannot be asked."""
    text = _ask(ssh, _HALF.format(home=home, incoming=INCOMING))
    return {line.split()[0]: int(line.split()[1]) for line in text.splitlines() if len(line.split()) == 2}


# One that was taken away since, or changed, has not arrived: it has another size or inode than the record says.
_THERE = """
cd {home} 2>/dev/null || exit 0
[ ! -f {arrived} ] || while read -r sha256 size inode path; do
  [ "$(find "$path" -printf '%s %i' 2>/dev/null)" != "$size $inode" ] || echo "$sha256 $path"
done <{arrived}
"""


def _arrived(ssh: SshPlan, home: str) -> dict[str, str]:
    """Path to digest of what lies on the host as it arrived."""
    try:
        text = _ask(ssh, _THERE.format(home=home, arrived=ARRIVED))
    except FlexiError:
        return {}
    pairs = [line.partition(" ") for line in text.splitlines()]
    return {path: sha256 for sha256, _, path in pairs}


def _ask(ssh: SshPlan, command: str) -> str:
    done = subprocess.run(_as_root(ssh, command), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FlexiError(f"cannot send to {ssh.address}: {done.stderr.strip() or f'ssh ended with {done.returncode}'}")
    return done.stdout


def _as_root(ssh: SshPlan, script: str) -> list[str]:
    command = f"sh -c {shlex.quote(script)}"
    return remote.ssh_command(ssh, command if ssh.user == "root" else f"sudo -n {command}")
