"""Files of a host that are checked before they replace the old ones, or that nobody but root may read."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Generator
from io import StringIO

from pyinfra import host
from pyinfra.api import FileUploadCommand, FunctionCommand, QuoteString, StringCommand, operation
from pyinfra.facts.files import FileContents, Sha256File

Commands = Generator[StringCommand | FileUploadCommand | FunctionCommand, None, None]


@operation()
def validated(dest: str, content: str, check: str, mode: str = "0644") -> Commands:
    """Write `content` to `dest` once the shell command `check` (with `{}` for the new file's path) accepts it.

    A file that fails its check never replaces the one in use, and the host fails with the checker's words.
    """
    current = host.get_fact(FileContents, path=dest)
    if current is not None and "\n".join(current) == content.rstrip("\n"):
        host.noop(f"{dest} is up to date")
        return
    new = f"{dest}.new"
    yield FileUploadCommand(StringIO(content), new, remote_temp_filename=host.get_temp_filename(new))
    yield StringCommand("sh", "-c", QuoteString(f"{check.format(new)} || {{ rm -f {new}; exit 1; }}"))
    yield StringCommand("chmod", mode, QuoteString(new))
    yield StringCommand("mv", "-f", QuoteString(new), QuoteString(dest))


@operation()
def secret(dest: str, content: str) -> Commands:
    """Write `content`, which nobody but root may read, without showing it."""
    if host.get_fact(Sha256File, path=dest) == hashlib.sha256(content.encode()).hexdigest():
        host.noop(f"{dest} is up to date")
        return
    new = shlex.quote(f"{dest}.new")
    script = f"set -e; umask 077; cat >{new}; mv -f {new} {shlex.quote(dest)}"
    yield StringCommand("sh", "-c", QuoteString(script), _stdin=content)
