"""The state for people and programs: status.json, and metrics.prom in Prometheus's text format."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from flexi_host.agent.drain import Drain
from flexi_host.agent.gpus import GpuReport, findings
from flexi_host.agent.smi import Expected, other
from flexi_host.agent.state import InstanceView, ModelView, Phase
from flexi_host.common.exposition import Sample, family

SCHEMA = 1


def status(
    host: str,
    time_s: float,
    report: GpuReport | None,
    views: Sequence[InstanceView],
    drains: Mapping[str, Drain],
    expected: Expected | None = None,
) -> dict[str, object]:
    """What status.json holds. Times are Unix seconds, sizes bytes; `drains` has every group.

    `expected` is what each card has to be; None leaves that unsaid.
    """
    return {
        "schema": SCHEMA,
        "host": host,
        "time": round(time_s, 3),
        "driver": asdict(report.driver) if report else None,
        "gpus": [asdict(gpu) for gpu in report.gpus] if report else [],
        "findings": [asdict(finding) for finding in findings(report, expected)] if report else [],
        "instances": [
            {
                "group": view.group,
                "url": view.url,
                "phase": view.phase.value,
                "reason": view.reason,
                "since": round(view.since, 3),
                "drain": asdict(drains[view.group]),
                "gpus": list(view.gpus),
                "surplus": list(view.surplus),
                "models": [_model(model) for model in view.models],
            }
            for view in views
        ],
    }


def _model(model: ModelView) -> dict[str, object]:
    return {**asdict(model), "phase": model.phase.value, "since": round(model.since, 3)}


def metrics(
    time_s: float,
    report: GpuReport | None,
    views: Sequence[InstanceView],
    drains: Mapping[str, Drain],
    expected: Expected | None = None,
) -> str:
    """The same state as Prometheus metrics."""
    models = [({"group": view.group, "model": model.name}, model) for view in views for model in view.models]
    gpus = [({"gpu": str(gpu.index), "uuid": gpu.uuid, "name": gpu.name}, gpu) for gpu in report.gpus] if report else []
    driver = report.driver if report else None
    versions = {
        "kernel": (driver.kernel_version if driver else None) or "",
        "library": (driver.library_version if driver else None) or "",
    }
    families: list[tuple[str, str, list[Sample]]] = [
        ("flexi_agent_time_seconds", "When this file was written, in Unix time.", [({}, time_s)]),
        ("flexi_driver_info", "Versions of the NVIDIA driver's kernel module and library.", [(versions, 1)]),
        (
            "flexi_driver_up",
            "Whether nvidia-smi answers without an error.",
            [({}, float(driver is not None and driver.error is None))],
        ),
        (
            "flexi_driver_warnings",
            "Complaints of nvidia-smi that keep no card from computing.",
            [({}, float(len(report.warnings) if report else 0))],
        ),
        (
            "flexi_instance_up",
            "Whether the instance answers and all GPUs of its group are visible.",
            [({"group": view.group}, float(view.phase is Phase.READY)) for view in views],
        ),
        (
            "flexi_instance_drained",
            "Whether the gateway was asked to send nothing new.",
            [({"group": view.group}, float(drains[view.group].reason is not None)) for view in views],
        ),
        (
            "flexi_model_ready",
            "Whether the model is loaded, all of it on its GPUs.",
            [(labels, float(model.phase is Phase.READY)) for labels, model in models],
        ),
        (
            "flexi_model_size_bytes",
            "Memory that the loaded model takes.",
            [(labels, float(model.size)) for labels, model in models if model.size is not None],
        ),
        (
            "flexi_model_vram_bytes",
            "The part of it that is on GPUs.",
            [(labels, float(model.size_vram)) for labels, model in models if model.size_vram is not None],
        ),
        (
            "flexi_model_download_completed_bytes",
            "Bytes of a running download that are here.",
            [(labels, float(model.completed)) for labels, model in models if model.completed is not None],
        ),
        (
            "flexi_model_download_bytes",
            "Bytes of a running download in all.",
            [(labels, float(model.total)) for labels, model in models if model.total is not None],
        ),
        ("flexi_gpu_up", "Whether the GPU can compute.", [(labels, float(gpu.fault is None)) for labels, gpu in gpus]),
        (
            "flexi_gpu_as_planned",
            "Whether the GPU is the model that the site file says, with its memory.",
            [(labels, float(other(gpu, expected) is None)) for labels, gpu in gpus] if expected else [],
        ),
        (
            "flexi_gpu_memory_total_bytes",
            "VRAM of the GPU.",
            [(labels, float(gpu.memory_total)) for labels, gpu in gpus if gpu.memory_total is not None],
        ),
        (
            "flexi_gpu_memory_used_bytes",
            "VRAM in use.",
            [(labels, float(gpu.memory_used)) for labels, gpu in gpus if gpu.memory_used is not None],
        ),
        (
            "flexi_gpu_utilization_ratio",
            "Share of the last sample period in which the GPU computed.",
            [(labels, gpu.utilization_percent / 100) for labels, gpu in gpus if gpu.utilization_percent is not None],
        ),
        (
            "flexi_gpu_temperature_celsius",
            "Temperature of the GPU.",
            [(labels, float(gpu.temperature_c)) for labels, gpu in gpus if gpu.temperature_c is not None],
        ),
        (
            "flexi_gpu_ecc_uncorrected_errors",
            "Uncorrected memory errors since the driver was loaded.",
            [(labels, float(gpu.ecc_uncorrected)) for labels, gpu in gpus if gpu.ecc_uncorrected is not None],
        ),
    ]
    return "".join(family(name, text, samples) for name, text, samples in families if samples)


def write(directory: Path, name: str, text: str) -> None:
    """Replace `directory/name` in one step, readable for everyone: a reader sees the old text or the new one, whole."""
    handle, temporary = tempfile.mkstemp(dir=directory, prefix=f".{name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, directory / name)
    except BaseException:
        os.unlink(temporary)
        raise


def as_json(value: Mapping[str, object]) -> str:
    return json.dumps(value, indent=1) + "\n"
