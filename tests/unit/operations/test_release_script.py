"""The script that installs an Ollama release, run for real by sh with file: addresses."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from support.release import VERSION, Release

from flexi.operations import ollama
from flexi.plan.model.ollama import OllamaPlan

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("zstd", "curl"))), reason="needs the zstd and curl commands, as the hosts have them"
)


@pytest.fixture
def published(tmp_path: Path) -> Release:
    return Release(tmp_path / "published")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "opt-ollama"


def install(plan: OllamaPlan, root: Path) -> subprocess.CompletedProcess[str]:
    script = ollama.install_script(plan, str(root))
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "published digest"])
def test_unpacks_a_release(published: Release, root: Path, pinned: bool) -> None:
    done = install(published.plan(published.sha256 if pinned else None), root)
    assert done.returncode == 0, done.stderr
    assert subprocess.check_output([root / VERSION / "bin/ollama"], text=True) == "hello\n"
    assert (root / VERSION / ".archive-sha256").read_text().strip() == published.sha256
    assert not list((root / ".download").iterdir()), "the archive takes room twice"


def test_a_wrong_digest_leaves_the_old_release(published: Release, root: Path, tmp_path: Path) -> None:
    assert install(published.plan(), root).returncode == 0
    other = Release(tmp_path / "other", "#!/bin/sh\necho evil\n")
    done = install(other.plan(sha256=published.sha256), root)
    assert done.returncode == 1
    assert "nothing was switched" in done.stderr
    assert other.sha256 in done.stderr
    assert subprocess.check_output([root / VERSION / "bin/ollama"], text=True) == "hello\n"
    assert not list((root / ".download").iterdir()), "a wrong file must not be resumed next time"


def test_an_interrupted_download_and_unpacking_converge(published: Release, root: Path) -> None:
    """What a killed run leaves behind: half an archive and half a tree."""
    (root / ".download").mkdir(parents=True)
    half = published.archive.read_bytes()[:50]
    (root / ".download" / f"ollama-{VERSION}.tar.zst").write_bytes(half)
    (root / f".new-{VERSION}" / "bin").mkdir(parents=True)
    assert install(published.plan(), root).returncode == 0
    assert subprocess.check_output([root / VERSION / "bin/ollama"], text=True) == "hello\n"
    assert not (root / f".new-{VERSION}").exists()


def test_a_complete_download_is_used(published: Release, root: Path) -> None:
    (root / ".download").mkdir(parents=True)
    shutil.copy(published.archive, root / ".download" / f"ollama-{VERSION}.tar.zst")
    done = install(published.plan(), root)
    assert done.returncode == 0, done.stderr


def test_rubbish_instead_of_a_partial_download_is_thrown_away(published: Release, root: Path) -> None:
    (root / ".download").mkdir(parents=True)
    (root / ".download" / f"ollama-{VERSION}.tar.zst").write_bytes(b"x" * 20)
    assert install(published.plan(), root).returncode == 1
    assert install(published.plan(), root).returncode == 0


def test_an_archive_without_ollama_is_refused(root: Path, published: Release, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    (empty / "lib").mkdir(parents=True)
    subprocess.run(["tar", "--zstd", "-cf", str(published.archive), "-C", str(empty), "lib"], check=True)
    digest = hashlib.sha256(published.archive.read_bytes()).hexdigest()
    done = install(published.plan(digest), root)
    assert done.returncode == 1
    assert "no bin/ollama" in done.stderr
    assert not (root / VERSION).exists()


def test_a_missing_digest_is_named(published: Release, root: Path) -> None:
    published.checksums.write_text(f"{'0' * 64}  ./ollama-linux-arm64.tar.zst\n")
    done = install(published.plan(), root)
    assert done.returncode == 1
    assert "set ollama.sha256" in done.stderr
