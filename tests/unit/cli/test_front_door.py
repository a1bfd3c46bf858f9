"""The shell script in front: what it asks the machine for, before any Python of ours runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from flexi.paths import ROOT

LOCKS = ("requirements.lock", "requirements-dev.lock")
PACKAGES = "src/flexi/lab/system-packages.txt"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The front door with empty lock files, on a Debian where nothing is installed, for a user who is not root."""
    shutil.copy(ROOT / "flexi", tmp_path / "flexi")
    (tmp_path / PACKAGES).parent.mkdir(parents=True)
    shutil.copy(ROOT / PACKAGES, tmp_path / PACKAGES)
    for lock in LOCKS:
        (tmp_path / lock).write_text("")
    program(tmp_path, "dpkg-query", "exit 1")
    program(tmp_path, "id", "echo 1000")
    return tmp_path


def program(checkout: Path, name: str, script: str) -> None:
    path = checkout / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def ready(checkout: Path) -> None:
    """A .venv that is there already; its Python prints its arguments."""
    program(checkout, "python", 'echo "$@"')
    python = checkout / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    (checkout / "bin/python").rename(python)
    for lock in LOCKS:
        stamp = subprocess.run(["cksum"], input="", capture_output=True, text=True, check=True).stdout
        (checkout / f".venv/.flexi-{lock}").write_text(f"{stamp.strip()} {checkout}\n")


def run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = f"{checkout / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(
        [checkout / "flexi", *arguments],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


@pytest.mark.parametrize("command", ["test", "test all", "test lab", "lab up", "bench lab", "test -- -x"])
def test_what_makes_a_lab_asks_for_its_packages(checkout: Path, command: str) -> None:
    ready(checkout)
    done = run(checkout, *command.split())
    assert done.returncode == 2
    assert "apt-get install" in done.stderr
    assert "systemd-container" in done.stderr


@pytest.mark.parametrize(("command", "wanted"), [("test", True), ("test lab", True), ("lab up", False)])
def test_a_browser_is_for_tests_alone(
    checkout: Path, command: str, wanted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready(checkout)
    without = tmp_path / "without"
    without.mkdir()
    for tool in Path("/usr/bin").iterdir():
        if tool.name != "chromium":
            (without / tool.name).symlink_to(tool)
    monkeypatch.setenv("PATH", f"{without}")
    assert ("chromium" in run(checkout, *command.split()).stderr) is wanted
    program(checkout, "chromium", "exit 0")
    assert "chromium" not in run(checkout, *command.split()).stderr


@pytest.mark.parametrize("command", ["test quick", "check lab", "test --help", "plan lab"])
def test_what_makes_none_asks_for_nothing(checkout: Path, command: str) -> None:
    ready(checkout)
    done = run(checkout, *command.split())
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["-m", "flexi", *command.split()]


@pytest.mark.parametrize("name", ["python3", "python3.11"])
def test_the_venv_package_is_that_of_the_python_that_is_used(checkout: Path, name: str) -> None:
    """Ubuntu 22.04's python3 is 3.10: python3.11 beside it needs python3.11-venv."""
    for other in ("python3", "python3.13", "python3.12", "python3.11"):
        program(checkout, other, "exit 1")
    program(checkout, name, 'case "$2" in *ensurepip*) exit 1 ;; esac')
    done = run(checkout, "check", "lab")
    assert done.returncode == 2
    assert f"apt-get install {name}-venv" in done.stderr


def test_without_a_new_enough_python_it_says_what_to_install(checkout: Path) -> None:
    for other in ("python3", "python3.13", "python3.12", "python3.11"):
        program(checkout, other, "exit 1")
    done = run(checkout, "check", "lab")
    assert done.returncode == 2
    assert "python3.11-venv" in done.stderr


def test_a_moved_checkout_makes_its_environment_anew(checkout: Path, tmp_path: Path) -> None:
    """.venv leads to the checkout's old place, where another version of the code may lie."""
    ready(checkout)
    assert run(checkout, "check", "lab").stdout.split() == ["-m", "flexi", "check", "lab"]
    for lock in LOCKS:
        stamp = checkout / f".venv/.flexi-{lock}"
        stamp.write_text(stamp.read_text().replace(str(checkout), "/somewhere/else"))
    program(checkout, "python3", "exit 1")  # no Python is good enough, so that nothing is really installed
    for version in ("3.13", "3.12", "3.11"):
        program(checkout, f"python{version}", "exit 1")
    done = run(checkout, "check", "lab")
    assert done.returncode == 2
    assert "installing requirements.lock" in done.stderr
