"""The gate before an instance starts: all of its GPUs, or not at all.

Ollama looks for GPUs once, at its start, and serves from the CPU without a word where it finds none.
"""

from __future__ import annotations

import time
from pathlib import Path

from flexi_host.agent import devices, gpus
from flexi_host.agent.env_file import EnvFileError, gpu_uuids


def refusal(env_file: Path, root: Path = Path("/")) -> str | None:
    """Why the instance of `env_file` must not start, in one line; None where it may."""
    try:
        uuids = gpu_uuids(env_file)
    except EnvFileError as error:
        return str(error)
    return gpus.fault(gpus.look(uuids), uuids, time.monotonic()) or devices.refusal(root)
