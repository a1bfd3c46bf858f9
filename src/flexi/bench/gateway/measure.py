"""The measurements: the same questions to the instances themselves, to flexi's gateway and to each rival."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from flexi.deploy import run as deploying
from flexi.deploy.run import Wish
from flexi.errors import EXIT_OK, FlexiError
from flexi.lab import network
from flexi.lab.lifecycle import Lab
from flexi.lab.progress import Shown
from flexi.lab.requirements import require_root
from flexi.paths import ROOT
from flexi.plan import build_plan
from flexi.plan.model.site import Plan
from flexi.site import load_site

from . import place
from .client import Job, Place, Target
from .rivals import OPENAI, RIVALS, Ground, Rival

MODEL = "llama3:8b"
DIRECT, OURS = "direct", "flexi"
STREAMS, PACE, TOKENS = 200, 25.0, 250
"""The load of the comparison: 5,000 tokens a second."""
OPEN, OPEN_PACE, OPEN_TOKENS = 2000, 2.5, 50
"""The same tokens a second on ten times as many streams."""
CONNECTIONS, SECONDS = 32, 5.0
SERIAL_ROUNDS, SERIAL_COUNT = 20, 25
CHUNK_ROUNDS, CHUNK_TOKENS, CHUNK_PACE = 4, 100, 100.0
SERVED_S = 60.0
SETTLE_S = 5.0
RELOADS = 5
RELOAD_OURS = "sudo systemctl reload haproxy.service flexi-guard.service"
Result = dict[str, Any]
"""A client's `Result`, as it was printed."""
Step = Callable[[str], contextlib.AbstractContextManager[None]]
"""Around one piece of work, to tell how far the bench is."""


@dataclass(frozen=True)
class Subject:
    """Who is measured."""

    name: str
    target: Target
    processes: Callable[[], Sequence[int]]
    reload: Callable[[], None] | None


@dataclass(frozen=True)
class Percentiles:
    """Of times in ms."""

    p50: float
    p99: float

    @classmethod
    def of_us(cls, times: Sequence[int]) -> Percentiles:
        """FlexiError where there are none: nothing was answered."""
        if not times:
            raise FlexiError("no request was answered")
        ordered = sorted(times)
        return cls(median(ordered) / 1000, ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] / 1000)


@dataclass(frozen=True)
class Streams:
    """Many streams at once. `wrong`: what went wrong, and how often."""

    count: int
    whole: int
    tokens_per_s: float
    chunk: Percentiles
    """From the instance's writing of a token to its arrival, ms."""
    cpu_ms_per_1000_tokens: float | None
    memory_kib_per_stream: float | None
    wrong: dict[str, int]
    longest_gap_ms: float = 0.0


@dataclass(frozen=True)
class Figures:
    """Everything about one subject."""

    name: str
    version: str
    first: Percentiles
    """From the question to its first token, one request at a time, ms."""
    chunk: Percentiles
    """From the instance's writing of a token to its arrival, in one stream at a time, ms."""
    requests_per_s: float
    requests_wrong: dict[str, int]
    load: Streams
    open: Streams
    reload: Streams | None
    """None for what cannot take a changed configuration without ending."""


def asked(lab: Lab, gateway: str, job: Job, once_open: Callable[[], None] | None = None) -> list[Result]:
    """The results of a job, by a client in the gateway's network; `once_open` is called when its streams are open."""
    command = place.inside(lab, gateway, [sys.executable, "-m", "flexi.bench.gateway.client"])
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(job.text())
        client.stdin.close()
        for line in client.stdout:
            value = json.loads(line)
            if isinstance(value, list):
                return value
            if once_open is not None:
                once_open()
    raise FlexiError("the bench's client ended without a result: see above")


class Bench:
    """The measurements of one lab; `plan` is what is deployed to it."""

    def __init__(self, lab: Lab, plan: Plan, keys: Sequence[str], step: Step) -> None:
        self._lab, self._plan, self._keys, self._step = lab, plan, keys, step
        self._gateway = plan.gateway.host

    def instances(self) -> tuple[Place, ...]:
        found = place.addresses(self._plan)
        return tuple(Place(address, i.port, MODEL) for i, address in found if any(m.name == MODEL for m in i.models))

    def ground(self) -> Ground:
        return Ground(self._lab.naming.namespace(self._gateway), self.instances())

    def direct(self) -> Subject:
        return Subject(DIRECT, Target(DIRECT, OPENAI, self.instances()), lambda: (), None)

    def ours(self) -> Subject:
        """flexi's gateway. Streams ask for its models in proportion to their slots, so that nobody has to wait."""
        gateway = self._plan.gateway
        backends = sorted(gateway.backends, key=lambda backend: backend.model != MODEL)
        slots = [[b.model] * (sum(s.max_connections for s in b.servers) // place.PARALLEL) for b in backends]
        models = [model for group in slots for model in group]
        # Neighbours in the list ask for different models, so any number of streams is spread over all.
        spread = [models[0], *(models[1 + number * 7 % (len(models) - 1)] for number in range(len(models) - 1))]
        keys = itertools.cycle(self._keys)
        places = tuple(Place(gateway.address, gateway.port, *pair) for pair in zip(spread, keys, strict=False))
        return Subject(OURS, Target(OURS, OPENAI, places), self._our_processes, self._reload_ours)

    def rival(self, rival: Rival) -> Subject:
        return Subject(rival.name, rival.target, rival.processes, rival.reload if rival.reloads else None)

    def _our_processes(self) -> list[int]:
        """HAProxy and the guard in the gateway's machine."""
        found = []
        for process in network.processes_in(self._lab.naming.namespace(self._gateway)):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{process.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                if command.startswith("/usr/sbin/haproxy ") or "flexi-agent.pyz guard" in command:
                    found.append(process.pid)
        return found

    def _reload_ours(self) -> None:
        done = self._lab.machine(self._gateway).run(RELOAD_OURS)
        if done.status:
            raise FlexiError(f"the gateway does not reload: {done.stderr.strip()}")

    def serial(
        self, subjects: Sequence[Subject], tokens: int, pace: float, rounds: int, count: int
    ) -> dict[str, Result]:
        """One request at a time; the subjects in turn."""
        job = Job("serial", tuple(s.target for s in subjects), rounds=rounds, count=count, tokens=tokens, pace=pace)
        return {result["name"]: result for result in self._asked(job)}

    def requests(self, subject: Subject) -> Result:
        (result,) = self._asked(Job("requests", (subject.target,), count=CONNECTIONS, seconds=SECONDS))
        return result

    def streams(self, subject: Subject, count: int, tokens: int, pace: float, during: Callable[[], None]) -> Streams:
        """`count` streams at once; `during` is called when all are open. CPU is that of the subject's processes."""
        before_kib = memory_kib(subject.processes())
        cpu: list[float] = [cpu_s(subject.processes())]
        memory: list[float] = []

        def once_open() -> None:
            memory.append(memory_kib(subject.processes()) - before_kib)
            during()
            cpu.append(cpu_s(subject.processes()))

        job = Job("streams", (subject.target,), count=count, tokens=tokens, pace=pace, ramp_s=count / 500)
        (result,) = self._asked(job, once_open)
        cpu.append(cpu_s(subject.processes()))
        used = cpu[-1] - cpu[0] if subject.processes() else None
        return Streams(
            count=count,
            whole=result["whole"],
            tokens_per_s=result["tokens"] / result["seconds"],
            chunk=Percentiles.of_us(result["delays_us"]),
            cpu_ms_per_1000_tokens=None if used is None else used * 1e6 / result["tokens"],
            memory_kib_per_stream=memory[0] / count if memory and subject.processes() else None,
            wrong=result["wrong"],
            longest_gap_ms=result["longest_gap_us"] / 1000,
        )

    def wait_until_served(self) -> None:
        """Until the gateway has answered for every model twice, `SETTLE_S` apart: it goes by what it saw last, and
        needs a moment to see that instances went and are back. FlexiError after a minute.
        """
        ours = self.ours()
        count = len(ours.target.places)
        deadline = time.monotonic() + SERVED_S
        answered = 0
        while True:
            (result,) = self._asked(Job("streams", (ours.target,), count=count, tokens=1))
            answered = answered + 1 if result["whole"] == count else 0
            if answered == 2:
                return
            if time.monotonic() > deadline:
                raise FlexiError(f"the gateway does not answer for every model: {result['wrong']}")
            time.sleep(SETTLE_S if answered else 1.0)

    def _asked(self, job: Job, once_open: Callable[[], None] | None = None) -> list[Result]:
        return asked(self._lab, self._gateway, job, once_open)

    def figures(self, subject: Subject, version: str, first: Result, chunk: Result) -> Figures:
        """Everything that is measured for one subject alone."""
        with self._step(f"{subject.name}: requests"):
            small = self.requests(subject)
        with self._step(f"{subject.name}: {STREAMS} streams"):
            load = self.streams(subject, STREAMS, TOKENS, PACE, _nothing)
        with self._step(f"{subject.name}: {OPEN:,} streams"):
            many = self.streams(subject, OPEN, OPEN_TOKENS, OPEN_PACE, _nothing)
        reloaded = None
        if subject.reload is not None:
            with self._step(f"{subject.name}: {RELOADS} reloads"):
                reloaded = self.streams(subject, STREAMS, TOKENS, PACE, _several(subject.reload))
        return Figures(
            name=subject.name,
            version=version,
            first=Percentiles.of_us(first["first_us"]),
            chunk=Percentiles.of_us(chunk["delays_us"]),
            requests_per_s=small["whole"] / small["seconds"],
            requests_wrong=small["wrong"],
            load=load,
            open=many,
            reload=reloaded,
        )


def _nothing() -> None:
    """For streams that are left alone."""


def _several(reload: Callable[[], None]) -> Callable[[], None]:
    def reloads() -> None:
        for _ in range(RELOADS):
            reload()

    return reloads


def memory_kib(pids: Sequence[int]) -> float:
    """Memory of these processes, pages that they share counted once (PSS)."""
    return sum(_field(pid, "smaps_rollup", "Pss:") for pid in pids)


def _field(pid: int, file: str, name: str) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/{file}").read_text(encoding="ascii").splitlines():
            if line.startswith(name):
                return float(line.split()[1])
    return 0.0


def cpu_s(pids: Sequence[int]) -> float:
    """CPU seconds that these processes have used, in user and in kernel."""
    used = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            used += int(fields[11]) + int(fields[12])
    return used / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Run:
    """One run: everything in it met the same computer."""

    when: str
    cores: int
    load_before: float
    """Load average of the last minute before the run: what else the computer was doing."""
    figures: tuple[Figures, ...]

    def of(self, name: str) -> Figures:
        return next(figures for figures in self.figures if figures.name == name)

    def added_first_ms(self, figures: Figures) -> Percentiles:
        """What it adds to the time until the first token."""
        direct = self.of(DIRECT).first
        return Percentiles(figures.first.p50 - direct.p50, figures.first.p99 - direct.p99)

    def added_chunk_ms(self, figures: Figures) -> Percentiles:
        direct = self.of(DIRECT).chunk
        return Percentiles(figures.chunk.p50 - direct.p50, figures.chunk.p99 - direct.p99)

    def throughput(self, figures: Figures) -> float:
        """Of the direct tokens a second, at `STREAMS` streams."""
        return figures.load.tokens_per_s / self.of(DIRECT).load.tokens_per_s


def run(bench: Bench, names: Sequence[str], step: Step) -> Run:
    """Measure everything; `names` are those of `RIVALS`. FlexiError where one cannot be installed or started."""
    with contextlib.ExitStack() as stack:
        rivals = []
        for name in names:
            with step(f"install and start {name}"):
                rival = RIVALS[name](bench.ground())
                version = rival.install()
                stack.enter_context(rival.running())
            rivals.append((bench.rival(rival), version))
        subjects = [(bench.direct(), ""), (bench.ours(), ""), *rivals]
        everyone = [subject for subject, _ in subjects]
        load = os.getloadavg()[0]
        with step("first tokens, one request at a time"):
            first = bench.serial(everyone, tokens=1, pace=0, rounds=SERIAL_ROUNDS, count=SERIAL_COUNT)
        with step("tokens of one stream at a time"):
            chunk = bench.serial(everyone, tokens=CHUNK_TOKENS, pace=CHUNK_PACE, rounds=CHUNK_ROUNDS, count=1)
        figures = [
            bench.figures(subject, version, first[subject.name], chunk[subject.name]) for subject, version in subjects
        ]
    moment = datetime.now(UTC).isoformat(timespec="minutes")
    return Run(moment, os.cpu_count() or 1, load, tuple(figures))


def measure(name: str, names: Sequence[str], console: Console) -> Run:
    """Bring the lab `name` up with the bench's site, measure, and take it down again."""
    require_root()
    lab = Lab(name)
    shown = Shown(console)
    try:
        lab.up(progress=shown)
        site_file, keys = place.write_site(lab)
        plan = build_plan(load_site(site_file))
        if deploying.deploy(plan, site_file, console, Wish(allow_reboot=True), dry=False, wait=True) != EXIT_OK:
            raise FlexiError(f"the bench's site is not well: ./flexi status {site_file}")
        servers = place.stand_in(lab, plan)
        try:
            with shown.step("the gateway knows the stand-ins"):
                bench = Bench(lab, plan, keys, shown.step)
                bench.wait_until_served()
            return run(bench, names, shown.step)
        finally:
            for server in servers:
                server.kill()
                server.wait()
    finally:
        lab.down()
