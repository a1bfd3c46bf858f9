"""How many files the chat may open, while its store of vectors is made: that store measures its memory by it.

Chroma 1.5.9 keeps a fifth as many indexes in memory as the soft limit allows files (chromadb/api/rust.py), about 3 MB
each: 2000 course files took 0.7 GB with a limit of 512, and 3 GB at 640 files, rising, with one of 20000.
"""

from __future__ import annotations

import resource

INDEXES = 100
"""Of files and course bots, the last used ones; the others are read from the disk when they are asked."""


def lower() -> int:
    """Lower the soft limit; returns what it was."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 5 * INDEXES), hard))
    return soft


def restore(soft: int) -> None:
    """The soft limit as it was: each reader of the page takes a file, too."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
