"""Files to a host over OpenSSH: the receiving script run for real by sh, behind a stand-in for ssh."""

from __future__ import annotations

import getpass
import hashlib
import os
import shlex
import subprocess
from pathlib import Path

import pytest
from support.bundle_parts import bars

from flexi.components.bundle import ARRIVED
from flexi.errors import FlexiError
from flexi.facts.bundle import BundleFiles
from flexi.plan.model.ssh import SshPlan
from flexi.ssh import pushing
from flexi.ssh.pushing import INCOMING, Item, push

ROOT_LOGIN = SshPlan(address="192.0.2.1", user="root")

# Runs the command here instead of there. What `cut` says is the number of bytes after which the next connection that
# sends a file breaks, once for each line.
SSH = """#!/bin/sh
for command; do :; done
case $command in *'head -c'*) ;; *) exec sh -c "$command" ;; esac
echo sent >>{log}
limit=$(head -n1 {cut} 2>/dev/null)
[ -n "$limit" ] || exec sh -c "$command"
sed -i 1d {cut}
head -c "$limit" | sh -c "$command"
exit 255
"""


class Host:
    """A directory that stands for a host's, and the files to bring there."""

    def __init__(self, tmp_path: Path) -> None:
        self.home = tmp_path / "host"
        self.cut = tmp_path / "cut"
        self.log = tmp_path / "log"
        self.folder = tmp_path / "folder"
        self.contents = {"models/blobs/big": os.urandom(700_000), "apt/x/pool/a+b_1~2_all.deb": b"small", "empty": b""}
        self.items = []
        for path, data in self.contents.items():
            source = self.folder / path
            source.parent.mkdir(parents=True, exist_ok=True)
            source.write_bytes(data)
            self.items.append(Item(source, path, hashlib.sha256(data).hexdigest(), len(data)))

    def push(self) -> None:
        with bars() as shown:
            push(ROOT_LOGIN, self.items, str(self.home), shown, owner=getpass.getuser())

    def has_all(self) -> bool:
        return all((self.home / path).read_bytes() == data for path, data in self.contents.items())

    @property
    def connections(self) -> int:
        return len(self.log.read_text().splitlines())


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host(tmp_path)
    ssh = tmp_path / "bin/ssh"
    ssh.parent.mkdir()
    ssh.write_text(SSH.format(cut=made.cut, log=made.log))
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ssh.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(pushing, "_AGAIN_S", 0.0)
    return made


def test_everything_arrives_on_one_connection(host: Host) -> None:
    host.push()
    assert host.has_all()
    assert host.connections == 1
    assert not list((host.home / INCOMING).iterdir())
    assert (host.home / "models/blobs/big").stat().st_mode & 0o777 == 0o644


def test_what_arrived_is_known_without_reading_it_again(host: Host) -> None:
    host.push()
    truth = facts(host)
    assert truth["models/blobs/big"] == host.items[0].sha256
    os.utime(host.home / "models/blobs/big")
    os.link(host.home / "models/blobs/big", host.home / "linked")
    assert facts(host)["models/blobs/big"] == host.items[0].sha256, "as it is when a store links it"
    (host.home / "models/blobs/big").write_bytes(b"changed")
    assert facts(host)["models/blobs/big"] is None


def facts(host: Host) -> dict[str, str | None]:
    """What the fact tells of the directory, its script run by sh."""
    fact = BundleFiles()
    script = shlex.split(str(fact.command(str(host.home)).get_masked_value()).removeprefix("sh -c "))[0]
    output = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    truth = fact.process(output.splitlines())
    assert truth.free_bytes > 0
    return truth.files


def test_a_cut_transfer_goes_on_where_it_broke(host: Host) -> None:
    host.cut.write_text("300000\n300000\n")
    host.push()
    assert host.has_all()
    assert host.connections == 3, "700 kB in pieces of 300: each connection went on where the last one broke"


def test_what_was_there_once_and_is_gone_is_sent_again_over_a_broken_line(host: Host) -> None:
    """The record of its first arrival says nothing about a second."""
    host.push()
    (host.home / "models/blobs/big").unlink()
    host.cut.write_text("300000\n")
    host.push()
    assert host.has_all()


def test_a_line_that_is_always_cut_leaves_what_came(host: Host) -> None:
    host.cut.write_text("100000\n" * pushing.TRIES)
    with pytest.raises(FlexiError, match=r"cut; what has arrived stays"):
        host.push()
    (half,) = (host.home / INCOMING).iterdir()
    assert half.stat().st_size > 200_000
    host.cut.write_text("550000\n")
    host.push()
    assert host.has_all()


@pytest.mark.parametrize("half", [b"rubbish", b"x" * 700_000, b"x" * 900_000], ids=["less", "as much", "more"])
def test_a_wrong_half_is_replaced(host: Host, half: bytes) -> None:
    (host.home / INCOMING).mkdir(parents=True)
    (host.home / INCOMING / host.items[0].sha256).write_bytes(half)
    host.push()
    assert host.has_all()


def test_a_file_that_is_not_what_the_list_says_never_gets_its_name(host: Host) -> None:
    host.items[0].source.write_bytes(b"y" * 700_000)
    with pytest.raises(FlexiError, match=r"models/blobs/big arrived with the SHA-256 .* wanted"):
        host.push()
    assert not (host.home / "models/blobs/big").exists()
    assert not (host.home / INCOMING / host.items[0].sha256).exists()


def test_a_file_that_became_shorter_is_said(host: Host) -> None:
    host.items[0].source.write_bytes(b"y" * 10)
    with pytest.raises(FlexiError, match="became shorter"):
        host.push()


def test_a_file_that_vanished_is_said(host: Host) -> None:
    host.items[0].source.unlink()
    with pytest.raises(FlexiError, match=r"models/blobs/big cannot be read: No such file"):
        host.push()


def test_a_disk_that_cannot_be_read_is_said(host: Host) -> None:
    """What a bad sector or a network file system that went away does; /proc/self/mem cannot be read at its start."""
    host.items[:] = [Item(Path("/proc/self/mem"), "x", "0" * 64, 700_000)]
    with pytest.raises(FlexiError, match=r"/proc/self/mem cannot be read: Input/output error"):
        host.push()


def test_a_host_that_cannot_be_asked_is_said_in_sshs_words(host: Host, tmp_path: Path) -> None:
    (tmp_path / "bin/ssh").write_text("#!/bin/sh\necho 'Permission denied (publickey).' >&2\nexit 255\n")
    with pytest.raises(FlexiError, match=r"192\.0\.2\.1: Permission denied"):
        host.push()


def test_others_than_root_use_sudo() -> None:
    *_, command = pushing._as_root(SshPlan(address="192.0.2.1", user="admin"), "true")
    assert command == "sudo -n sh -c true"


def test_the_record_of_arrivals_is_no_file_of_a_bundle(host: Host) -> None:
    host.push()
    assert ARRIVED not in facts(host)
