"""Which models are loaded, for how long, and who waits. Source: server/sched.go, at v0.24.0 and v0.32.15.

A request for a loaded model goes straight to it. Every other request waits in one queue: one load at a time, and
while it makes room (waiting for busy models to finish) all later ones wait too.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from . import llama_server, log
from .devices import Device, Discovery, VramLedger
from .environment import Environment
from .estimate import Demand, effective_context, estimate, weights_bytes
from .goformat import FOREVER, SECOND, human_bytes2, now_ns
from .options import Options
from .placement import NeedsEvictionError, Placement, TooLargeError, place
from .runner import POLL_SECONDS, Caller, Runner, pause
from .store import Model
from .version import at_least

MODELS_PER_GPU = 3
LOAD_BYTES_PER_SECOND = 20e9
"""Faster than a real disk, so that a lab is up soon."""
LOAD_SECONDS = 0.1
_ONE_AT_A_TIME = {"mllama", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen3next", "lfm2", "lfm2moe",
                  "nemotron_h", "nemotron_h_moe", "nemotron_h_omni"}  # fmt: skip


class ServerBusyError(Exception):
    """Too many requests wait for a model to be loaded; Ollama answers with status 503."""

    def __init__(self) -> None:
        super().__init__("server busy, please try again.  maximum pending requests exceeded")


class LoadError(Exception):
    """The model cannot be loaded; Ollama answers with status 500."""


@dataclass
class Loaded:
    """A loaded model and when it goes. Guarded by the scheduler's lock."""

    runner: Runner
    session: int
    """Keep-alive in nanoseconds; FOREVER never ends, 0 unloads as soon as nobody uses it."""
    users: int = 0
    expires_ns: int = 0
    """Since the epoch; 0 until it has been idle for the first time."""
    timer: threading.Timer | None = None

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


@dataclass(frozen=True)
class Running:
    """One line of `ollama ps`."""

    model: Model
    size: int
    size_vram: int
    context: int
    expires_ns: int


class Scheduler:
    def __init__(self, environment: Environment, discovery: Discovery, ledger: VramLedger, version: str) -> None:
        self._llama_server = at_least(version, *llama_server.FIRST)
        self._environment = environment
        self._discovery = discovery
        self._ledger = ledger
        self._changed = threading.Condition()
        self._loaded: dict[str, Loaded] = {}
        self._pending: deque[object] = deque()
        self._max_runners = environment.max_loaded_models

    def acquire(self, caller: Caller, model: Model, options: Options, keep_alive: int | None) -> Loaded:
        """The model's runner, loaded if it has to be. Give it back with `release`.

        `keep_alive` (nanoseconds) replaces the runner's for everyone; None leaves it. Raises ServerBusyError,
        LoadError, or ClientGoneError from `caller`.
        """
        context = max(options.runner.num_ctx, 2048 if "vision" in model.capabilities else 4)
        options = replace(options, runner=replace(options.runner, num_ctx=context))
        with self._changed:
            loaded = self._loaded.get(model.key)
            if loaded is not None and not self._needs_reload(loaded, options):
                return self._use(loaded, keep_alive)
            # One more than the queue holds: the first is already being worked on.
            if len(self._pending) > self._environment.max_queue:
                raise ServerBusyError
            ticket = object()
            self._pending.append(ticket)
            try:
                while self._pending[0] is not ticket:
                    self._wait(caller)
                return self._schedule(caller, model, options, keep_alive)
            finally:
                self._pending.remove(ticket)
                self._changed.notify_all()

    @property
    def pending(self) -> int:
        """Requests that wait for a model to be loaded, the one that is being worked on included."""
        return len(self._pending)

    def release(self, loaded: Loaded) -> None:
        with self._changed:
            loaded.users -= 1
            if loaded.users > 0:
                return
            if loaded.session <= 0:
                self._unload(loaded)
                return
            loaded.stop_timer()
            loaded.expires_ns = now_ns() + loaded.session
            if loaded.session < threading.TIMEOUT_MAX * SECOND:
                loaded.timer = threading.Timer(loaded.session / SECOND, self._expired, (loaded,))
                loaded.timer.daemon = True
                loaded.timer.start()
            self._changed.notify_all()

    def expire(self, model: Model) -> None:
        """Unload the model now, or as soon as its last request is done."""
        with self._changed:
            loaded = self._loaded.get(model.key)
            if loaded is not None:
                loaded.expires_ns = now_ns()
                self._expire_soon(loaded)

    def running(self) -> list[Running]:
        """What is loaded, the longest to live first."""
        with self._changed:
            lines = [
                Running(
                    loaded.runner.model,
                    loaded.runner.placement.total,
                    loaded.runner.placement.vram,
                    loaded.runner.context,
                    loaded.expires_ns or now_ns() + loaded.session,
                )
                for loaded in self._loaded.values()
            ]
        return sorted(lines, key=lambda line: line.expires_ns // SECOND, reverse=True)

    def close(self) -> None:
        with self._changed:
            for loaded in list(self._loaded.values()):
                self._unload(loaded)

    def _wait(self, caller: Caller) -> None:
        caller.check()
        self._changed.wait(POLL_SECONDS)

    def _use(self, loaded: Loaded, keep_alive: int | None) -> Loaded:
        loaded.users += 1
        loaded.stop_timer()
        if keep_alive is not None:
            loaded.session = keep_alive
        return loaded

    def _needs_reload(self, loaded: Loaded, options: Options) -> bool:
        have, want = loaded.runner.options, options.runner
        if self._llama_server:
            model = loaded.runner.model
            have, want = (replace(o, num_ctx=effective_context(model, o.num_ctx)) for o in (have, want))
            if loaded.runner.shift != options.shift:
                return True
        if want.num_gpu < 0:
            have, want = replace(have, num_gpu=-1), replace(want, num_gpu=-1)
        return loaded.runner.crashed or have != want

    def _schedule(self, caller: Caller, model: Model, options: Options, keep_alive: int | None) -> Loaded:
        while True:
            caller.check()
            loaded = self._loaded.get(model.key)
            if loaded is not None:
                if not self._needs_reload(loaded, options):
                    return self._use(loaded, keep_alive)
                victim = loaded
            elif 0 < self._max_runners <= len(self._loaded):
                victim = self._victim()
            else:
                devices = self._free_devices(options)
                if self._max_runners <= 0:
                    self._max_runners = MODELS_PER_GPU * max(len(self._discovery.devices), 1)
                parallel = self._parallel(model)
                try:
                    placement = self._place(model, options, parallel, devices)
                except NeedsEvictionError:
                    victim = self._victim()
                except TooLargeError as error:
                    raise LoadError(str(error)) from error
                else:
                    return self._load(caller, model, options, keep_alive, placement, parallel)
            self._expire_soon(victim)
            while self._loaded.get(victim.runner.model.key) is victim:
                self._wait(caller)

    def _victim(self) -> Loaded:
        """Shortest keep-alive first (then by path), and of those one that is idle if there is one."""
        candidates = sorted(self._loaded.values(), key=lambda loaded: (loaded.session, loaded.runner.model.key))
        return next((loaded for loaded in candidates if loaded.users == 0), candidates[0])

    def _expire_soon(self, loaded: Loaded) -> None:
        loaded.stop_timer()
        loaded.session = 0
        if loaded.users == 0:
            self._unload(loaded)

    def _expired(self, loaded: Loaded) -> None:
        with self._changed:
            # A request may have taken it (and stopped this timer) in the moment in which it fired.
            if loaded.timer is threading.current_thread():
                self._unload(loaded)

    def _unload(self, loaded: Loaded) -> None:
        loaded.stop_timer()
        key = loaded.runner.model.key
        if self._loaded.get(key) is loaded:
            del self._loaded[key]
        self._ledger.release(loaded.runner.number)
        self._changed.notify_all()

    def _parallel(self, model: Model) -> int:
        if "completion" not in model.capabilities or model.config.get("model_family") in _ONE_AT_A_TIME:
            return 1
        return self._environment.num_parallel

    def _free_devices(self, options: Options) -> Sequence[Device]:
        """The GPUs with what is free on them: the smaller of what the driver says and what we know we use."""
        if options.runner.num_gpu == 0:
            return ()
        devices = []
        for device in self._discovery.refresh():
            ours = sum(loaded.runner.placement.by_gpu.get(device.uuid, 0) for loaded in self._loaded.values())
            devices.append(replace(device, free=min(device.free, max(device.total - ours, 0))))
        return devices

    def _place(self, model: Model, options: Options, parallel: int, devices: Sequence[Device]) -> Placement:
        runner = options.runner
        wanted = estimate(model, runner.num_ctx, runner.num_batch, parallel, self._cache_type(model))
        memory = self._environment.system_memory
        memory -= sum(loaded.runner.placement.cpu for loaded in self._loaded.values())
        if self._llama_server:
            return self._place_llama_server(model, options, parallel, devices, wanted, memory)
        return place(
            wanted,
            devices,
            require_full=bool(self._loaded),
            requested_layers=options.runner.num_gpu,
            spread=self._environment.sched_spread,
            overhead=self._environment.gpu_overhead,
            memory_free=memory,
        )

    def _place_llama_server(
        self,
        model: Model,
        options: Options,
        parallel: int,
        devices: Sequence[Device],
        wanted: Demand,
        memory: int,
    ) -> Placement:
        runner = options.runner
        predicted = llama_server.predict(model, runner.num_ctx, parallel)
        chosen = llama_server.select(devices, predicted, options, self._environment.sched_spread)
        # Layers that stay on the CPU because somebody said so need no room.
        partial = 0 < runner.num_gpu < len(wanted.layers)
        if self._loaded and chosen and not partial:
            batch = runner.num_batch
            if not options.batch_given and "completion" in model.capabilities:
                context = effective_context(model, runner.num_ctx) * parallel
                flash = self._environment.flash_attention is not False
                batch = llama_server.batch_size(context, predicted, chosen, flash)
            llama_server.check_room(predicted, chosen, batch)
        return llama_server.fit(wanted, chosen, runner.num_gpu, memory)

    def _cache_type(self, model: Model) -> str:
        """Flash attention, which a quantized cache needs, must be asked for, and embedding models cannot do it.

        From 0.30 on it is used unless it is forbidden.
        """
        wanted = self._environment.kv_cache_type
        if self._llama_server:
            return (wanted or "f16") if self._environment.flash_attention is not False else "f16"
        flash = self._environment.flash_attention and "embedding" not in model.capabilities
        if wanted in ("q8_0", "q4_0") and not flash:
            log.warn("OLLAMA_FLASH_ATTENTION must be enabled to use a quantized OLLAMA_KV_CACHE_TYPE", type=wanted)
            return "f16"
        return wanted or "f16"

    def _load(
        self,
        caller: Caller,
        model: Model,
        options: Options,
        keep_alive: int | None,
        placement: Placement,
        parallel: int,
    ) -> Loaded:
        environment = self._environment
        trained = model.architecture_value("context_length", 0)
        if 0 < trained < options.runner.num_ctx:
            log.warn("requested context size too large for model", num_ctx=options.runner.num_ctx, n_ctx_train=trained)
        log.info(
            "loading model",
            model=model.name.shortest(),
            layers=placement.layers,
            offloaded=placement.gpu_layers,
            vram=human_bytes2(placement.vram),
            total=human_bytes2(placement.total),
        )
        runner = Runner(
            model, options.runner, placement, parallel, environment.speed, self._discovery.lost, options.shift
        )
        self._ledger.take(runner.number, placement.by_gpu)
        self._changed.release()
        try:
            pause((LOAD_SECONDS + weights_bytes(model) / LOAD_BYTES_PER_SECOND) / environment.speed, caller)
        except BaseException:
            self._ledger.release(runner.number)
            raise
        finally:
            self._changed.acquire()
        session = environment.keep_alive if keep_alive is None else keep_alive
        loaded = Loaded(runner, min(session, FOREVER), users=1)
        self._loaded[model.key] = loaded
        log.info("loaded runners", count=len(self._loaded))
        self._changed.notify_all()
        return loaded
