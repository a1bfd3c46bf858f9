"""Stamps on a host: digests of the files that services last started with, and the shell commands for them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence


def stamping(what: str, inputs: Sequence[str]) -> str:
    """Shell commands that stamp `inputs` as applied, for an operation with steps of its own."""
    return f"set -e; now=$({stamp_digest_command(inputs)}); {stamp_write_command(what)}"


def stamp_write_command(what: str) -> str:
    """Return shell commands that keep the digest in $now as the stamp `what`."""
    path = shlex.quote(f"{STAMPS}/{what}")
    return f"mkdir -p {STAMPS}; printf '%s\\n' \"$now\" >{path}.new; mv -f {path}.new {path}"


STAMPS = "/var/lib/flexi/applied"


def stamp_digest_command(inputs: Sequence[str]) -> str:
    """Shell command that prints one digest over the names and contents of `inputs`; missing files count as empty."""
    # Also where a shell ends at the first failure: what it prints must not depend on who asks.
    parts = "; ".join(f"echo {shlex.quote(path)}; cat {shlex.quote(path)} 2>/dev/null || :" for path in inputs)
    return f"{{ {parts}; }} | sha256sum | cut -d' ' -f1"
