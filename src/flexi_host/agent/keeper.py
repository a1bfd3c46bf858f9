"""Keeps one instance right: looks at it every two seconds, downloads what is missing, loads what is not in memory.

Three threads, because a download takes an hour and a load minutes, and neither may delay the next look:
`look` sees, `pull` downloads one model after the other, `load` loads one after the other and keeps them for ever.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from flexi_host.agent import gpus
from flexi_host.agent.assess import Download, Observation, Server, Work, assess, offloaded_percent
from flexi_host.agent.config import InstanceConfig, ModelConfig
from flexi_host.agent.downloads import Downloads
from flexi_host.agent.env_file import EnvFileError, gpu_uuids
from flexi_host.agent.share import ShareError
from flexi_host.agent.smi import Expected
from flexi_host.agent.state import InstanceView
from flexi_host.common.backoff import Backoff
from flexi_host.common.names import full_name
from flexi_host.common.ollama import NoAnswer, NotRunning, Ollama, OllamaError, as_resident
from flexi_host.common.timestamps import is_for_ever


@dataclass(frozen=True)
class Pace:
    """How fast a keeper looks and tries again, in seconds."""

    look_s: float = 2.0
    pull_again_s: float = 5.0
    pull_cap_s: float = 300.0
    load_again_s: float = 2.0
    load_cap_s: float = 60.0
    keep_cap_s: float = 30.0
    reload_again_s: float = 30.0
    """A model that is partly on the CPU is loaded anew; that moves tens of GB, so not often."""
    reload_cap_s: float = 900.0
    calm_s: float = 60.0


@dataclass
class _Backoffs:
    """One for each thing that may have to be tried again for a model."""

    pull: Backoff
    load: Backoff
    keep: Backoff
    reload: Backoff

    def reset(self) -> None:
        for backoff in (self.pull, self.load, self.keep, self.reload):
            backoff.reset()


@dataclass(frozen=True)
class _Finished:
    """Work that is done, but shown until a look has seen its result: no state may flicker in between."""

    works: dict[str, Work]
    model: str
    after: Work
    look: int
    """The first look that began after the end of the work."""


@dataclass(frozen=True)
class Host:
    """What a keeper needs of the host around its instance."""

    gpu_report: Callable[[], gpus.GpuReport | None]
    downloads: Downloads
    obtain: Callable[[str, str, Callable[[int, int], None]], bool]
    """Give a group a model that lies on this host already (`share.Sharer.obtain`)."""
    say: Callable[[str], None]
    gpus: Expected | None = None
    """What each card of the host has to be."""
    node_fault: Callable[[], str | None] = lambda: None
    """Why no instance can start although nvidia-smi is well (`devices.missing`)."""


class Keeper:
    """`publish` is called with every new view, from several threads but never from two at once."""

    def __init__(
        self,
        config: InstanceConfig,
        client: Ollama,
        host: Host,
        publish: Callable[[InstanceView], None],
        interval_s: float,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._client = client
        self._host = host
        self._publish = publish
        self._interval_s = interval_s
        self._pace = pace or Pace()
        self._clock = clock
        self._condition = threading.Condition()
        self._seen = Observation()
        self._looks_begun = 0
        self._looks_done = 0
        self._look_now = threading.Event()
        self._stopping = threading.Event()
        self._pulls = {model.name: Work() for model in config.models}
        self._loads = {model.name: Work() for model in config.models}
        self._finished: list[_Finished] = []
        self._backoffs = {model.name: self._new_backoffs() for model in config.models}
        self._away_since: float | None = None
        self._tags_at = float("-inf")
        self._threads = [
            threading.Thread(target=target, name=f"{target.__name__.strip('_')} {config.group}", daemon=True)
            for target in (self._look_loop, self._pull_loop, self._load_loop)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask the threads to end; one that waits for an answer ends after it."""
        self._stopping.set()
        self._look_now.set()
        with self._condition:
            self._condition.notify_all()

    def alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads)

    @property
    def looks(self) -> int:
        """How many looks are done."""
        return self._looks_done

    # Looking

    def _look_loop(self) -> None:
        while not self._stopping.is_set():
            self._look_now.clear()
            with self._condition:
                self._looks_begun += 1
            seen = self._look()
            self._host.downloads.saw(self._config.group, seen.server is Server.ANSWERS, seen.stored)
            with self._condition:
                if seen.server is Server.ANSWERS and self._seen.server is not Server.ANSWERS:
                    # A new life of the instance: what failed in the last one may be tried at once.
                    for backoffs in self._backoffs.values():
                        backoffs.reset()
                self._seen = seen
                self._looks_done = self._looks_begun
                self._clear_finished()
                self._tell()
                self._condition.notify_all()
            self._look_now.wait(self._pace.look_s)

    def _look(self) -> Observation:
        seen = self._look_at_gpus()
        try:
            self._client.version()
            resident = {full_name(str(entry.get("name", ""))): as_resident(entry) for entry in self._client.ps()}
        except NotRunning as error:
            now = self._clock()
            self._away_since = now if self._away_since is None else self._away_since
            why, away_s = self._host.node_fault(), now - self._away_since
            return replace(seen, server=Server.NOT_RUNNING, words=str(error), away_s=away_s, start_fault=why)
        except OllamaError as error:
            self._away_since = None
            return replace(seen, server=Server.SILENT, words=str(error))
        self._away_since = None
        seen = replace(seen, server=Server.ANSWERS, resident=resident)
        return replace(seen, stored=self._stored())

    def _look_at_gpus(self) -> Observation:
        try:
            uuids = gpu_uuids(self._config.env_file)
        except EnvFileError as error:
            return Observation(gpu_fault=str(error))
        report = self._host.gpu_report()
        if report is None:
            return Observation(gpus=uuids, gpus_known=False)
        return Observation(
            gpus=uuids,
            gpu_fault=gpus.fault(report, uuids, time.monotonic()),
            gpu_notes=tuple(gpus.notes(report, uuids, self._host.gpus)),
            vram_free=gpus.free_bytes(report, uuids),
        )

    def _stored(self) -> frozenset[str] | None:
        """Names in the store; read anew while something is missing there, and else once in an interval."""
        known = self._seen.stored
        now = self._clock()
        if known is not None and now - self._tags_at < self._interval_s and self._settled(known):
            return known
        try:
            stored = frozenset(full_name(str(entry.get("name", ""))) for entry in self._client.tags())
        except OllamaError:
            return known
        self._tags_at = now
        return stored

    def _settled(self, stored: frozenset[str]) -> bool:
        return all(full_name(model.name) in stored and not _leftover(model, stored) for model in self._config.models)

    def _tell(self) -> None:
        """Publish the present view; the caller holds the condition."""
        work = {name: self._work(name) for name in self._pulls}
        self._publish(assess(self._config, self._seen, work))

    def _work(self, name: str) -> Work:
        pull, load = self._pulls[name], self._loads[name]
        first = self._host.downloads.waits_for(self._config.group, name)
        waits = f"waits for group {first}'s download" if first else None
        return Work(pull.download, load.loading, waits, pull.failure or load.failure, load.note)

    def _begin(self, works: dict[str, Work], model: ModelConfig, work: Work) -> None:
        with self._condition:
            works[model.name] = work
            self._tell()

    def _finish(self, works: dict[str, Work], model: ModelConfig, after: Work) -> None:
        with self._condition:
            self._finished.append(_Finished(works, model.name, after, self._looks_begun + 1))

    def _clear_finished(self) -> None:
        for done in self._finished:
            if done.look <= self._looks_done:
                done.works[done.model] = done.after
        self._finished = [done for done in self._finished if done.look > self._looks_done]

    # Downloading

    def _pull_loop(self) -> None:
        self._work_loop(self._next_pull, self._pull)

    def _next_pull(self, now: float) -> ModelConfig | None:
        stored = self._seen.stored
        if self._seen.server is not Server.ANSWERS or stored is None:
            return None
        for model in self._config.models:
            wanted = full_name(model.name) not in stored or _leftover(model, stored)
            due = wanted and now >= self._backoffs[model.name].pull.not_before
            if due and self._host.downloads.waits_for(self._config.group, model.name) is None:
                return model
        return None

    def _pull(self, model: ModelConfig) -> None:
        stored = self._seen.stored or frozenset()
        backoff = self._backoffs[model.name].pull
        try:
            # A long name that is already there is a download that only lacks its rename.
            if full_name(model.name) not in stored and full_name(model.source) not in stored:
                obtained = self._obtain(model)
                if not obtained and not self._download(model):
                    self._finish(self._pulls, model, Work())
                    return
            else:
                obtained = False
            if model.source != model.name and not obtained:
                if full_name(model.name) not in stored:
                    self._client.copy(model.source, model.name)
                self._client.delete(model.source)
        except (NotRunning, NoAnswer):
            # The instance's own trouble, which the next look tells; not a fault of this download.
            backoff.succeeded(self._clock())
            self._finish(self._pulls, model, Work())
        except OllamaError as error:
            backoff.failed(self._clock())
            self._finish(self._pulls, model, Work(failure=f"the download fails: {error}"))
        else:
            backoff.succeeded(self._clock())
            self._finish(self._pulls, model, Work())

    def _obtain(self, model: ModelConfig) -> bool:
        """Whether another store of this host had it. A trouble with that costs a download, and not the model."""

        def tell(completed: int, total: int) -> None:
            self._begin(self._pulls, model, Work(download=Download(completed, total)))

        try:
            return self._host.obtain(self._config.group, model.name, tell)
        except ShareError as error:
            self._host.say(f"{self._config.group} {model.name}: cannot be had from this host's other stores: {error}")
            return False

    def _download(self, model: ModelConfig) -> bool:
        """Pull it; False where another group of this host has begun with it meanwhile."""
        group, downloads = self._config.group, self._host.downloads
        if not downloads.begin(group, model.name):
            return False
        layers: dict[str, tuple[int, int]] = {}
        told = Download(0, 0)
        self._begin(self._pulls, model, Work(download=told))
        try:
            for progress in self._client.pull(model.source, model.insecure):
                if progress.digest:
                    layers[progress.digest] = (progress.completed, progress.total)
                now = Download(sum(done for done, _ in layers.values()), sum(total for _, total in layers.values()))
                if now != told:
                    told = now
                    self._begin(self._pulls, model, Work(download=now))
        finally:
            downloads.end(group, model.name)
        return True

    # Loading

    def _load_loop(self) -> None:
        self._work_loop(self._next_load, self._load)

    def _next_load(self, now: float) -> ModelConfig | None:
        seen = self._seen
        if seen.server is not Server.ANSWERS or seen.gpu_fault or not seen.gpus_known or seen.stored is None:
            return None  # without its GPUs a load would end on the CPU
        for model in self._config.models:
            if full_name(model.name) in seen.stored and self._load_is_due(model, now):
                return model
        return None

    def _load_is_due(self, model: ModelConfig, now: float) -> bool:
        resident = self._seen.resident.get(full_name(model.name))
        backoffs = self._backoffs[model.name]
        if resident is None:
            return now >= backoffs.load.not_before
        if offloaded_percent(resident):
            room = self._seen.vram_free >= resident.size - resident.size_vram
            return room and now >= backoffs.reload.not_before
        return not is_for_ever(resident.expires_at) and now >= backoffs.keep.not_before

    def _load(self, model: ModelConfig) -> None:
        resident = self._seen.resident.get(full_name(model.name))
        backoffs = self._backoffs[model.name]
        backoff = backoffs.load
        if resident is not None:
            backoff = backoffs.reload if offloaded_percent(resident) else backoffs.keep
        # A model whose keep-alive is renewed goes on serving meanwhile.
        self._begin(self._loads, model, Work(loading=backoff is not backoffs.keep))
        after = Work()
        try:
            if backoff is backoffs.reload:
                self._client.unload(model.name)
            if backoff is backoffs.load:
                self._make_room()
            self._client.load(model.name, model.embedding)
        except NotRunning:
            # The next look tells it. Counted nevertheless: a load that ends the instance must not do so all day.
            backoff.succeeded(self._clock())
        except OllamaError as error:
            if backoff is backoffs.keep:
                after = Work(note=f"its keep-alive cannot be renewed: {error}")
            else:
                after = Work(failure=f"the load fails: {error}")
            backoff.failed(self._clock())
        else:
            self._succeeded(backoffs, backoff)
            if backoff is backoffs.load and backoff.attempts > 2:
                after = Work(failure="it is unloaded again and again soon after it was loaded: is there room for it?")
        self._finish(self._loads, model, after)

    def _make_room(self) -> None:
        """Unload what the site has taken away: else Ollama throws out whichever it likes, maybe one that is wanted."""
        wanted = {full_name(model.name) for model in self._config.models}
        for name in self._seen.resident.keys() - wanted:
            self._client.unload(name)

    def _succeeded(self, backoffs: _Backoffs, backoff: Backoff) -> None:
        now = self._clock()
        backoff.succeeded(now)
        if backoff is backoffs.reload:
            # Even the first success is followed by a pause: if it did not help, the next one would not either.
            backoff.not_before = max(backoff.not_before, now + self._pace.reload_again_s)

    # Both

    def _work_loop(self, choose: Callable[[float], ModelConfig | None], do: Callable[[ModelConfig], None]) -> None:
        """Do what `choose` finds, one thing after the other, each decided on a look that began after the last."""
        look = 1
        while self._await_look(look):
            with self._condition:
                model = choose(self._clock())
                look = self._looks_done + 1
            if model is None:
                continue
            do(model)
            with self._condition:
                look = self._looks_begun + 1
            self._look_now.set()

    def _await_look(self, number: int) -> bool:
        """Block until look `number` is done; False when the keeper ends."""
        with self._condition:
            self._condition.wait_for(lambda: self._stopping.is_set() or self._looks_done >= number)
        return not self._stopping.is_set()

    def _new_backoffs(self) -> _Backoffs:
        pace = self._pace
        return _Backoffs(
            pull=Backoff(pace.pull_again_s, pace.pull_cap_s, pace.calm_s),
            load=Backoff(pace.load_again_s, pace.load_cap_s, pace.calm_s),
            keep=Backoff(pace.load_again_s, pace.keep_cap_s, pace.calm_s),
            reload=Backoff(pace.reload_again_s, pace.reload_cap_s, calm_s=2 * pace.reload_cap_s),
        )


def _leftover(model: ModelConfig, stored: frozenset[str]) -> bool:
    """The mirror's long name is still there beside the right one."""
    return full_name(model.source) != full_name(model.name) and full_name(model.source) in stored
