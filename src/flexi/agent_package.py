"""The agent's files as they are copied to the hosts, and a digest that changes with any of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

SOURCE = Path(__file__).resolve().parent / "agent"


def modules() -> list[str]:
    """File names of the package, sorted."""
    return sorted(path.name for path in SOURCE.glob("*.py"))


def digest() -> str:
    """Hex SHA-256 over names and contents. Units carry it, so that new code means a changed unit and a restart."""
    whole = hashlib.sha256()
    for name in modules():
        whole.update(name.encode() + b"\0" + (SOURCE / name).read_bytes() + b"\0")
    return whole.hexdigest()
