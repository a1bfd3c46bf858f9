"""The cards: there, the same as before, healthy, and nobody else's."""

from __future__ import annotations

from collections.abc import Iterator

from flexi.probe import Gpu, Process
from flexi_host.agent import smi

from . import kinds
from .case import Case, Finding

MIB = 2**20
UNACCOUNTED = 1024 * MIB
"""What the driver itself takes stays below this: some hundred MiB on a card that computes, a few on an idle one."""

# NVML API reference, NvmlClocksEventReasons. A power cap and idling are a card's ordinary life.
SLOWDOWNS = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
PROGRAMS_OWN = {13, 31, 43, 45}
"""Xids that a faulty or killed program causes by itself (docs.nvidia.com/deploy/xid-errors: graphics engine exception,
MMU fault, reset channel, preemptive cleanup)."""


def diagnose(case: Case) -> Iterator[Finding]:
    if case.plan.driver is None or not case.truth.deployed or case.truth.driver is None:
        return
    if case.truth.complete and not case.truth.mismatch and case.truth.smi_status is not None:
        yield from _there(case)
        yield from _nodes(case)
    for gpu in case.truth.gpus:
        yield from _healthy(case, gpu)
    yield from _persistence(case)
    yield from _xids(case)
    yield from _strangers(case)


def _there(case: Case) -> Iterator[Finding]:
    truth, wanted, place = case.truth, case.plan.gpu_count, case.plan.gpu_place
    for gpu in truth.gpus:
        if gpu.fault:
            yield case.finding(kinds.GPU_UNUSABLE, f"{gpu.called} is not usable: {gpu.fault}", index=gpu.index)
    expected = case.plan.expected_gpus
    others = [words for gpu in truth.gpus if expected and (words := smi.other(gpu, expected))]
    if len(truth.gpus) > wanted:
        others.append(f"nvidia-smi shows {len(truth.gpus)} GPUs, the site file says {wanted}")
    for words in others:
        yield case.finding(kinds.GPU_OTHER, f"{words} ({place})", place=place)
    for words in truth.smi_warnings:
        yield case.finding(kinds.SMI_WARNS, f"nvidia-smi: {words}")
    visible = {gpu.uuid for gpu in truth.gpus}
    named = {uuid: instance.group for instance in case.instances for uuid in instance.uuids}
    gone = [uuid for uuid in named if uuid not in visible]
    new = [gpu for gpu in truth.gpus if gpu.uuid not in named]
    if len(visible) < wanted:
        missing = ", ".join(f"{uuid[:12]} of group {named[uuid]}" for uuid in gone)
        what = f"nvidia-smi shows {len(visible)} of {wanted} GPUs" + (f"; missing: {missing}" if missing else "")
        if truth.pci:
            what += f"; {len(truth.pci)} are on the PCI bus"
        if truth.smi_words:
            what += f" ({truth.smi_words[0]})"
        yield case.finding(kinds.GPU_MISSING, what)
    elif gone and new:
        groups = ", ".join(sorted({named[uuid] for uuid in gone}))
        olds = ", ".join(uuid[:12] for uuid in gone)
        news = ", ".join(f"GPU {gpu.index} ({gpu.uuid[:12]}, {gpu.name})" for gpu in new)
        yield case.finding(kinds.GPU_REPLACED, f"group {groups} has {olds}, which is gone; new here: {news}")


def _nodes(case: Case) -> Iterator[Finding]:
    if case.truth.gpus and "/dev/nvidia-uvm" not in case.truth.device_nodes:
        yield case.finding(kinds.UVM_MISSING, "/dev/nvidia-uvm is not there although the driver is loaded")


def _healthy(case: Case, gpu: Gpu) -> Iterator[Finding]:
    called = gpu.called
    slow = [word for bit, word in SLOWDOWNS.items() if (gpu.throttle or 0) & bit]
    if slow:
        heat = f" at {gpu.temperature_c} °C" if gpu.temperature_c is not None else ""
        yield case.finding(kinds.THROTTLING, f"{called} slows itself down{heat}: {', '.join(slow)}", index=gpu.index)
    if gpu.ecc_uncorrected:
        what = f"{called} has had {gpu.ecc_uncorrected} uncorrected memory errors"
        yield case.finding(kinds.ECC, what, index=gpu.index)


def _persistence(case: Case) -> Iterator[Finding]:
    off = [str(gpu.index) for gpu in case.truth.gpus if gpu.persistence is False]
    if off:
        yield case.finding(kinds.PERSISTENCE_OFF, f"persistence mode is off on GPU {', '.join(off)}")


def _xids(case: Case) -> Iterator[Finding]:
    by_card: dict[tuple[str, int], list[str]] = {}
    for xid in case.truth.xids:
        if xid.code not in PROGRAMS_OWN:
            by_card.setdefault((xid.pci, xid.code), []).append(xid.text)
    for (pci, code), texts in by_card.items():
        times = f"{len(texts)} times " if len(texts) > 1 else ""
        card = next((f"GPU {gpu.index}" for gpu in case.truth.gpus if pci in gpu.pci), f"the GPU at {pci}")
        yield case.finding(kinds.XID, f"Xid {code} {times}of {card}: {texts[-1]}")


def _strangers(case: Case) -> Iterator[Finding]:
    owners = {uuid: instance.unit for instance in case.instances for uuid in instance.uuids}
    for process in case.truth.processes:
        owner = owners.get(process.gpu_uuid)
        if owner is not None and process.unit != owner:
            yield case.finding(kinds.FOREIGN, _stranger(case, process, owner), pid=process.pid)
    for gpu in case.truth.gpus:
        known = [process.memory for process in case.truth.processes if process.gpu_uuid == gpu.uuid]
        if gpu.uuid not in owners or gpu.memory_used is None or None in known:
            continue
        rest = gpu.memory_used - sum(memory or 0 for memory in known)
        if rest > UNACCOUNTED:
            what = f"{rest // MIB} MiB of GPU {gpu.index} ({gpu.uuid[:12]}) are taken by nobody that can be seen"
            yield case.finding(kinds.FOREIGN_MEMORY, what, index=gpu.index)


def _stranger(case: Case, process: Process, owner: str) -> str:
    gpu = case.truth.gpu(process.gpu_uuid)
    where = f"GPU {gpu.index}" if gpu else process.gpu_uuid[:12]
    size = f" with {process.memory // MIB} MiB" if process.memory is not None else ""
    who = f"{process.name or 'a process'} (pid {process.pid}, {process.unit or 'no unit'})"
    return f"{who} computes on {where}{size}, which belongs to {owner}"
