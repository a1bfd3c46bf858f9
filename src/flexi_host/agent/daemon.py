"""`flexi_host run`: a keeper for each instance, one watch over the GPUs, the check port and the state files."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from flexi_host.agent import devices, report
from flexi_host.agent.check import Checker, serve
from flexi_host.agent.config import AgentConfig
from flexi_host.agent.downloads import Downloads
from flexi_host.agent.drain import ASKED_S, Drain
from flexi_host.agent.env_file import EnvFileError, gpu_uuids
from flexi_host.agent.gpus import GpuWatch, look
from flexi_host.agent.keeper import Host, Keeper
from flexi_host.agent.share import Sharer
from flexi_host.agent.state import Board, Phase
from flexi_host.common import systemd
from flexi_host.common.broken import Broken
from flexi_host.common.ollama import Ollama

FIRST_LOOK_S = 10.0
"""How long the check port waits for the first look, so that a restarted agent never calls a good instance down."""
BEAT_S = 2.0
LOOK_AT_DRAINS_S = 0.25
WRITE_AT_MOST_EVERY_S = 0.5
WRITE_AT_LEAST_EVERY_S = 10.0
"""Readers take an old file for a dead agent."""


def say(line: str) -> None:
    """One line to the journal."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class StateFiles:
    """Writes status.json and metrics.prom within a second of a change, and at least every ten seconds."""

    def __init__(
        self, config: AgentConfig, board: Board, watch: GpuWatch, drains: Callable[[], dict[str, Drain]]
    ) -> None:
        self._config = config
        self._board = board
        self._watch = watch
        self._drains = drains
        self._thread = threading.Thread(target=self._run, name="state files", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def alive(self) -> bool:
        return self._thread.is_alive()

    def write(self, drains: dict[str, Drain]) -> None:
        now = time.time()
        gpus, expected = self._watch.latest(), self._config.gpus
        views = self._board.views()
        text = report.as_json(report.status(self._config.host, now, gpus, views, drains, expected))
        report.write(self._config.state_dir, "status.json", text)
        report.write(self._config.state_dir, "metrics.prom", report.metrics(now, gpus, views, drains, expected))

    def _run(self) -> None:
        written: tuple[int, dict[str, Drain]] | None = None
        due = 0.0
        version = -1
        while True:
            version = self._board.wait(version, LOOK_AT_DRAINS_S)
            drains = self._drains()
            if (version, drains) == written and time.monotonic() < due:
                continue
            try:
                self.write(drains)
            except OSError as error:
                # A full /run must not end the care for the models; readers see the age of the file.
                say(f"{self._config.state_dir}: cannot write the state: {error.strerror}")
            written, due = (version, drains), time.monotonic() + WRITE_AT_LEAST_EVERY_S
            time.sleep(WRITE_AT_MOST_EVERY_S)


def run(config: AgentConfig) -> None:
    """Serve until SIGTERM or SIGINT; Broken where the port is taken or a thread has died."""
    asyncio.run(_run(config))


async def _run(config: AgentConfig) -> None:
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    board = Board(say)
    watch = GpuWatch(lambda: look(_wanted(config)))
    watch.start()
    host = Host(
        watch.latest,
        Downloads(config.instances),
        Sharer(config.share_socket, say).obtain,
        say,
        gpus=config.gpus,
        node_fault=devices.missing,
    )
    keepers = [
        Keeper(instance, Ollama(instance.url), host, board.put, config.interval_s) for instance in config.instances
    ]
    groups = [instance.group for instance in config.instances]
    checker = Checker(board, groups, config.drain_dir)
    files = StateFiles(config, board, watch, checker.drains)
    await _until(ending, FIRST_LOOK_S, lambda: watch.latest() is not None)
    for keeper in keepers:
        keeper.start()
    await _until(ending, FIRST_LOOK_S, lambda: len(board.views()) == len(groups))
    files.start()
    try:
        server = await serve(checker, "0.0.0.0", config.check_port)
    except OSError as error:
        raise Broken(f"port {config.check_port}: {os.strerror(error.errno or 0)}") from None
    say(f"answers agent-checks on port {server.sockets[0].getsockname()[1]}")
    if not any(view.phase is Phase.READY for view in board.views()):
        # A boot. systemd starts the instances after this: the gateway still goes by what it was told before.
        await _until(ending, ASKED_S, checker.heard_by_all)
    systemd.notify("READY=1")
    beat_s = min(BEAT_S, (systemd.watchdog_s() or 2 * BEAT_S) / 2)
    while not ending.is_set():
        if not files.alive() or not all(keeper.alive() for keeper in keepers):
            raise Broken("a thread has died; see its traceback above")
        systemd.notify("WATCHDOG=1")
        await _pause(ending, beat_s)
    systemd.notify("STOPPING=1")


def _wanted(config: AgentConfig) -> list[str]:
    """The UUIDs of all groups. A file that cannot be read is the business of its keeper, which says so."""
    uuids: list[str] = []
    for instance in config.instances:
        try:
            uuids.extend(gpu_uuids(instance.env_file))
        except EnvFileError:
            continue
    return uuids


async def _until(ending: asyncio.Event, timeout_s: float, done: Callable[[], bool]) -> None:
    """Wait until `done`, the end, or for `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not done() and not ending.is_set() and time.monotonic() < deadline:
        await _pause(ending, 0.05)


async def _pause(ending: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(ending.wait(), seconds)
    except asyncio.TimeoutError:
        return
