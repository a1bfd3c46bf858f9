"""The chat's Python packages for the lab: fetched once by this computer's pip, and served inside as a package index.

They are wheels for this computer's Python and platform, which are the machines' too.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Mapping
from html import escape
from pathlib import Path

from flexi.catalog import CHAT_RELEASES, chat_lock, uv_lock
from flexi.errors import FlexiError

from . import cache

FILES = "files"
INDEX = "simple"


def locks() -> dict[str, str]:
    """Name and text of each lock that the lab has the packages of."""
    return {"uv": uv_lock(), **{f"chat-{version}": chat_lock(version) for version in CHAT_RELEASES}}


def house() -> Path:
    """The cached directory whose `simple/` is the index. FlexiError where the packages cannot be fetched."""
    wanted = locks()
    key = hashlib.sha256("\n".join([sys.version, *wanted.values()]).encode()).hexdigest()[:16]
    return cache.entry("wheels", key, lambda path: _build(path, wanted))


def _build(path: Path, wanted: Mapping[str, str]) -> None:
    for name, text in wanted.items():
        lock = path / f"{name}.lock"
        lock.write_text(text, encoding="utf-8")
        # Each by itself: two releases want other versions of the same package.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary", ":all:", "--require-hashes", "--dest", str(path / FILES), "-r", str(lock)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            words = (done.stderr.strip() or "no words").splitlines()[-1]
            raise FlexiError(f"the chat's packages cannot be fetched ({name}): {words}")
    write_index(path)


def write_index(path: Path) -> None:
    """Make `path/simple` an index (PEP 503) of the wheels in `path/files`."""
    projects: dict[str, list[str]] = {}
    for wheel in sorted((path / FILES).iterdir()):
        with wheel.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        name = re.sub(r"[-_.]+", "-", wheel.name.split("-")[0]).lower()
        link = f'<a href="../../{FILES}/{escape(wheel.name)}#sha256={digest}">{escape(wheel.name)}</a>'
        projects.setdefault(name, []).append(link)
    for name, links in projects.items():
        page = path / INDEX / name / "index.html"
        page.parent.mkdir(parents=True)
        page.write_text("<!DOCTYPE html>\n" + "<br>\n".join(links) + "\n", encoding="utf-8")
