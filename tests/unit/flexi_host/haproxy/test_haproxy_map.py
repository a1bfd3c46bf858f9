"""A map into a running HAProxy: whole and at once, whatever else happens to it meanwhile."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flexi_host.haproxy import map_file
from flexi_host.haproxy.map_file import MapError, follow, parse

ADA, BOB = "a" * 64, "b" * 64


class FakeHaproxy:
    """One map behind a socket that answers as HAProxy 2.4's does (management.txt, 9.3; what `show map` prints)."""

    def __init__(self, path: Path, file: Path) -> None:
        self.path, self.file = path, file
        self.current: dict[str, str] = {}
        self.versions: dict[int, dict[str, str]] = {}
        self.commands: list[str] = []
        self.refuses: str | None = None
        self.forgets = 0
        """How many commits come to nothing, as those to a process that is on its way out."""
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                text = connection.recv(1 << 20).decode()
                while "<<\n" in text and not text.endswith("\n\n"):
                    text += connection.recv(1 << 20).decode()
                connection.sendall(self._answer(text).encode())

    def _answer(self, text: str) -> str:
        self.commands.append(text)
        if self.refuses:
            return f"{self.refuses}\n\n"
        if text == f"show map {self.file}\n":
            return "".join(f"0x55d0c0ffee{n:02x} {k} {v}\n" for n, (k, v) in enumerate(self.current.items())) + "\n"
        if text == f"prepare map {self.file}\n":
            version = len(self.versions) + 1
            self.versions[version] = {}
            return f"New version created: {version}\n\n"
        if found := re.fullmatch(rf"add map @(\d+) {self.file} <<\n(.*)\n", text, re.S):
            self.versions[int(found[1])] |= dict(line.split(" ", 1) for line in found[2].splitlines())
            return "\n"
        if found := re.fullmatch(rf"commit map @(\d+) {self.file}\n", text):
            if self.forgets:
                self.forgets -= 1
            else:
                self.current = self.versions[int(found[1])]
            return "\n"
        return "Unknown command.\n\n"


@pytest.fixture
def haproxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHaproxy]:
    monkeypatch.setattr(map_file, "_state", lambda: "active")
    monkeypatch.setattr(map_file, "PAUSE_S", 0.0)
    fake = FakeHaproxy(tmp_path / "admin.sock", tmp_path / "keys.map")
    yield fake
    fake.close()


def test_what_the_file_says_is_in_force(haproxy: FakeHaproxy) -> None:
    haproxy.current = {BOB: "bob:default"}
    haproxy.file.write_text(f"# ours\n\n{ADA} ada:staff:1806530400\n")
    assert follow(haproxy.file, haproxy.path) is True
    assert haproxy.current == {ADA: "ada:staff:1806530400"}


def test_what_is_in_force_is_left_alone(haproxy: FakeHaproxy) -> None:
    haproxy.current = {ADA: "ada:staff"}
    haproxy.file.write_text(f"{ADA} ada:staff\n")
    follow(haproxy.file, haproxy.path)
    assert haproxy.commands == [f"show map {haproxy.file}\n"]


def test_a_thousand_keys_come_in_parts_that_fit_into_its_buffer(haproxy: FakeHaproxy) -> None:
    wanted = {f"{number:064x}": f"{'c' * 59}{number:04}:{'k' * 32}:1806530400" for number in range(1000)}
    haproxy.file.write_text("".join(f"{key} {value}\n" for key, value in wanted.items()))
    follow(haproxy.file, haproxy.path)
    assert haproxy.current == wanted
    assert max(map(len, haproxy.commands)) < 16384 - 1024, "tune.bufsize less tune.maxrewrite"


def test_a_map_may_become_empty(haproxy: FakeHaproxy) -> None:
    haproxy.current = {ADA: "ada:staff"}
    haproxy.file.write_text("# nobody\n")
    follow(haproxy.file, haproxy.path)
    assert haproxy.current == {}


def test_a_process_on_its_way_out_is_not_taken_for_haproxy(haproxy: FakeHaproxy) -> None:
    haproxy.forgets = 3
    haproxy.file.write_text(f"{ADA} ada:staff\n")
    follow(haproxy.file, haproxy.path)
    assert haproxy.current == {ADA: "ada:staff"}
    assert haproxy.forgets == 0


def test_it_waits_for_a_reload_to_end(haproxy: FakeHaproxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old process has the map, and so much is said; the new one read the file before it was changed."""
    asked = 0

    def state() -> str:
        nonlocal asked
        asked += 1
        if asked == 2:  # the new process answers from now on
            haproxy.current = {BOB: "bob:default"}
        return "reloading" if asked == 1 else "active"

    monkeypatch.setattr(map_file, "_state", state)
    haproxy.current = {ADA: "ada:staff"}
    haproxy.file.write_text(f"{ADA} ada:staff\n")
    follow(haproxy.file, haproxy.path)
    assert asked > 1
    assert haproxy.current == {ADA: "ada:staff"}


def test_a_haproxy_that_never_takes_it_is_an_error(haproxy: FakeHaproxy) -> None:
    haproxy.forgets = 10_000
    haproxy.file.write_text(f"{ADA} ada:staff\n")
    with pytest.raises(MapError, match="did not take"):
        follow(haproxy.file, haproxy.path)


def test_what_haproxy_says_is_passed_on(haproxy: FakeHaproxy) -> None:
    haproxy.refuses = "Unknown map identifier. Please use #<id> or <file>."
    haproxy.file.write_text(f"{ADA} ada:staff\n")
    with pytest.raises(MapError, match="Unknown map identifier"):
        follow(haproxy.file, haproxy.path)


def test_without_haproxy_there_is_nobody_to_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_file, "_state", lambda: "inactive")
    (tmp_path / "keys.map").write_text(f"{ADA} ada:staff\n")
    assert follow(tmp_path / "keys.map", tmp_path / "admin.sock") is False


@pytest.mark.parametrize("line", ["abc", "abc ", "# x\nabc"])
def test_half_a_line_is_no_map(line: str) -> None:
    with pytest.raises(MapError, match="no line of a map"):
        parse(line)


def test_whether_haproxy_knows_the_file(haproxy: FakeHaproxy) -> None:
    haproxy.file.write_text(f"{ADA} ada:staff\n")
    haproxy.current = {ADA: "ada:staff"}
    assert map_file.known(haproxy.file, haproxy.path)
    haproxy.current = {ADA: "ada:default"}
    assert not map_file.known(haproxy.file, haproxy.path)
    assert all(command.startswith("show ") for command in haproxy.commands), "asking changes nothing"
