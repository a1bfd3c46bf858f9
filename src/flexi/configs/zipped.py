"""Python programs as one file: a zip that Python runs or imports from, the same bytes for the same modules."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

_LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip can tell; the real ones would make each checkout's file different."""


def package_files(folder: Path) -> dict[str, str]:
    """Read the modules of the package in `folder`: text by path in the archive, sorted."""
    return {
        f"{folder.name}/{path.relative_to(folder)}": path.read_text(encoding="utf-8")
        for path in sorted(folder.rglob("*.py"))
    }


def zipped(files: Mapping[str, str]) -> bytes:
    """A zip of texts by path, in their order."""
    target = io.BytesIO()
    # Stored: what zlib makes of a text differs between its builds, and so would one admin's program from another's.
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, text in files.items():
            entry = zipfile.ZipInfo(name, _LONG_AGO)
            entry.compress_type = zipfile.ZIP_STORED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, text)
    return target.getvalue()
