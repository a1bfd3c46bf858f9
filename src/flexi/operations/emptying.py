"""Removing a directory that may be a mount point or a link to another disk: its files go, and of it what can go."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

# Of a link, what it leads to is emptied and the link removed; a mount point stays, empty.
_REMOVE = """
remove() {
  [ -d "$1" ] || { rm -f -- "$1"; return; }
  said=$(find "$1/" -depth -mindepth 1 -delete 2>&1) || true
  [ -z "$(find "$1/" ! -type d -print -quit)" ] || { printf '%s\\n' "$said" >&2; exit 1; }
  [ -h "$1" ] && rm -f -- "$1" || rmdir -- "$1" 2>/dev/null || true
}
"""


def removal(paths: Sequence[str]) -> str:
    """Shell text that removes files and directories, whole; ends the shell with 1, and why, where a file stays."""
    return _REMOVE + "".join(f"remove {shlex.quote(path)}\n" for path in paths)
