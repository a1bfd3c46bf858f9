"""A published release of Ollama in a directory."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from flexi.plan.model.ollama import OllamaPlan

VERSION = "0.24.0"


class Release:
    """A published release in a directory: archive and sha256sum.txt as on Ollama's release page."""

    def __init__(self, directory: Path, content: str = "#!/bin/sh\necho hello\n") -> None:
        tree = directory / "tree"
        (tree / "bin").mkdir(parents=True)
        (tree / "bin/ollama").write_text(content)
        (tree / "bin/ollama").chmod(0o755)
        self.archive = directory / "ollama-linux-amd64.tar.zst"
        subprocess.run(
            ["tar", "--zstd", "-cf", str(self.archive), "-C", str(tree), "bin"], check=True, capture_output=True
        )
        self.sha256 = hashlib.sha256(self.archive.read_bytes()).hexdigest()
        self.checksums = directory / "sha256sum.txt"
        self.checksums.write_text(f"{'0' * 64}  ./ollama-linux-arm64.tar.zst\n{self.sha256}  ./{self.archive.name}\n")

    def plan(self, sha256: str | None = None) -> OllamaPlan:
        return OllamaPlan(
            version=VERSION,
            archive_url=self.archive.as_uri(),
            checksums_url=self.checksums.as_uri(),
            sha256=sha256,
            packages=(),
            instances=(),
        )
