"""A site, and the servers that its bundle is made from: the simulated registry and a directory over HTTP."""

from __future__ import annotations

import hashlib
import http.server
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from flexi.bundle.make import Summary, make
from flexi.lab.ollama_sim.catalogue import ModelSpec
from flexi.lab.services import serve_files
from flexi.plan import build_plan
from flexi.plan.model.site import Plan
from flexi.site import Site, load_site
from flexi.terminal.bars import Bars

SITE = """\
site: {{name: test}}
ssh: {{user: root}}
mirrors: {{ollama: "{ollama}", models: "{models}"{more}}}
hosts:
  one:
    address: 192.0.2.1
    platform: debian-12
    gpus: {{model: RTX A5000, count: 2}}
    groups:
      a: {{gpus: all, models: [{names}]}}
gateway: {{host: one, name: flexi.example.edu}}
"""

SPEC = ModelSpec(
    architecture="llama",
    parameters=8_000_000_000,
    quantization="Q4_0",
    weights_bytes=4 * 2**30,
    layers=32,
    heads=32,
    heads_kv=8,
    embedding_length=4096,
    context_length=8192,
    blob_bytes=1024 * 1024,
)
MODELS = {"llama3:8b": SPEC, "mistral:7b": SPEC}
ARCHIVE = b"an archive of Ollama" * 1000
VERSION = "0.24.0"


class Mirror:
    """Ollama's releases as a directory over HTTP."""

    def __init__(self, directory: Path, archive: bytes = ARCHIVE) -> None:
        release = directory / f"ollama/v{VERSION}"
        release.mkdir(parents=True)
        self.archive = release / "ollama-linux-amd64.tar.zst"
        self.archive.write_bytes(archive)
        self.sha256 = hashlib.sha256(archive).hexdigest()
        (release / "sha256sum.txt").write_text(
            f"{'0' * 64}  ./ollama-darwin.tgz\n{self.sha256}  ./{self.archive.name}\n"
        )
        self.server: http.server.ThreadingHTTPServer = serve_files("127.0.0.1", 0, directory)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/ollama"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def write_site(path: Path, ollama: str, models: str, names: Sequence[str] = tuple(MODELS), more: str = "") -> Path:
    path.write_text(SITE.format(ollama=ollama, models=models, names=", ".join(f"'{n}'" for n in names), more=more))
    path.with_suffix(".py").write_text("from flexi.inventory import pyinfra_hosts\nhosts = pyinfra_hosts(__file__)\n")
    return path


def from_makers(site: Site) -> Plan:
    return build_plan(site.from_its_makers())


def bars() -> Bars:
    return Bars(Console(), quiet=True)


def bundle(
    site_file: Path,
    folder: Path,
    parts: Sequence[str] = ("ollama", "models"),
    sources: Mapping[str, Path] | None = None,
    *,
    renew: bool = False,
) -> Summary:
    with bars() as shown:
        return make(from_makers(load_site(site_file)), folder, parts, sources or {}, renew=renew, bars=shown)
