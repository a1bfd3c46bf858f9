"""A folder beside the chat's own for what a backup or a restore unpacks, one at a time, and what becomes of it when
one of them was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from flexi_chat.backup.archive import BackupError

PREFIX = ".flexi-"
OLD = "old"
"""In there: what the chat had. Never removed under this name."""
UNFINISHED = "unfinished"
"""There while folder, secrets and database of the chat may not belong together. Its unit does not start meanwhile
(templates/chat/flexi-chat.service)."""
PATIENCE_S = 30.0
"""One whose connection broke goes on for a moment."""
_POLL_S = 0.2


@contextlib.contextmanager
def beside(data: Path, kind: str, undo: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """A new folder beside `data`, `kind` in its name, which is removed afterwards. BackupError where another backup or
    restore is under way. `undo` puts back what a restore has changed that was killed, whose folder it is given; without
    it that is a BackupError, too."""
    handle = os.open(data.parent, os.O_RDONLY)
    try:
        _lock(handle)
        _sweep(data, undo)
        folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{kind}-", dir=data.parent))
        try:
            yield folder
        finally:
            _remove(folder)
    finally:
        os.close(handle)


def _lock(handle: int) -> None:
    """The kernel frees it with the process."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise BackupError("another backup or restore of the chat is under way on this host") from None
            time.sleep(_POLL_S)
        else:
            return


def _sweep(data: Path, undo: Callable[[Path], None] | None) -> None:
    """What a killed run left goes, once it is undone."""
    for kind in ("backup", "restore"):
        for folder in sorted(data.parent.glob(f"{PREFIX}{kind}-*")):
            if (folder / UNFINISHED).exists():
                if undo is None:
                    raise BackupError(
                        "a restore was cut off on this host, and the chat does not start before it is undone: run "
                        "`flexi restore` again, which does that first"
                    )
                undo(folder)
            _remove(folder)


def _remove(folder: Path) -> None:
    if not (folder / OLD).exists():
        shutil.rmtree(folder, ignore_errors=True)
