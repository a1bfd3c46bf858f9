"""How hosts are reached: where the sockets lie, and what is said where that cannot be."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from flexi.errors import FlexiError
from flexi.paths import INVENTORY
from flexi.plan import build_plan
from flexi.plan.model.ssh import SshPlan
from flexi.site import load_site
from flexi.ssh import remote

SSH = SshPlan(address="192.0.2.1", user="admin")


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "tmp"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return directory


def test_sockets_lie_in_a_directory_of_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    directory = Path(remote.control_path(SSH)).parent
    assert directory.parent == tmp_path
    assert directory.stat().st_mode & 0o077 == 0


def test_two_targets_never_share_a_socket() -> None:
    other = SSH.model_copy(update={"config": "/etc/other"})
    assert remote.control_path(SSH) == remote.control_path(SSH)
    assert remote.control_path(SSH) != remote.control_path(other)


@pytest.mark.parametrize("runtime", ["/nonexistent/run", "/proc", "/dev/null"])
def test_an_unusable_runtime_directory_is_no_obstacle(
    runtime: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    assert Path(remote.control_path(SSH)).is_relative_to(temporary)


def test_a_directory_that_is_not_ours_is_not_used(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else could put a link to anywhere into /tmp before us."""
    ours = Path(remote.control_path(SSH)).parent
    ours.rmdir()
    (tmp_path / "elsewhere").mkdir()
    ours.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FlexiError, match=rf"cannot make {ours.name} .* in {temporary}: set TMPDIR"):
        remote.control_path(SSH)


def test_a_missing_ssh_is_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = build_plan(load_site(INVENTORY / "lab.yaml")).hosts[0]
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FlexiError, match="apt-get install openssh-client"):
        remote.run(host, "true")
    with pytest.raises(FlexiError, match="apt-get install openssh-client"):
        remote.direct_address(host.ssh)


def test_what_came_before_the_time_was_over_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = build_plan(load_site(INVENTORY / "lab.yaml")).hosts[0]
    ssh = tmp_path / "ssh"
    ssh.write_text("#!/bin/sh\ncat; exec /bin/sleep 60\n")
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    answer = remote.run(host, "sh -s", timeout_s=1.0, stdin="said\n")
    assert (answer.stdout, answer.reached) == ("said\n", False)
    assert "no answer within 1 s" in answer.stderr
