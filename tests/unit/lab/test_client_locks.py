"""What the lab installs for the official clients: pinned, by hash, from wherever this computer gets its packages."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from flexi.paths import ROOT

CLIENTS = ROOT / "tests/lab/clients"
LOCKS = sorted((CLIENTS / "locks").glob("*.lock"))
PAGE = (ROOT / "docs/reference/clients.md").read_text(encoding="utf-8")


def versions(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==(\S+)", lock.read_text(encoding="utf-8"), re.M))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_every_package_is_pinned_by_hash_and_names_no_address(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    assert "://" not in text
    blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.M)[1:]
    assert blocks
    for block in blocks:
        assert "--hash=sha256:" in block, block.splitlines()[0]


def test_the_modules_too() -> None:
    lock = json.loads((CLIENTS / "javascript/package-lock.json").read_text(encoding="utf-8"))
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert packages
    for name, entry in packages.items():
        assert entry["integrity"].startswith("sha512-"), name
        assert "resolved" not in entry, name


def test_the_page_names_the_versions_that_are_tried() -> None:
    (row,) = [line for line in PAGE.splitlines() if line.startswith("| `openai` for Python")]
    pinned = [versions(CLIENTS / f"locks/openai-{major}.lock")["openai"] for major in (1, 2)]
    newest = versions(ROOT / "requirements-dev.lock")
    assert row.split("|")[2].strip() == ", ".join([*pinned, newest["openai"]])
    assert f"| `ollama` for Python | {newest['ollama']} |" in PAGE
    assert f"langchain-ollama {versions(CLIENTS / 'locks/langchain.lock')['langchain-ollama']} |" in PAGE
    modules = json.loads((CLIENTS / "javascript/package.json").read_text(encoding="utf-8"))["dependencies"]
    for name, version in modules.items():
        assert f"| `{name}` for JavaScript | {version} |" in PAGE
