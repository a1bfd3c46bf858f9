"""Files of a bundle that have arrived on the host."""

from __future__ import annotations

from dataclasses import dataclass

from pyinfra.api import FactBase, StringCommand
from pyinfra.api.command import QuoteString

from flexi.components.bundle import ARRIVED, INCOMING


@dataclass(frozen=True)
class BundleState:
    """Files of a bundle on a host: path to SHA-256 of those that are as they arrived, to None of others."""

    files: dict[str, str | None]
    free_bytes: int


class BundleFiles(FactBase[BundleState]):
    """Files of the bundle. Nothing is hashed: what has the size and the inode of its arrival is what arrived.

    Not the time of its last change, which changes when a model is linked into a store.
    """

    def command(self, home: str) -> StringCommand:
        script = (
            f"free=$(for d in {home} /var/lib; do df -Pk $d 2>/dev/null | awk 'NR==2{{print $4}}'; done | head -n1); "
            f'echo "free $free"; cd {home} 2>/dev/null || exit 0; sed "s/^/arrived /" {ARRIVED} 2>/dev/null; '
            f"for d in apt models {INCOMING}; do [ ! -d $d ] || find $d -type f -printf 'file - %s %i %p\\n'; done"
        )
        return StringCommand("sh", "-c", QuoteString(script))

    def process(self, output: list[str]) -> BundleState:
        free, arrived, files = 0, {}, {}
        for line in output:
            kind, _, rest = line.partition(" ")
            if kind == "free" and rest.isdigit():
                free = int(rest) * 1024
            elif kind in ("arrived", "file") and rest.count(" ") == 3:
                sha256, size, inode, path = rest.split(" ")
                if kind == "arrived":
                    arrived[path] = (sha256, size, inode)
                else:
                    files[path] = (size, inode)
        known = {path: arrived.get(path, ("", "", "")) for path in files}
        return BundleState({path: known[path][0] if known[path][1:] == files[path] else None for path in files}, free)
