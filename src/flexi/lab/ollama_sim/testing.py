"""A simulated machine and a simulated server on it, inside the test's own process. Not part of the archive."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..gpu_sim.driver import Driver
from .environment import read_environment
from .server import OllamaServer
from .version import VERSION


def uuid(index: int) -> str:
    """The UUID of card number `index`."""
    return f"GPU-{index:08x}-0000-4000-8000-000000000000"


class Machine:
    """A root directory with the simulated driver's files for `cards` (name, MiB of memory)."""

    def __init__(self, root: Path, cards: Sequence[tuple[str, int]], driver: str = "535.309.01") -> None:
        self.root = root
        for directory in ("etc/flexi-lab", "run/flexi-lab", "usr/lib/flexi-lab", "dev/shm/flexi-lab"):
            (root / directory).mkdir(parents=True, exist_ok=True)
        hardware = [
            {
                "index": index,
                "uuid": uuid(index),
                "name": name,
                "memory_total_mib": mib,
                "pci_bus_id": f"00000000:{index + 1:02X}:00.0",
                "compute_cap": "8.6",
            }
            for index, (name, mib) in enumerate(cards)
        ]
        (root / "etc/flexi-lab/gpus.json").write_text(json.dumps(hardware))
        for node in ("nvidiactl", "nvidia-uvm", *(f"nvidia{index}" for index in range(len(cards)))):
            (root / "dev" / node).touch()
        self.boot(driver)
        self.upgrade_library(driver)

    def boot(self, driver: str) -> None:
        """The kernel loads this version of the driver."""
        (self.root / "run/flexi-lab/kernel.json").write_text(json.dumps({"version": driver}))

    def upgrade_library(self, version: str) -> None:
        """A package upgrade brings another user-space library; the kernel's driver stays."""
        (self.root / "usr/lib/flexi-lab/userland.json").write_text(json.dumps({"version": version}))

    def fail(self, **faults: Any) -> None:
        """Switch on `lost`, `ecc_uncorrected` or `foreign_mib`; none given: everything is fine again."""
        (self.root / "etc/flexi-lab/faults.json").write_text(json.dumps(faults))

    def held_mib(self) -> dict[str, int]:
        """VRAM that processes hold, by UUID."""
        held: dict[str, int] = {}
        for process in Driver(self.root).processes():
            held[process.gpu_uuid] = held.get(process.gpu_uuid, 0) + process.used_mib
        return held


def start_server(machine: Machine, variables: Mapping[str, str] | None = None, version: str = VERSION) -> OllamaServer:
    """A server with its home on the machine, on a free port of loopback, fifty times faster than real."""
    home = machine.root / "home"
    home.mkdir(exist_ok=True)
    settings = {
        "HOME": str(home),
        "OLLAMA_HOST": "127.0.0.1:0",
        "FLEXI_SIM_ROOT": str(machine.root),
        "FLEXI_SIM_SPEED": "50",
        **(variables or {}),
    }
    return OllamaServer(read_environment(settings, version), Driver(machine.root), version).start()
