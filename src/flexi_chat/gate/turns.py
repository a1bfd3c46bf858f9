"""What the chat's processes must not do at the same time when they start.

Open WebUI brings its database up to date when its configuration is imported (config.py, run_migrations). Two processes
that do it at once fail with a type or a table that the other has just made.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

LOCK = ".starting"


@contextlib.contextmanager
def one_after_the_other(folder: Path) -> Iterator[None]:
    """Wait until no other process is in here with the same folder; the kernel frees it with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
