"""What a lab is called where names are short and shared with others: namespaces, links, tables, cgroups.

Every resource that the lab makes outside its directory is named after the lab's id, so that `down` finds all of
them without having to remember what was made: also after `up` was killed in the middle.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from flexi.errors import InputError
from flexi.paths import ROOT

DEFAULT = "lab"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
LINK_PREFIX = "fx"


@dataclass(frozen=True)
class Naming:
    """Names of one lab. Two checkouts' labs of the same name have different ids."""

    name: str
    root: Path = ROOT

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InputError(f"'{self.name}' is no name for a lab: use small letters, digits and '-', at most 32")

    @property
    def id(self) -> str:
        return hashlib.sha256(f"{self.root}/{self.name}".encode()).hexdigest()[:8]

    @property
    def directory(self) -> Path:
        return self.root / ".lab" / self.name

    @property
    def router(self) -> str:
        """Network namespace of the router, and the cgroup that holds the lab's machines."""
        return f"flexi-{self.id}"

    def namespace(self, machine: str) -> str:
        return f"{self.router}-{machine}"

    @property
    def uplink(self) -> str:
        """The one link in the host's own namespace; Linux allows 15 characters."""
        return f"{LINK_PREFIX}{self.id}"

    @property
    def table(self) -> str:
        return f"flexi_{self.id}"
