"""The lab's cache on this machine: things made once for each content, shared by all labs and checkouts.

An entry appears whole or not at all, and stays while a process holds it. It can be deleted when no lab is up.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

SHARED = Path("/var/cache/flexi-lab")
CACHE = Path(os.environ.get("FLEXI_LAB_CACHE", SHARED))
"""The bench measures with an empty one."""
LOCKS = SHARED / "locks"
"""Always the same: they also keep labs from taking the same network."""


@contextlib.contextmanager
def locked(name: str, wait: bool = True) -> Iterator[bool]:
    """Hold a lock among all commands of this machine; yields False where `wait` is off and somebody holds it.

    The kernel frees it with the process, however that ends.
    """
    LOCKS.mkdir(parents=True, exist_ok=True)
    with (LOCKS / name).open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def entry(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """The directory `<kind>-<key>`, built by `build(directory)` unless it is there; older ones of the kind that
    nobody holds are removed."""
    path = CACHE / f"{kind}-{key}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with locked(f"build-{kind}"):
        if not path.exists():
            for half_built in CACHE.glob(f".{kind}-*"):
                shutil.rmtree(half_built)
            draft = CACHE / f".{kind}-{key}"
            draft.mkdir()
            build(draft)
            draft.rename(path)
        for other in CACHE.glob(f"{kind}-*"):
            if other != path and not _is_held(other):
                shutil.rmtree(other)
    return path


def hold(path: Path) -> int:
    """Keep the entry that `path` lies in as long as this process lives; returns the descriptor that does it."""
    entry_path = CACHE / path.relative_to(CACHE).parts[0]
    descriptor = os.open(entry_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def _is_held(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
