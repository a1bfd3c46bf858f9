"""Ollama's archive: its digest as the release publishes it, and where it lies on this machine."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from flexi.catalog.platforms import OLLAMA_ARCHIVE
from flexi.errors import FlexiError
from flexi.plan.model.ollama import OllamaPlan

from .download import MissingError, read

SUMS = "sha256sum.txt"
_LINE = re.compile(rf"([0-9a-f]{{64}}) [ *](?:\./)*{re.escape(OLLAMA_ARCHIVE)}", re.MULTILINE)


def digest(plan: OllamaPlan) -> str:
    """SHA-256 of the archive: the site file's, or the one in the release's own list. FlexiError where neither is."""
    if plan.sha256 is not None:
        return plan.sha256
    try:
        text = read(plan.checksums_url, limit=1024 * 1024).decode("utf-8", "replace")
    except MissingError:
        text = ""
    found = _LINE.search(text)
    if found is None:
        raise FlexiError(f"no digest of {OLLAMA_ARCHIVE} in {plan.checksums_url}: put it there, or set ollama.sha256")
    return found.group(1)


def local_archive(plan: OllamaPlan) -> Path | None:
    """The archive on the admin's machine; None where the hosts download it."""
    parts = urlsplit(plan.archive_url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None
