"""A host's units, clock and paths."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from pyinfra.api import FactBase, StringCommand
from pyinfra.api.command import QuoteString

from flexi.facts.ollama import EMPTY_MOUNT
from flexi.probe import SMI
from flexi_host.agent import smi

_CARDS = f"{SMI}\nthe_cards {','.join(smi.FIELDS)}\n"


class UnitNames(FactBase[list[str]]):
    """Instances of a template unit that run or start at boot, and of plain units the same."""

    default = list

    def command(self, pattern: str) -> StringCommand:
        listing = "--all --plain --no-legend --no-pager"
        script = (
            f"systemctl list-units {listing} {shlex.quote(pattern)} | awk '$3 != \"inactive\" {{print $1}}'; "
            f"find /etc/systemd/system -path '*.wants/*' -name {shlex.quote(pattern)} -printf '%f\\n'"
        )
        return StringCommand("sh", "-c", QuoteString(script))

    def process(self, output: list[str]) -> list[str]:
        return sorted({line.strip() for line in output if line.strip()})


@dataclass(frozen=True)
class LocalTime:
    """The host's wall clock: ISO weekday (1 is Monday) and minutes since midnight."""

    weekday: int
    minute: int


class HostTime(FactBase[LocalTime]):
    def command(self) -> StringCommand:
        return StringCommand("date '+%u %H %M'")

    def process(self, output: list[str]) -> LocalTime:
        weekday, hours, minutes = (int(field) for field in output[0].split())
        return LocalTime(weekday, 60 * hours + minutes)


class MatchingPaths(FactBase[list[str]]):
    """Paths that exist among those which the shell patterns match; not directories of empty mount points, of which
    nothing can be removed."""

    default = list

    def command(self, patterns: Sequence[str]) -> StringCommand:
        there = '{ [ -e "$path" ] || [ -h "$path" ]; } && ! empty_mount "$path"'
        script = f'{EMPTY_MOUNT}for path in {" ".join(patterns)}; do {there} && echo "$path"; done; true'
        return StringCommand("sh", "-c", QuoteString(script))

    def process(self, output: list[str]) -> list[str]:
        return [line for line in output if line.startswith("/")]
