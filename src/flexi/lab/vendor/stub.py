"""One stub package: its control fields and the few files that the simulated driver reads."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

EPOCH = "1700000000"
"""The same sources give the same package: every timestamp inside is this one."""


@dataclass(frozen=True)
class File:
    content: bytes
    mode: int = 0o644


@dataclass(frozen=True)
class Stub:
    """A Debian package as a table row. Relations are written as in debian/control."""

    name: str
    version: str
    pocket: str
    """Where it stands: `jammy`, `jammy-security`, or `cuda` for NVIDIA's flat repository."""
    depends: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    """Names of which only one package can be installed: it provides, conflicts with and replaces each."""
    section: str = "restricted/misc"
    files: Mapping[str, File] = field(default_factory=dict)
    scripts: Mapping[str, str] = field(default_factory=dict)
    """Maintainer scripts by name (`postinst`, `prerm`), without the first line."""

    @property
    def file_name(self) -> str:
        return f"{self.name}_{self.version.split(':')[-1]}_amd64.deb"

    def control(self) -> str:
        lines = [
            f"Package: {self.name}",
            f"Version: {self.version}",
            "Architecture: amd64",
            "Maintainer: flexi lab <root@localhost>",
            f"Section: {self.section}",
            "Priority: optional",
        ]
        relations = {
            "Depends": self.depends,
            "Provides": self.provides + self.alone,
            "Conflicts": self.conflicts + self.alone,
            "Replaces": self.conflicts + self.alone,
        }
        lines += [f"{key}: {', '.join(values)}" for key, values in relations.items() if values]
        return "\n".join(
            [*lines, "Description: stub of the flexi lab", " It has the name and the relations of the"]
        ) + ("\n vendor's package and nothing of its content.\n")


def build(stub: Stub, work: Path, target: Path) -> Path:
    """Build the package into `target`, using the empty directory `work`; returns its path."""
    control = work / "DEBIAN"
    control.mkdir(parents=True)
    (control / "control").write_text(stub.control(), encoding="utf-8")
    for name, body in stub.scripts.items():
        (control / name).write_text(f"#!/bin/sh\nset -e\n{body}\n", encoding="utf-8")
        (control / name).chmod(0o755)
    for name, file in stub.files.items():
        path = work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        path.chmod(file.mode)
    for directory in (path for path in [work, *work.rglob("*")] if path.is_dir()):
        directory.chmod(0o755)
    deb = target / stub.file_name
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(work), str(deb)],
        env=os.environ | {"SOURCE_DATE_EPOCH": EPOCH},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return deb
