"""Stamps: the digest of the files that a service last started with."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from pyinfra.api import FactBase, StringCommand
from pyinfra.api.command import QuoteString

from flexi.components.stamps import STAMPS, stamp_digest_command


@dataclass(frozen=True)
class StampState:
    """Digest of some files now, and the one that was stamped when something was last done with them."""

    present: str
    stamped: str | None


class Stamp(FactBase[StampState]):
    def command(self, what: str, inputs: Sequence[str]) -> StringCommand:
        script = f"{stamp_digest_command(inputs)}; cat {shlex.quote(f'{STAMPS}/{what}')} 2>/dev/null; true"
        return StringCommand("sh", "-c", QuoteString(script))

    def process(self, output: list[str]) -> StampState:
        lines = [line.strip() for line in output if line.strip()]
        return StampState(lines[0] if lines else "", lines[1] if len(lines) > 1 else None)
