"""apt and dpkg while somebody else has their locks: the real tools of this machine on directories of a test."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.operation import add_op
from pyinfra.api.operations import run_ops
from support.fake_host import DRIVER, INSTALLED, Fake

from flexi.operations import apt_locks, driver, packages
from flexi.operations.drain import Interruption
from flexi.plan.model.maintenance import MaintenancePlan

needs_apt = pytest.mark.skipif(
    not all(map(shutil.which, ("apt-get", "dpkg"))), reason="needs apt and dpkg, as Debian and Ubuntu have them"
)

HOLD = (
    "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
)


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """The lock as apt and dpkg take it (fcntl(2)), until the process whose number this yields ends."""
    path.touch()
    holder = subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdin is not None
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        yield holder.pid
    finally:
        holder.stdin.close()
        holder.wait()


def commands(root: Path) -> dict[str, tuple[str, Path]]:
    """What takes a lock, and the lock."""
    for directory in ("lists/partial", "dpkg/updates"):
        (root / directory).mkdir(parents=True)
    for file in ("status", "available"):
        (root / "dpkg" / file).touch()
    alone = "-o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts=/dev/null -o Dir::Cache::pkgcache="
    dpkg = f"dpkg --admindir={root}/dpkg --clear-selections"
    return {
        "index": (f"apt-get -qq update -o Dir::State::lists={root}/lists {alone}", root / "lists/lock"),
        "frontend": (dpkg, root / "dpkg/lock-frontend"),
        "database": (dpkg, root / "dpkg/lock"),
    }


def run(script: str, root: Path, sleep: str) -> subprocess.CompletedProcess[str]:
    """By sh, with `sleep` for what happens while it waits."""
    stand_in = root / "bin/sleep"
    stand_in.parent.mkdir()
    stand_in.write_text(f"#!/bin/sh\necho $1 >>{root}/slept\n{sleep}\n")
    stand_in.chmod(0o755)
    path = f"{stand_in.parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}, timeout=50
    )


def slept(root: Path) -> int:
    return len((root / "slept").read_text().splitlines()) if (root / "slept").exists() else 0


@needs_apt
@pytest.mark.parametrize("lock", ["index", "frontend", "database"])
def test_who_has_the_lock_is_waited_for(tmp_path: Path, lock: str) -> None:
    command, path = commands(tmp_path)[lock]
    with locked(path) as holder:
        gone = f"[ $(wc -l <{tmp_path}/slept) -lt 2 ] || kill -9 {holder}"
        done = run(f"{apt_locks.retry_while_locked(command)}echo after", tmp_path, gone)
    assert (done.returncode, done.stdout, done.stderr) == (0, "after\n", "")
    assert slept(tmp_path) >= 2


@needs_apt
def test_patience_ends_in_the_words_of_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt_locks, "LOCK_TIMEOUT_S", 10 * apt_locks.POLL_S)
    command, path = commands(tmp_path)["index"]
    with locked(path):
        done = run(f"{apt_locks.retry_while_locked(command)}echo after", tmp_path, "")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Could not get lock" in done.stderr
    assert slept(tmp_path) == 9


def test_another_failure_is_said_at_once(tmp_path: Path) -> None:
    done = run(apt_locks.retry_while_locked("sh -c 'echo E: no space left; exit 100'"), tmp_path, "")
    assert (done.returncode, done.stderr) == (1, "E: no space left\n")
    assert not slept(tmp_path)


@needs_apt
def test_an_installation_waits_by_apts_own_option() -> None:
    """apt itself reads the command's options; what they say is the number of seconds."""
    _, ran = Fake({"dpkg -l": INSTALLED}).run(packages.present, names=("haproxy",))
    words = shlex.split(ran[-1])
    options = words[words.index("-y") + 1 : words.index("install")]
    dump = subprocess.run(["apt-config", "dump", *options], capture_output=True, text=True, check=True).stdout
    assert f'DPkg::Lock::Timeout "{apt_locks.LOCK_TIMEOUT_S}";' in dump


UPDATE: dict[str, Any] = {"driver": DRIVER, "maintenance": MaintenancePlan(), "interrupts": Interruption((), 1)}


def test_an_update_asks_the_apt_of_the_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake({}, {"_env": {"APT_CONFIG": "/etc/flexi/apt-bundle.conf"}})
    asked: list[Any] = []
    original = fake.host.connector.run_shell_command

    def recorded(command: Any, *arguments: Any, **options: Any) -> Any:
        if "apt-get -qq update" in str(command):
            asked.append(options.get("_env"))
        return original(command, *arguments, **options)

    monkeypatch.setattr(fake.host.connector, "run_shell_command", recorded)
    fake.run(driver.update, **UPDATE)
    assert asked == [{"APT_CONFIG": "/etc/flexi/apt-bundle.conf"}]


def test_an_update_without_an_index_fails_in_words(caplog: pytest.LogCaptureFixture) -> None:
    fake = Fake({"apt-get -qq update": {"success": False, "stderr": ["E: The repository has no Release file."]}})
    add_op(fake.state, driver.update, **UPDATE)
    with pytest.raises(PyinfraError):
        run_ops(fake.state)
    assert "nothing was updated: E: The repository has no Release file." in caplog.text
