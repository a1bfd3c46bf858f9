"""Packs one of these programs into a single executable file for a machine. Runs on the admin's side."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The oldest moment that a zip file can name: the same sources give the same bytes."""


def zipapp(module: str, call: str) -> bytes:
    """An executable zip of the package that runs `call` of `module`, e.g. ("smi", "main(sys.argv[1:])")."""
    sources = {
        f"gpu_sim/{path.name}": path.read_bytes() for path in _PACKAGE.glob("*.py") if path.name != Path(__file__).name
    }
    sources["__main__.py"] = f"import sys\n\nfrom gpu_sim.{module} import main\n\nsys.exit({call})\n".encode()
    out = io.BytesIO()
    # No site packages and no user's environment: a tool of the system, and quick to start.
    out.write(b"#!/usr/bin/python3 -IS\n")
    with zipfile.ZipFile(out, "a", zipfile.ZIP_STORED) as bundle:
        for name in sorted(sources):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            bundle.writestr(entry, sources[name])
    return out.getvalue()
