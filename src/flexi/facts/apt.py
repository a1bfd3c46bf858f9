"""apt's packages, holds, sources and keys."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from pyinfra.api import FactBase, StringCommand
from pyinfra.api.command import QuoteString

from flexi.catalog.platforms import APT_SOURCES, APT_SOURCES_ONLY

HOLDS = "/var/lib/flexi/holds"
"""File with the names of packages that flexi put on hold."""


@dataclass(frozen=True)
class Holds:
    """Packages on hold, and those of them that flexi put there."""

    held: frozenset[str]
    set_by_flexi: frozenset[str]


class HeldPackages(FactBase[Holds]):
    def command(self) -> StringCommand:
        return StringCommand("sh", "-c", QuoteString(f"apt-mark showhold; echo =; cat {HOLDS} 2>/dev/null; true"))

    def process(self, output: list[str]) -> Holds:
        lines = [line.strip() for line in output]
        border = lines.index("=") if "=" in lines else len(lines)
        held = frozenset(line for line in lines[:border] if line)
        return Holds(held, held & frozenset(lines[border + 1 :]))


class AptSourceFiles(FactBase[list[str]]):
    """Paths of the apt sources that flexi wrote, with and without `mirrors.apt_only`."""

    default = list

    def command(self) -> StringCommand:
        script = f"find {APT_SOURCES} {APT_SOURCES_ONLY} -maxdepth 1 -name 'flexi-*.sources' 2>/dev/null; true"
        return StringCommand("sh", "-c", QuoteString(script))

    def process(self, output: list[str]) -> list[str]:
        return sorted(line.strip() for line in output if line.strip())


class KeyFingerprints(FactBase[list[str]]):
    """Fingerprints of the primary keys in an OpenPGP key file; empty where the file is missing."""

    default = list

    def command(self, path: str) -> StringCommand:
        return StringCommand(
            "gpg", "--batch", "--with-colons", "--show-keys", QuoteString(path), "2>/dev/null", "||", "true"
        )

    def process(self, output: list[str]) -> list[str]:
        fingerprints, primary = [], False
        for line in output:
            fields = line.split(":")
            if fields[0] in ("pub", "sub"):
                primary = fields[0] == "pub"
            elif fields[0] == "fpr" and primary:
                fingerprints.append(fields[9])
        return fingerprints


class Upgrades(FactBase[dict[str, str]]):
    """Packages that apt would install or upgrade to bring `packages` (those that are installed, held or not) to the
    newest that it may have, and to install `also`, with the present index and pins: package -> version. Empty where it
    cannot, or where there is nothing to bring up."""

    default = dict

    def command(self, packages: Sequence[str], also: Sequence[str] = ()) -> StringCommand:
        names = " ".join(shlex.quote(name) for name in packages)
        new = " ".join(shlex.quote(name) for name in also)
        have = (
            f"have=$(dpkg-query -W -f='${{db:Status-Status}} ${{Package}}\n' {names} 2>/dev/null | "
            "sed -n 's/^installed //p'); [ -z \"$have\" ] || "
        )
        script = (
            (have if packages else "have=; ") + "apt-get -s -qq -o APT::Get::Show-User-Simulation-Note=no install "
            f"--allow-change-held-packages --no-install-recommends $have {new} | grep ^Inst; true"
        )
        return StringCommand("sh", "-c", QuoteString(script))

    def process(self, output: list[str]) -> dict[str, str]:
        matches = (re.match(r"Inst (\S+) (?:\[[^]]*\] )?\((\S+)", line) for line in output)
        return {match.group(1): match.group(2) for match in matches if match}


class RealPackage(FactBase[bool]):
    """True where an archive of this host has a package that is not empty: Debian and Ubuntu mark those that only
    pull another one by their section or their description (as `flexi.probe` knows them)."""

    default = bool

    def command(self, package: str) -> StringCommand:
        real = "!/\\nSection: ([a-z-]+\\/)?oldlibs/ && !/[Tt]ransitional/ {found = 1}"
        script = (
            f"apt-cache show {shlex.quote(package)} 2>/dev/null | "
            f"awk 'BEGIN {{RS = \"\"}} {real} END {{exit !found}}' && echo yes; true"
        )
        return StringCommand("sh", "-c", QuoteString(script))

    def process(self, output: list[str]) -> bool:
        return "yes" in output
