"""From what was seen to how an instance is: a pure function, so that every fault can be told in a test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from flexi_host.agent.config import InstanceConfig, ModelConfig
from flexi_host.agent.state import InstanceView, ModelView, Phase
from flexi_host.common.names import full_name
from flexi_host.common.ollama import Resident

START_LIMIT_S = 60.0
"""An instance that is not there for longer than this does not start any more: somebody must look."""


class Server(Enum):
    UNKNOWN = "unknown"
    """Not looked at yet."""
    ANSWERS = "answers"
    NOT_RUNNING = "not running"
    SILENT = "silent"
    """Listens, but answers late, or with an error."""


@dataclass(frozen=True)
class Observation:
    """What one look at an instance found."""

    server: Server = Server.UNKNOWN
    words: str = ""
    """Why the server is as it is, where it does not answer."""
    away_s: float = 0.0
    """How long it has not been running."""
    start_fault: str | None = None
    """Why the gate of one that is not running stays shut, where that is known (`devices.missing`)."""
    stored: frozenset[str] | None = None
    """Full names in the store; None while not known."""
    resident: Mapping[str, Resident] = field(default_factory=dict)
    """By full name."""
    gpus: tuple[str, ...] = ()
    gpu_fault: str | None = None
    gpu_notes: tuple[str, ...] = ()
    gpus_known: bool = True
    """False until nvidia-smi was asked for the first time."""
    vram_free: int = 0
    """Bytes on all GPUs of the group together."""


@dataclass(frozen=True)
class Download:
    completed: int
    total: int


@dataclass(frozen=True)
class Work:
    """What is being done for a model, and what went wrong the last time."""

    download: Download | None = None
    loading: bool = False
    waits: str | None = None
    """Whom its download waits for."""
    failure: str | None = None
    """Why the model is not there."""
    note: str | None = None
    """What is wrong with it although it serves."""


def assess(config: InstanceConfig, seen: Observation, work: Mapping[str, Work]) -> InstanceView:
    """The state of the instance and of each model in `config`. `since` is left to the board."""
    phase, reason = _server_phase(config, seen)
    models = []
    for model in config.models:
        if phase is Phase.READY:
            models.append(_model(model, seen, work.get(model.name, Work())))
        else:
            models.append(ModelView(model.name, phase, reason))
    notes = "; ".join(seen.gpu_notes) or None
    return InstanceView(
        group=config.group,
        url=config.url,
        phase=phase,
        reason=reason or notes,
        gpus=seen.gpus,
        models=tuple(models),
        surplus=_surplus(config, seen),
    )


def offloaded_percent(resident: Resident) -> int:
    """The share of a model that computes on the CPU; at least 1 where there is any, 0 where all is on the GPUs."""
    away = resident.size - resident.size_vram
    return 0 if away <= 0 or resident.size <= 0 else max(1, round(100 * away / resident.size))


def _server_phase(config: InstanceConfig, seen: Observation) -> tuple[Phase, str | None]:
    # GPUs first: an instance whose gate is shut does not run, and the GPUs are why.
    if seen.gpu_fault:
        return Phase.FAULT, seen.gpu_fault
    if seen.server is Server.SILENT:
        return Phase.FAULT, f"the instance does not answer: {seen.words}"
    if seen.server is Server.NOT_RUNNING:
        if seen.away_s > START_LIMIT_S:
            why = f": {seen.start_fault}" if seen.start_fault else f"; see journalctl -u ollama@{config.group}"
            return Phase.FAULT, f"the instance does not start{why}"
        return Phase.STARTING, f"the instance is not running: {seen.start_fault or seen.words}"
    if seen.server is Server.UNKNOWN or not seen.gpus_known:
        return Phase.STARTING, "not looked at yet"
    return Phase.READY, None


def _model(model: ModelConfig, seen: Observation, work: Work) -> ModelView:
    resident = seen.resident.get(full_name(model.name))
    view = ModelView(model.name, Phase.READY)
    if resident:
        view = replace(
            view,
            size=resident.size,
            size_vram=resident.size_vram,
            context_length=resident.context_length,
            expires_at=resident.expires_at,
        )
    if work.loading:
        return replace(view, phase=Phase.LOADING)
    if seen.stored is not None and full_name(model.name) not in seen.stored:
        return _absent(view, work)
    if resident and resident.size > 0:
        percent = offloaded_percent(resident)
        if percent:
            return replace(view, phase=Phase.FAULT, reason=f"{model.name} runs {percent} % on the CPU")
        return replace(view, reason=_note(model, resident, work))
    if work.failure:
        return replace(view, phase=Phase.FAULT, reason=work.failure)
    if resident:
        return replace(view, phase=Phase.LOADING)
    if seen.stored is None:
        return replace(view, phase=Phase.STARTING, reason="the store has not been read yet")
    return replace(view, phase=Phase.LOADING, reason="waits to be loaded")


def _surplus(config: InstanceConfig, seen: Observation) -> tuple[str, ...]:
    # A mirror's long name is there until it is renamed.
    wanted = {full_name(name) for model in config.models for name in (model.name, model.source)}
    return tuple(sorted((seen.stored or frozenset()) - wanted))


def _absent(view: ModelView, work: Work) -> ModelView:
    """A model that the store lacks. Even one that is still in memory does not serve: Ollama answers with 404."""
    if work.download:
        return replace(view, phase=Phase.DOWNLOADING, completed=work.download.completed, total=work.download.total)
    if work.failure:
        return replace(view, phase=Phase.FAULT, reason=work.failure)
    return replace(view, phase=Phase.STARTING, reason=work.waits or "waits for its download")


def _note(model: ModelConfig, resident: Resident, work: Work) -> str | None:
    notes = []
    if resident.context_length and resident.context_length != model.context:
        notes.append(f"loaded with a context of {resident.context_length} tokens instead of {model.context}")
    if work.note:
        notes.append(work.note)
    return "; ".join(notes) or None
