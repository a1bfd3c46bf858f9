"""GPUs as the server sees them: discovery through the simulated driver, and the VRAM that it reports as taken.

Sources: discover/runner.go, discover/types.go, ml/device.go; for versions from 0.30 discover/cuda_compat.go there.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from . import log
from .goformat import human_bytes2
from .version import at_least

MIB = 2**20
MINIMUM_MEMORY = 457 * MIB
"""Set aside on every GPU for what the CUDA context takes (ml/device.go)."""


class SimulatedGpu(Protocol):
    """What the simulated driver says about a visible GPU."""

    @property
    def index(self) -> int: ...
    @property
    def uuid(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def memory_total_mib(self) -> int: ...
    @property
    def memory_used_mib(self) -> int: ...
    @property
    def pci_bus_id(self) -> str: ...
    @property
    def compute_cap(self) -> str: ...


class SimulatedDriver(Protocol):
    """The simulated driver's user-space library. Its errors are subclasses of Exception with nvidia-smi's words."""

    def gpus(self, visible: str | None) -> Sequence[SimulatedGpu]:
        """The GPUs that this process can use, CUDA_VISIBLE_DEVICES given as `visible`."""
        ...

    def version(self) -> str:
        """Version of the running kernel driver, "535.309.01"."""
        ...

    def hold(self, mib: dict[str, int]) -> None:
        """Say how much VRAM (MiB for each GPU's UUID) this process holds from now on."""
        ...

    def release(self) -> None:
        """This process holds no VRAM any more."""
        ...


class NoDriver:
    """A machine without any NVIDIA driver."""

    def gpus(self, visible: str | None) -> Sequence[SimulatedGpu]:
        return ()

    def version(self) -> str:
        return ""

    def hold(self, mib: dict[str, int]) -> None:
        pass

    def release(self) -> None:
        pass


@dataclass(frozen=True)
class Device:
    """One GPU at one moment; memory in bytes."""

    uuid: str
    name: str
    ordinal: int
    """Place in the list of visible GPUs: CUDA's own numbering."""
    pci_bus_id: str
    compute: str
    total: int
    free: int


class Discovery:
    """The GPUs found once, at start; afterwards only their free memory is looked at again.

    A GPU that has gone since then stays in the list with no free memory: so the next load falls back to the CPU
    without a word, as the real server does.
    """

    def __init__(self, driver: SimulatedDriver, visible: str | None, version: str, main_memory: int) -> None:
        self._driver = driver
        self._main_memory = main_memory
        self._visible = visible
        self._version = version
        self.devices: tuple[Device, ...] = ()

    def bootstrap(self) -> None:
        """Find the GPUs and log one "inference compute" line for each, or one for the CPU."""
        log.info("discovering available GPUs...")
        found = self._query()
        driver_version = self._driver.version() if found else ""
        if found and at_least(self._version, 0, 30) and int(driver_version.split(".")[0]) < 550:
            for device in found:
                log.warn(
                    "NVIDIA driver too old",
                    device=device.name,
                    compute=device.compute,
                    driver=driver_version.split(".")[0],
                    required_driver="550 or newer",
                )
            found = ()
        self.devices = found
        cuda = "13.0" if driver_version and int(driver_version.split(".")[0]) >= 580 else "12.2"
        for device in sorted(found, key=lambda d: d.free, reverse=True):
            log.info(
                "inference compute",
                id=device.uuid,
                filter_id="",
                library="CUDA",
                compute=device.compute,
                name=f"CUDA{device.ordinal}",
                description=device.name,
                libdirs="ollama,cuda_v13" if cuda == "13.0" else "ollama,cuda_v12",
                driver=cuda,
                pci_id=device.pci_bus_id.lower()[-12:],
                type="discrete",
                total=human_bytes2(device.total),
                available=human_bytes2(device.free),
            )
        if not found:
            total = human_bytes2(self._main_memory)
            log.info("inference compute", id="cpu", library="cpu", compute="", name="cpu", description="cpu",
                     libdirs="ollama", driver="", pci_id="", type="", total=total, available=total)  # fmt: skip

    def refresh(self) -> tuple[Device, ...]:
        """The GPUs of the start with the memory that is free now."""
        if not self.devices:
            return ()
        now = {device.uuid: device for device in self._query()}
        if any(device.uuid not in now for device in self.devices):
            log.warn("unable to refresh free memory, using old values")
        return tuple(now.get(device.uuid, replace(device, free=0)) for device in self.devices)

    def lost(self, uuids: set[str]) -> bool:
        """Whether one of these GPUs fell off the bus: its contexts die with it.

        A library that no longer matches the kernel driver does not count: contexts that exist go on.
        """
        try:
            seen = {gpu.uuid for gpu in self._driver.gpus(self._visible)}
        except Exception:  # the driver's own error type: the library does not come up at all
            return False
        return not uuids <= seen

    def _query(self) -> tuple[Device, ...]:
        try:
            gpus = self._driver.gpus(self._visible)
        except Exception:  # see `lost`; the real server does not say a word either
            return ()
        return tuple(
            Device(
                gpu.uuid,
                gpu.name,
                ordinal,
                gpu.pci_bus_id,
                gpu.compute_cap,
                gpu.memory_total_mib * MIB,
                max(gpu.memory_total_mib - gpu.memory_used_mib, 0) * MIB,
            )
            for ordinal, gpu in enumerate(gpus)
        )


class VramLedger:
    """Tells the simulated driver how much VRAM this process takes: the sum over its runners."""

    def __init__(self, driver: SimulatedDriver) -> None:
        self._driver = driver
        self._lock = threading.Lock()
        self._taken: dict[int, Mapping[str, int]] = {}

    def take(self, runner: int, by_gpu: Mapping[str, int]) -> None:
        """Runner number `runner` now takes these bytes on these GPUs (UUIDs)."""
        if by_gpu:
            with self._lock:
                self._taken[runner] = by_gpu
                self._report()

    def release(self, runner: int) -> None:
        """Runner number `runner` takes nothing any more; harmless if it never did."""
        with self._lock:
            if self._taken.pop(runner, None) is not None:
                self._report()

    def _report(self) -> None:
        totals: dict[str, int] = {}
        for by_gpu in self._taken.values():
            for uuid, count in by_gpu.items():
                totals[uuid] = totals.get(uuid, 0) + count
        if totals:
            self._driver.hold({uuid: -(-count // MIB) for uuid, count in totals.items()})
        else:
            self._driver.release()
