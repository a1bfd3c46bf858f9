"""flexi-agent as one file: the package's modules in a zip that Python runs, the same bytes for the same modules."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parent / "agent"
PACKAGE = "flexi_agent"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip can tell; the real ones would make each checkout's file different."""
_MAIN = f"import sys\nfrom {PACKAGE}.__main__ import main\nsys.exit(main())\n"


def build() -> bytes:
    """The archive for `python3 flexi-agent.pyz PROGRAM` (Python 3.10 or newer, standard library only)."""
    target = io.BytesIO()
    # Stored: what zlib makes of a text differs between its builds, and so would one admin's agent from another's.
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, "__main__.py", _MAIN)
        for module in sorted(SOURCE.glob("*.py")):
            _add(archive, f"{PACKAGE}/{module.name}", module.read_text(encoding="utf-8"))
    return target.getvalue()


def _add(archive: zipfile.ZipFile, name: str, text: str) -> None:
    entry = zipfile.ZipInfo(name, _LONG_AGO)
    entry.compress_type = zipfile.ZIP_STORED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, text)
