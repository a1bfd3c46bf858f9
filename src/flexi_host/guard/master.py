"""`flexi_host guard`: the master of the guard's workers, and the program that has it reload.

One worker for each listening socket; systemd makes the sockets (flexi-guard.socket), so whoever knocks during a restart
waits instead of being turned away. On SIGHUP the workers that run read the configuration anew. Where the program itself
is another one by now, the master becomes it (the same process, execve), starts new workers on the same sockets, and
lets the old ones end with their last answers. Neither drops a stream.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from flexi_host.common import systemd
from flexi_host.common.broken import Broken
from flexi_host.guard.config import GuardConfig
from flexi_host.guard.worker import READY, REFUSED

FIRST_LISTEN_FD = 3
"""Where systemd puts the first socket (sd_listen_fds(3))."""
STATE = "FLEXI_GUARD_STATE"
TICK_S = 0.5
SILENT_S = 30.0
"""A worker that says nothing for so long hangs: it is killed and replaced."""
START_S = 30.0
AGAIN_S = 1.0
"""Pause before a worker that died is replaced."""
STOP_S = 10.0
RELOAD_S = 60.0
SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


@dataclass
class Child:
    """A worker, as its master knows it."""

    pid: int
    listen_fd: int
    pipe_fd: int
    retired: bool = False
    heard: float = 0.0
    answered: bool = False
    """It has read the present configuration."""
    refused: bool = False


class Master:
    def __init__(self, config: Path, listen_fds: Sequence[int], children: Sequence[Child], status: Path | None) -> None:
        self._config = config
        self._listen_fds = list(listen_fds)
        self._children = list(children)
        self._status = status
        self._program = program_version()
        self._ending = False
        self._respawn_at = 0.0

    def run(self) -> None:
        """Until SIGTERM or SIGINT. Broken where no worker comes up."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        old = list(self._children)
        for child in old:
            child.retired = True
        for listen_fd in self._listen_fds:
            self._spawn(listen_fd)
        self._wait_for_answers("the new workers do not start")
        for child in old:
            self._signal(child, signal.SIGTERM)
        systemd.notify("READY=1")
        self._note()
        while not self._ending:
            self._tick()
        self._stop()

    def _tick(self) -> None:
        caught = signal.sigtimedwait(SIGNALS, TICK_S)
        if caught is not None and caught.si_signo == signal.SIGHUP:
            self._reload()
        elif caught is not None and caught.si_signo in (signal.SIGTERM, signal.SIGINT):
            self._ending = True
            return
        self._look_after()

    def _look_after(self) -> None:
        """Bury the dead, replace them, kill those that hang, and tell systemd that all is well."""
        self._reap()
        self._listen()
        now = time.monotonic()
        for child in self._children:
            if now - child.heard > SILENT_S:
                print(f"flexi_host: worker {child.pid} hangs and is killed", file=sys.stderr)
                self._signal(child, signal.SIGKILL)
        served = {child.listen_fd for child in self._children if not child.retired}
        if now >= self._respawn_at:
            for listen_fd in self._listen_fds:
                if listen_fd not in served:
                    self._spawn(listen_fd)
        systemd.notify("WATCHDOG=1")

    def _reload(self) -> None:
        if program_version() != self._program:
            self._become_new()
        live = [child for child in self._children if not child.retired]
        for child in live:
            child.answered = child.refused = False
            self._signal(child, signal.SIGHUP)
        try:
            self._wait_for_answers("not all workers have read the new configuration")
        except Broken as error:
            print(f"flexi_host: {error}", file=sys.stderr)
        self._note()

    def _become_new(self) -> None:
        """The same process with the program that is there now; sockets and workers stay."""
        known = [asdict(child) for child in self._children]
        state = {"listen_fds": self._listen_fds, "children": known}
        for fd in (*self._listen_fds, *(child.pipe_fd for child in self._children)):
            os.set_inheritable(fd, True)
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, STATE: json.dumps(state)})

    def _spawn(self, listen_fd: int) -> None:
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        arguments = ["guard-worker", "--config", str(self._config), "--listen-fd", str(listen_fd)]
        process = subprocess.Popen(
            [sys.executable, *_program_arguments(), *arguments, "--pipe-fd", str(writing)],
            pass_fds=(listen_fd, writing),
            env={name: value for name, value in os.environ.items() if name not in (STATE, "NOTIFY_SOCKET")},
        )
        os.close(writing)
        process.returncode = 0  # reaped by _reap, which knows the workers of a master before this one too
        self._children.append(Child(process.pid, listen_fd, reading, heard=time.monotonic()))

    def _wait_for_answers(self, otherwise: str) -> None:
        """Until every worker that is not retired has read the configuration; Broken after START_S."""
        until = time.monotonic() + START_S
        while not all(child.answered or child.refused for child in self._children if not child.retired):
            if time.monotonic() > until:
                raise Broken(otherwise)
            pipes = [child.pipe_fd for child in self._children]
            with contextlib.suppress(InterruptedError):
                select.select(pipes, [], [], TICK_S)
            self._listen()
            before = len(self._children)
            self._reap()
            if len(self._children) < before and not any(not child.retired for child in self._children):
                raise Broken(otherwise)
            systemd.notify("WATCHDOG=1")
        if any(child.refused for child in self._children):
            raise Broken("the configuration was refused; what was read before holds")

    def _listen(self) -> None:
        for child in self._children:
            with contextlib.suppress(BlockingIOError):
                words = os.read(child.pipe_fd, 4096)
                if words:
                    child.heard = time.monotonic()
                child.answered = child.answered or READY in words
                child.refused = child.refused or REFUSED in words

    def _reap(self) -> None:
        for child in list(self._children):
            try:
                pid, status = os.waitpid(child.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = child.pid, 0
            if not pid:
                continue
            os.close(child.pipe_fd)
            self._children.remove(child)
            if not child.retired and not self._ending:
                self._respawn_at = time.monotonic() + AGAIN_S
                code = os.waitstatus_to_exitcode(status)
                print(f"flexi_host: worker {child.pid} has ended with {code}; another one starts", file=sys.stderr)

    def _stop(self) -> None:
        systemd.notify("STOPPING=1")
        for child in self._children:
            self._signal(child, signal.SIGTERM)
        until = time.monotonic() + STOP_S
        while self._children and time.monotonic() < until:
            signal.sigtimedwait(SIGNALS, TICK_S)
            self._reap()
        for child in self._children:
            self._signal(child, signal.SIGKILL)

    def _signal(self, child: Child, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, number)

    def _note(self) -> None:
        """What `reload` waits for."""
        if self._status is None:
            return
        workers = [child for child in self._children if not child.retired]
        text = json.dumps(
            {
                "at": time.time_ns(),
                "refused": any(child.refused for child in workers),
                "workers": [child.pid for child in workers],
            }
        )
        new = self._status.with_suffix(".new")
        new.write_text(text, encoding="utf-8")
        new.replace(self._status)


def run(config: Path, paths: Sequence[Path], status: Path | None) -> None:
    """Serve until SIGTERM. The sockets come from the master before, from systemd, or are made at `paths`.

    ConfigError where the configuration cannot be used; Broken or OSError without sockets, or where no worker comes up.
    """
    GuardConfig.load(config)
    state = os.environ.pop(STATE, None)
    if state is not None:
        known = json.loads(state)
        now = time.monotonic()
        children = [Child(**{**child, "heard": now}) for child in known["children"]]
        listen_fds: list[int] = known["listen_fds"]
    else:
        children = []
        listen_fds = _from_systemd() or [_bound(path) for path in paths]
    if not listen_fds:
        raise Broken("no sockets to listen on: systemd gives them (flexi-guard.socket), or --socket names them")
    Master(config, listen_fds, children, status).run()


def reload(config: Path, pid: int, status: Path) -> None:
    """Have the master `pid` read its configuration, and wait until every worker has.

    ConfigError where it cannot be used: then nothing is changed. Broken where it does not come about.
    """
    GuardConfig.load(config)
    before = _noted(status)
    os.kill(pid, signal.SIGHUP)
    until = time.monotonic() + RELOAD_S
    while (noted := _noted(status)) == before:
        if time.monotonic() > until:
            raise Broken(f"the guard has not reloaded within {RELOAD_S:g} s; see journalctl -u flexi-guard")
        time.sleep(0.02)
    if noted.get("refused"):
        raise Broken("the guard has refused its configuration; see journalctl -u flexi-guard")


def program_version() -> tuple[int, int, int]:
    """Changes with the file that this program was started from."""
    found = Path(sys.argv[0]).stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _noted(status: Path) -> dict[str, object]:
    try:
        value = json.loads(status.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _program_arguments() -> list[str]:
    """What follows Python's name to run this very program: options, and the file (or `-m` and the module)."""
    arguments = sys.orig_argv[1:]
    return arguments[: arguments.index("guard")]


def _from_systemd() -> list[int]:
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS", "0"))
    return list(range(FIRST_LISTEN_FD, FIRST_LISTEN_FD + count))


def _bound(path: Path) -> int:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path.unlink(missing_ok=True)
    sock.bind(str(path))
    sock.listen(socket.SOMAXCONN)
    return sock.detach()
