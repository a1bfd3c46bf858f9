"""Instances, the agent, drain switches and Ollama's releases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flexi.catalog.platforms import ollama_needs
from flexi.plan.model.ollama import InstancePlan, OllamaPlan
from flexi.probe import Instance, Unit

from . import kinds
from .case import Case, Finding

LOOPING = 3
"""Restarts after which an instance that is not up, or has just come up, is in a loop."""
YOUNG_S = 60
AGENT_STALE_S = 60
"""The agent writes every 10 s at least."""
FLEXIS_OWN = "flexi: "


def diagnose(case: Case) -> Iterator[Finding]:
    ollama = case.plan.ollama
    if ollama is None or not case.truth.deployed:
        return
    yield from _releases(case, ollama)
    yield from _drains(case)
    for wanted in ollama.instances:
        found = case.truth.instance(wanted.group)
        yield from _runs(case, wanted, found)
        if found is not None:
            yield from _computes(case, wanted, found)
    yield from _surplus(case, ollama)
    yield from _agent(case)


def _releases(case: Case, ollama: OllamaPlan) -> Iterator[Finding]:
    truth = case.truth
    running = {instance.version for instance in case.instances if instance.version}
    versions = sorted(running | ({truth.release_current} if truth.release_current else set()))
    if truth.driver_major is not None:
        for version in versions:
            needs = _needs(version)
            if needs is not None and truth.driver_major < needs:
                what = f"Ollama {version} needs driver {needs} or newer for GPUs, {truth.driver} runs"
                yield case.finding(kinds.PAIR, what)
    if truth.release_current is None:
        yield case.finding(kinds.RELEASE_DIFFERS, f"no Ollama is installed, the site wants {ollama.version}")
    elif truth.release_current != ollama.version:
        what = f"Ollama {truth.release_current} is the current release, the site wants {ollama.version}"
        yield case.finding(kinds.RELEASE_DIFFERS, what)
    else:
        for instance in case.instances:
            if instance.version and instance.version != truth.release_current:
                what = f"{instance.unit} still runs Ollama {instance.version}, {truth.release_current} is current"
                yield case.finding(kinds.RELEASE_DIFFERS, what)


def _needs(version: str) -> int | None:
    try:
        return ollama_needs(version.partition("-")[0])
    except ValueError:
        return None


def _drains(case: Case) -> Iterator[Finding]:
    for group, reason in case.truth.drained.items():
        if reason.startswith(FLEXIS_OWN):
            what = f"group {group} is drained: {reason.removeprefix(FLEXIS_OWN)}"
            yield case.finding(kinds.DRAIN_LEFT, what, group=group)
        else:
            what = f"group {group} is drained" + (f": {reason}" if reason else ", without a reason")
            yield case.finding(kinds.DRAINED, what, group=group)


def looping(case: Case, unit: Unit) -> bool:
    """Whether an instance is started again and again."""
    if not unit.name.startswith("ollama@") or unit.restarts < LOOPING:
        return False
    return unit.active != "active" or _up_s(case, unit) < YOUNG_S


def _up_s(case: Case, unit: Unit) -> float:
    return (case.truth.uptime_s or 0.0) - (unit.active_since_s or 0.0)


def _runs(case: Case, wanted: InstancePlan, found: Instance | None) -> Iterator[Finding]:
    unit = case.truth.unit(wanted.unit)
    if unit is None:
        return
    if looping(case, unit):
        why = _agents_reason(case, wanted.group)
        what = f"{unit.name} was started {unit.restarts} times again and is {unit.active} ({unit.sub})"
        yield case.finding(kinds.LOOP, what + (f": {why}" if why else ""), unit=unit.name)
    elif unit.active == "active" and found is not None and found.version is None and _up_s(case, unit) > YOUNG_S:
        yield case.finding(kinds.NO_ANSWER, f"{unit.name} runs, {found.address} gives no answer", unit=unit.name)


def _computes(case: Case, wanted: InstancePlan, found: Instance) -> Iterator[Finding]:
    if len(found.uuids) != len(wanted.gpus):
        what = f"{wanted.environment_file} names {len(found.uuids)} GPUs, the plan {len(wanted.gpus)}"
        yield case.finding(kinds.WRONG_GPUS, what)
    reasons = []
    others = [library for library in found.libraries if library.upper() != "CUDA"]
    if others:
        reasons.append(f"found {', '.join(dict.fromkeys(others))} and no GPU when it started")
    elif found.libraries and len(found.libraries) != len(found.uuids):
        reasons.append(f"found {len(found.libraries)} of {len(found.uuids)} GPUs when it started")
    for model in found.loaded or ():
        if model.size and model.size_vram < model.size:
            share = 1 - model.size_vram / model.size
            reasons.append(f"has {share:.0%} of {model.name} on the CPU")
    if reasons:
        what = f"{found.unit} {' and '.join(reasons)}"
        yield case.finding(kinds.CPU_FALLBACK, what, unit=found.unit)


def _surplus(case: Case, ollama: OllamaPlan) -> Iterator[Finding]:
    planned = {instance.group for instance in ollama.instances}
    for instance in case.truth.instances:
        unit = case.truth.unit(instance.unit)
        if instance.group not in planned and unit is not None and unit.active in ("active", "activating"):
            yield case.finding(kinds.SURPLUS, f"{instance.unit} runs, the plan has no such group here")


def _agent(case: Case) -> Iterator[Finding]:
    status, unit = case.truth.agent, case.truth.unit("flexi-agent.service")
    if unit is None or unit.active != "active":
        return
    if status is None:
        yield case.finding(kinds.AGENT_SILENT, "the agent has written no status")
        return
    written, now = status.get("time"), case.truth.started
    if isinstance(written, int | float) and now is not None and now - written > AGENT_STALE_S:
        yield case.finding(kinds.AGENT_SILENT, f"the agent has been silent for {now - written:.0f} s")


def model_faults(case: Case) -> Iterator[Finding]:
    """The agent's own words, for what no other finding explains."""
    for instance in _agents_instances(case):
        for model in instance.get("models", ()):
            if model.get("phase") == "fault":
                what = f"{model.get('name')} on {instance.get('group')}: {model.get('reason') or 'without a reason'}"
                yield case.finding(kinds.MODEL_FAULT, what)


def _agents_reason(case: Case, group: str) -> str:
    for instance in _agents_instances(case):
        if instance.get("group") == group:
            return str(instance.get("reason") or "")
    return ""


def _agents_instances(case: Case) -> list[dict[str, Any]]:
    instances = (case.truth.agent or {}).get("instances", [])
    return [instance for instance in instances if isinstance(instance, dict)]
