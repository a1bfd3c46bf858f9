"""Directories that cannot be removed whole: the scripts run by sh, with mounts in a namespace of their own."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from flexi.facts.host import MatchingPaths
from flexi.facts.ollama import _LIST_STORES, OLLAMA_HOMES
from flexi.operations import deletion

ALONE = ("unshare", "--map-root-user", "--mount")
try:
    can_mount = subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode == 0
except OSError:
    can_mount = False


def paths(*patterns: Path) -> str:
    script = str(MatchingPaths().command([str(pattern) for pattern in patterns]).get_masked_value())
    return shlex.split(script.removeprefix("sh -c "))[0]


def sh(script: str, *before: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*before, "sh", "-c", script], capture_output=True, text=True, check=False)


def tree(root: Path) -> Path:
    for file in ("a/models/blobs/sha256-1", "a/id", ".hidden"):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text("x")
    return root


def test_files_and_directories_go_whole(tmp_path: Path) -> None:
    directory, file = tree(tmp_path / "with space"), tmp_path / "file"
    file.touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    everything = [directory, file, tmp_path / "dangling", tmp_path / "never there"]
    assert sh(paths(*(path for path in everything if " " not in path.name))).stdout.splitlines() == [
        str(file),
        str(tmp_path / "dangling"),
    ]
    assert sh(deletion.shell_script([str(path) for path in everything])).returncode == 0
    assert not list(tmp_path.iterdir())


def test_a_link_to_another_disk_is_emptied_and_links_inside_are_only_links(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("somebody's")
    disk = tree(tmp_path / "disk")
    (disk / "a/link").symlink_to(kept)
    (disk / "away").symlink_to(tmp_path)
    (tmp_path / "ollama").symlink_to(disk)
    assert sh(deletion.shell_script([str(tmp_path / "ollama")])).returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "kept"]
    assert not list(disk.iterdir())


@pytest.mark.skipif(not can_mount, reason="needs unshare and user namespaces")
@pytest.mark.parametrize("mount", [".", "a", "a/models"])
def test_of_a_mount_point_the_empty_directory_stays(tmp_path: Path, mount: str) -> None:
    home = tmp_path / "ollama"
    (home / mount).mkdir(parents=True)
    filled = f"mkdir -p {home}/a/models/blobs && touch {home}/a/models/blobs/x {home}/a/id {home}/.hidden"
    script = f"mount -t tmpfs none {home / mount} && {filled}\n{deletion.shell_script([str(home)])}\n"
    script += f"find {home}\n{paths(home)}"
    done = sh(f"set -e; {script}", *ALONE)
    assert (done.returncode, done.stderr) == (0, "")
    left = [home, *(home / part for part in ("a", "a/models") if mount.startswith(part))]
    assert done.stdout.splitlines() == [str(path) for path in left], "no file; and nothing to remove the next time"


@pytest.mark.skipif(not can_mount, reason="needs unshare and user namespaces")
def test_a_file_that_stays_is_a_failure(tmp_path: Path) -> None:
    home = tree(tmp_path / "ollama")
    script = (
        f"mount --bind {home}/a {home}/a && mount -o remount,bind,ro {home}/a\n{deletion.shell_script([str(home)])}"
    )
    done = sh(script, *ALONE)
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr


@pytest.mark.skipif(not can_mount, reason="needs unshare and user namespaces")
def test_a_store_on_a_disk_of_its_own_is_gone_once_it_is_empty(tmp_path: Path) -> None:
    """It would be removed by every deploy, for ever."""
    models, listing = tmp_path / "a/models", _LIST_STORES.replace(OLLAMA_HOMES, str(tmp_path))
    models.mkdir(parents=True)
    listing = listing.replace("/etc/ollama/$home.env", "/etc/passwd")
    script = f"mount -t tmpfs none {models}; mkdir {models}/blobs; touch {models}/blobs/x\n"
    done = sh(f"{script}( {listing} ); {deletion.shell_script([str(tmp_path / 'a')])}\n( {listing} )", *ALONE)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "store a\n")
