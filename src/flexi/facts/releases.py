"""Releases of Ollama and Open WebUI beside each other."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pyinfra.api import FactBase, StringCommand
from pyinfra.api.command import QuoteString


@dataclass(frozen=True)
class Releases:
    """Releases side by side: name -> SHA-256 of what it was made from, and the current one."""

    installed: dict[str, str]
    current: str | None
    previous: str | None = None
    """The release that was current before: what a rollback goes back to."""


class OllamaReleases(FactBase[Releases]):
    root = "/opt/ollama"
    mark = ".archive-sha256"
    """The file of a release that holds the digest; there once the release is whole."""

    def command(self) -> StringCommand:
        root = self.root
        return StringCommand(
            "sh",
            "-c",
            QuoteString(
                # Directories only: through the links each release would be there twice.
                f"for d in {root}/*; do f=$d/{self.mark}; "
                '[ ! -h "$d" ] && [ -f "$f" ] && echo "$f $(cat "$f")"; done; '
                f'echo "current $(readlink {root}/current)"; echo "previous $(readlink {root}/previous)"'
            ),
        )

    def process(self, output: list[str]) -> Releases:
        installed: dict[str, str] = {}
        links: dict[str, str | None] = {}
        for line in output:
            key, _, value = line.partition(" ")
            if key in ("current", "previous"):
                links[key] = value.strip().rstrip("/").rsplit("/", 1)[-1] or None
            elif match := re.fullmatch(rf"{self.root}/([^/]+)/{re.escape(self.mark)}", key):
                installed[match.group(1)] = value.strip()
        return Releases(installed, links.get("current"), links.get("previous"))


class ChatReleases(OllamaReleases):
    """Venvs of Open WebUI, each made from a lock."""

    root = "/opt/flexi/chat"
    mark = ".lock-sha256"
