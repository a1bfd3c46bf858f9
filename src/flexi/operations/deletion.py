"""Deletion of directories that may be mount points or links to another disk: whatever of them can go."""

from __future__ import annotations

import shlex
from collections.abc import Generator, Sequence

from pyinfra import host, logger
from pyinfra.api import QuoteString, StringCommand, operation

from flexi.facts.host import MatchingPaths

# Of a link, what it leads to is emptied and the link removed; a mount point stays, empty.
_REMOVE_FUNCTION = """
remove() {
  [ -d "$1" ] || { rm -f -- "$1"; return; }
  said=$(find "$1/" -depth -mindepth 1 -delete 2>&1) || true
  [ -z "$(find "$1/" ! -type d -print -quit)" ] || { printf '%s\\n' "$said" >&2; exit 1; }
  [ -h "$1" ] && rm -f -- "$1" || rmdir -- "$1" 2>/dev/null || true
}
"""


def shell_script(paths: Sequence[str]) -> str:
    """Return shell text that removes files and directories, whole; it ends with 1, and why, where a file stays."""
    return _REMOVE_FUNCTION + "".join(f"remove {shlex.quote(path)}\n" for path in paths)


@operation()
def remove(patterns: Sequence[str]) -> Generator[StringCommand, None, None]:
    """Remove the files and directories that the shell `patterns` (our own constants) match, whole. Of a directory that
    is a mount point the empty directory stays. Each is named before."""
    there = host.get_fact(MatchingPaths, patterns=patterns)
    if not there:
        host.noop("nothing is there")
        return
    if not host.state.is_executing:
        host.log_styled(f"would remove {', '.join(there)}", fg="yellow", log_func=logger.warning)
    yield StringCommand("sh", "-c", QuoteString(shell_script(there)))
    if any(path.startswith("/etc/systemd/") for path in there):
        yield StringCommand("systemctl", "daemon-reload")
