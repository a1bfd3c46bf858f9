"""The ledger as systemd starts it: on a socket that outlives it."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.ledger_parts import answer, edge

from flexi.configs.host_package import build

TOGETHER = 4


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose name is short enough for a socket's."""
    with tempfile.TemporaryDirectory(prefix="fl") as directory:
        yield Path(directory)


@pytest.fixture
def inbox(place: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(place / "ledger.sock"))
        yield sock


@pytest.fixture
def start(place: Path, inbox: socket.socket) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts the ledger from the package, as its unit does, and waits until it is ready."""
    package, config, told = place / "agent.pyz", place / "ledger.json", place / "notify"
    package.write_bytes(build())
    for name in ("log", "state"):
        (place / name).mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (place / "port").write_text(str(port))
    content = {"port": port, "retention_days": 7, "usage_days": 9, "models": ["llama3:8b"]}
    config.write_text(json.dumps(content | {"log_dir": str(place / "log"), "state_dir": str(place / "state")}))
    running: list[subprocess.Popen[bytes]] = []

    def begin() -> subprocess.Popen[bytes]:
        told.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ears:
            ears.bind(str(told))
            # The variables of sd_listen_fds(3): the socket is descriptor 3 of the process itself.
            script = f"exec 3<&{inbox.fileno()}; LISTEN_PID=$$ LISTEN_FDS=1 exec {sys.executable} {package} ledger"
            process = subprocess.Popen(
                ["bash", "-c", f"{script} --config {config}"],
                pass_fds=[inbox.fileno()],
                env=os.environ | {"NOTIFY_SOCKET": str(told)},
            )
            running.append(process)
            assert select.select([ears], [], [], 20)[0], "not ready"
            assert ears.recv(100) == b"READY=1"
        return process

    yield begin
    for process in running:
        process.kill()
        process.wait()


def asked(place: Path, target: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{(place / 'port').read_text()}{target}", timeout=10) as response:
        return str(response.read().decode())


def counted(place: Path) -> int:
    return sum(row["requests"] for row in json.loads(asked(place, "/usage"))["rows"])


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "not within 20 s"
        time.sleep(0.02)  # the loop asks until it is so


def test_nothing_is_lost_or_counted_twice_over_a_restart(
    place: Path, start: Callable[[], subprocess.Popen[bytes]]
) -> None:
    """Records of both senders go on while the ledger is stopped, away, and started again."""
    first = start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(str(place / "ledger.sock"))
        for number in range(40):
            sender.send(answer(id=str(number)))
            sender.send(edge(id=str(number)))
            if number == 20:
                sender.send(answer(id="split"))
                first.terminate()
                assert first.wait(20) == 0
                # Nobody takes them now: as many as any kernel's queue holds (net.unix.max_dgram_qlen).
                for late in range(TOGETHER):
                    sender.send(edge(id=f"late{late}", backend="edge"))
                sender.send(edge(id="split"))
                start()
    wait_for(lambda: counted(place) == 40 + 1 + TOGETHER)
    ids = [json.loads(line)["id"] for file in (place / "log").iterdir() for line in file.read_text().splitlines()]
    assert sorted(ids) == sorted([*map(str, range(40)), "split", *(f"late{late}" for late in range(TOGETHER))])


def test_a_killed_ledger_has_its_lines_on_the_disk(place: Path, start: Callable[[], subprocess.Popen[bytes]]) -> None:
    process = start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(str(place / "ledger.sock"))
        sender.send(edge(backend="edge"))
        wait_for(lambda: "flexi_ledger_edges_total 1\n" in asked(place, "/metrics"))
        process.kill()
        process.wait()
        [file] = (place / "log").iterdir()
        assert len(file.read_text().splitlines()) == 1
        start()
        sender.send(edge(backend="edge"))
        wait_for(lambda: "flexi_ledger_edges_total 1\n" in asked(place, "/metrics"))


def test_without_a_socket_it_says_how_to_start_it(place: Path, start: object) -> None:
    done = subprocess.run(
        [sys.executable, str(place / "agent.pyz"), "ledger", "--config", str(place / "ledger.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "flexi_host: systemd has passed no socket: start flexi-ledger.socket\n"
