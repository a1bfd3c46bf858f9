"""A map file into the HAProxy that runs, whole and at once: no request ever sees half of it, and no stream notices.

HAProxy reads map files when it starts; later it is told over its socket (management.txt 2.4, 9.3: `prepare map`,
`add map @ver`, `commit map`).
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from flexi_host.haproxy import admin_socket

LINES_AT_ONCE = 40
"""Of a payload; a command must fit into HAProxy's buffer (tune.bufsize, 16 KiB), and a line has some 200 bytes."""
TRIES = 40
PAUSE_S = 0.25


class MapError(OSError):
    """HAProxy did not take the map."""


def follow(file: Path, socket_path: Path, ask: Callable[[Path, str], str] | None = None) -> bool:
    """Make the running HAProxy's table `file` what the file says. False where no HAProxy runs: it will read the file.

    A reload in between starts from the file, and the old process may still have got the command: so what is in force
    is read again until it is what the file says, and no reload is under way. MapError where it never is; OSError
    where the file cannot be read.
    """
    ask = ask or admin_socket.ask
    for attempt in range(TRIES):
        if attempt > 1:  # the first look again comes at once: as a rule all is well then
            time.sleep(PAUSE_S)
        # Before the look: a reload that begins later reads the file as it is now.
        settled = _state() != "reloading"
        try:
            if known(file, socket_path, ask) and settled:
                return True
            _replace(file, parse(file.read_text(encoding="ascii")), socket_path, ask)
        except (FileNotFoundError, ConnectionRefusedError):
            if not _running():
                return False
    raise MapError(f"HAProxy did not take {file} in {TRIES * PAUSE_S:.0f} s")


def known(file: Path, socket_path: Path, ask: Callable[[Path, str], str] | None = None) -> bool:
    """Whether the running HAProxy's table is what the file says. OSError where no HAProxy runs, or no file is there."""
    return _shown((ask or admin_socket.ask)(socket_path, f"show map {file}")) == parse(file.read_text(encoding="ascii"))


def parse(text: str) -> dict[str, str]:
    """Keys and values of a map file: a key, blanks, its value; `#` begins a comment (configuration.txt 2.4, `map`)."""
    entries = {}
    for line in map(str.strip, text.splitlines()):
        if line and not line.startswith("#"):
            key, _, value = line.partition(" ")
            if not value:
                raise MapError(f"{line!r} is no line of a map")
            entries[key] = value.strip()
    return entries


def _shown(answer: str) -> dict[str, str]:
    """What `show map <file>` printed: address, key, value."""
    rows = (line.split(None, 2) for line in answer.splitlines() if line.startswith("0x"))
    return {row[1]: row[2] for row in rows if len(row) == 3}


def _replace(file: Path, entries: Mapping[str, str], socket_path: Path, ask: Callable[[Path, str], str]) -> None:
    prepared = ask(socket_path, f"prepare map {file}")
    found = re.search(r"New version created: (\d+)", prepared)
    if found is None:
        raise MapError(f"HAProxy knows no table {file}: {prepared.strip()}")
    version = found[1]
    lines = [f"{key} {value}\n" for key, value in entries.items()]
    for start in range(0, len(lines), LINES_AT_ONCE):
        payload = "".join(lines[start : start + LINES_AT_ONCE])
        _silent(ask(socket_path, f"add map @{version} {file} <<\n{payload}"))
    _silent(ask(socket_path, f"commit map @{version} {file}"))


def _silent(answer: str) -> None:
    """These commands answer with nothing, or with what is wrong."""
    if answer.strip():
        raise MapError(f"HAProxy refused the table: {answer.strip()}")


def _state() -> str:
    done = subprocess.run(["systemctl", "is-active", "haproxy.service"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _running() -> bool:
    return _state() in ("active", "reloading", "activating")
