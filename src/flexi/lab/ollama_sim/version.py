"""The version that this build says it is. `archive.build_archive` replaces this file."""

from __future__ import annotations

VERSION = "0.24.0"


def at_least(version: str, major: int, minor: int) -> bool:
    """Whether `version` ("0.30.11", "0.30.0-rc1") is `major.minor` or later."""
    parts = version.split("-")[0].split(".")
    return (int(parts[0]), int(parts[1])) >= (major, minor)
