"""Consumers' API keys: made here, shown once, kept as SHA-256 beside the site file."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flexi.errors import InputError
from flexi.site.keys import keys_path
from flexi.site.names import CONSUMER_NAME

KEY_PREFIX = "flexi-"


def add(site_file: Path, name: str) -> str:
    """Make a key for the consumer `name` and return it; only its digest is written.

    A key has 256 bits of chance, so a plain digest of it cannot be turned back. InputError where the name is
    taken or unfit.
    """
    if not CONSUMER_NAME.fullmatch(name):
        raise InputError(f"'{name}' is no name for a consumer: use small letters, digits, '.', '_' and '-'")
    path = keys_path(site_file)
    consumers = _read(path)
    if any(consumer["name"] == name for consumer in consumers):
        raise InputError(f"{path}: there is a consumer '{name}' already; remove its entry or take another name")
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    consumers.append(
        {
            "name": name,
            "sha256": hashlib.sha256(key.encode()).hexdigest(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )
    _write(path, consumers)
    return key


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        consumers = json.loads(path.read_text(encoding="utf-8"))["consumers"]
        if not all(isinstance(consumer["name"], str) for consumer in consumers):
            raise TypeError
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a keys file ({error}); restore it from a backup or move it away") from error
    return list(consumers)


def _write(path: Path, consumers: list[dict[str, Any]]) -> None:
    """Whole or not at all: an interrupted write must not lose the other keys."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, text=True)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"consumers": consumers}, file, indent=2)
            file.write("\n")
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
