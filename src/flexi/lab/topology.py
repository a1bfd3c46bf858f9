"""The lab's machines, addresses and GPUs: one table. The same for every lab, so that one site file fits them all."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

NETWORK = "10.87.0"
"""Inside a lab. Every lab has it in a network namespace of its own, so labs cannot collide."""
PREFIX_LENGTH = 24
ROUTER = 1
SERVICES = 2
FLOATING = 20
"""The address that a pair of gateways shares; no machine's own."""
UPLINK_NETWORK = "10.86"
"""Outside: each lab gets a free 10.86.N.0/24, whose last byte names the same machine as inside."""

SERVICES_ADDRESS = f"{NETWORK}.{SERVICES}"
HTTP_PORT = 80
REGISTRY_PORT = 5000

OLLAMA_VERSIONS = ("0.24.0", "0.23.4", "0.32.15")
"""Releases that the lab's mirror offers: the last one for driver 535, the one before it, and one that needs 550."""

ADMIN = "admin"
"""The ordinary user with sudo that everything is deployed as."""
CONSUMER = "lab"
"""The consumer whose API key `flexi lab env` prints."""
STUDENT = "student@flexi.lab.test"
"""The account of the chat whose password `flexi lab env` prints; the lab's German course knows it."""

_GPU_NAMESPACE = uuid.UUID("6f1e9a8e-6f3c-5c0e-9d0d-0d8f3a0a5000")


def replacement(gpu: str) -> str:
    """UUID of the card that takes the place of the one with the UUID `gpu`."""
    return f"GPU-{uuid.uuid5(_GPU_NAMESPACE, gpu)}"


@dataclass(frozen=True)
class GpuModel:
    name: str
    """As nvidia-smi says it."""
    memory_total_mib: int
    compute_cap: str


@dataclass(frozen=True)
class MachineSpec:
    """One machine. `host_byte` is the last byte of its address, inside and outside."""

    name: str
    host_byte: int
    gpu: GpuModel | None = None
    gpu_count: int = 0
    platform: str = "ubuntu-22.04"
    by_default: bool = True
    """Whether it belongs to a lab that nobody asked for more."""

    @property
    def address(self) -> str:
        return f"{NETWORK}.{self.host_byte}"

    @property
    def gpus(self) -> list[dict[str, object]]:
        """The hardware as the simulated driver reads it (etc/flexi-lab/gpus.json)."""
        if self.gpu is None:
            return []
        return [
            {
                "index": index,
                "uuid": f"GPU-{uuid.uuid5(_GPU_NAMESPACE, f'{self.name}/{index}')}",
                "name": self.gpu.name,
                "memory_total_mib": self.gpu.memory_total_mib,
                "pci_bus_id": f"00000000:{index + 1:02X}:00.0",
                "compute_cap": self.gpu.compute_cap,
            }
            for index in range(self.gpu_count)
        ]


# Memory as published nvidia-smi outputs show it (an A40 of 48 GB with ECC on); both are Ampere GA102.
RTX_A5000 = GpuModel("NVIDIA RTX A5000", 24564, "8.6")
A40 = GpuModel("NVIDIA A40", 46068, "8.6")

# The paper's table 2: server A has 8 A5000, server B 2 A40. C and D are there for their platforms, the
# second gateway for sites with two.
MACHINES = (
    MachineSpec("gateway", 10),
    MachineSpec("server-a", 11, RTX_A5000, 8),
    MachineSpec("server-b", 12, A40, 2),
    MachineSpec("server-c", 13, RTX_A5000, 1, "debian-12", by_default=False),
    MachineSpec("server-d", 14, RTX_A5000, 1, "ubuntu-24.04", by_default=False),
    MachineSpec("gateway-2", 15, by_default=False),
)
