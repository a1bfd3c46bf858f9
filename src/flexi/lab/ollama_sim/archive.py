"""Builds the release archive of the simulated Ollama, laid out as the real one. Runs on the admin's machine.

Source: scripts/build_linux.sh. Needs the `zstd` command.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import zipfile
from pathlib import Path

from .version import at_least

ARCHIVE = "ollama-linux-amd64.tar.zst"
CHECKSUMS = "sha256sum.txt"

_PACKAGE = Path(__file__).resolve().parent
_ADMIN_ONLY = {"archive.py", "testing.py"}
_LIBRARIES = (
    "libggml-base.so",
    "libggml-cpu-haswell.so",
    "libggml-cpu-x64.so",
    "cuda_v12/libcublas.so.12",
    "cuda_v12/libcudart.so.12",
    "cuda_v12/libggml-cuda.so",
    "cuda_v13/libcublas.so.13",
    "cuda_v13/libcudart.so.13",
    "cuda_v13/libggml-cuda.so",
    "vulkan/libggml-vulkan.so",
)
_LLAMA_SERVER = ("llama-server",)
"""From 0.30 on: what every model runs in (llm/llama_binary.go)."""
_MTIME = 1_778_716_800
"""14 May 2026, when 0.24.0 came out: a fixed time, so that the same sources give the same archive."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The oldest moment that a zip file can name, for the same reason."""


def build_archive(directory: Path, version: str = "0.24.0") -> Path:
    """Write `ollama-linux-amd64.tar.zst` and `sha256sum.txt` into `directory`; the archive's path.

    The same sources and version give the same bytes. Raises OSError, or subprocess.CalledProcessError from zstd.
    """
    directory.mkdir(parents=True, exist_ok=True)
    archive = directory / ARCHIVE
    packed = subprocess.run(
        ["zstd", "-q", "-3", "--single-thread", "-c"], input=_tar(version), stdout=subprocess.PIPE, check=True
    ).stdout
    archive.write_bytes(packed)
    digest = hashlib.sha256(packed).hexdigest()
    # Two spaces and "./", as in the release's own file.
    (directory / CHECKSUMS).write_text(f"{digest}  ./{ARCHIVE}\n")
    return archive


def zipapp(version: str) -> bytes:
    """The `ollama` command as one executable file for Python 3.10 or later."""
    sources = {
        f"flexi/lab/ollama_sim/{path.name}": path.read_bytes()
        for path in _PACKAGE.glob("*.py")
        if path.name not in _ADMIN_ONLY
    }
    simulated_gpu = _PACKAGE.parent / "gpu_sim"
    sources["flexi/lab/gpu_sim/driver.py"] = (simulated_gpu / "driver.py").read_bytes()
    for package in ("flexi", "flexi/lab", "flexi/lab/gpu_sim"):
        sources[f"{package}/__init__.py"] = b""
    # Only VERSION is another one.
    text = sources["flexi/lab/ollama_sim/version.py"].decode()
    sources["flexi/lab/ollama_sim/version.py"] = text.replace('VERSION = "0.24.0"', f'VERSION = "{version}"').encode()
    sources["__main__.py"] = (
        b"import sys\n\nfrom flexi.lab.ollama_sim.cli import main\n\nsys.exit(main(sys.argv[1:]))\n"
    )
    out = io.BytesIO(b"")
    out.write(b"#!/usr/bin/python3\n")
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as bundle:
        for name in sorted(sources):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            bundle.writestr(entry, sources[name])
    return out.getvalue()


def _tar(version: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        _add(tar, "bin/ollama", zipapp(version), 0o755)
        for name in (*_LIBRARIES, *(_LLAMA_SERVER if at_least(version, 0, 30) else ())):
            _add(tar, f"lib/ollama/{name}", f"simulated {name}\n".encode(), 0o755)
    return out.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    entry.mode = mode
    entry.mtime = _MTIME
    tar.addfile(entry, io.BytesIO(data))
