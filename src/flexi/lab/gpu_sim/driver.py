"""The simulated driver: which GPUs a process sees, and how full they are.

Everything that asks for GPUs in a lab machine (`nvidia-smi`, the simulated Ollama) asks here, so that no two of
them can disagree. The state lives in files below one root, which tests point at a temporary directory:

    etc/flexi-lab/gpus.json           the hardware, written before the machine boots
    etc/flexi-lab/faults.json         what is broken; survives a reboot
    run/flexi-lab/kernel.json         the loaded kernel driver; written at boot (see `kernel.py`)
    usr/lib/flexi-lab/userland.json   the installed user-space library (package libnvidia-compute-*)
    dev/nvidiactl, nvidia-uvm, nvidia<index>
    dev/shm/flexi-lab/<pid>.json      VRAM that a process holds, in MiB for each GPU's UUID
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Return values of NVML, which nvidia-smi uses as its exit status (`man nvidia-smi`, RETURN VALUE).
NO_PERMISSION = 4
NOT_FOUND = 6
DRIVER_NOT_LOADED = 9
LIBRARY_NOT_FOUND = 12
INFOROM_CORRUPTED = 14
GPU_IS_LOST = 15
LIB_RM_VERSION_MISMATCH = 18

IDLE_MIB = 1
"""What an idle GPU without a display reports as used."""


BUSY_S = 1.0
"""NVML's sampling period is between a sixth of a second and one second (nvmlDeviceGetUtilizationRates)."""


class DriverError(Exception):
    """The driver cannot be used; the message is nvidia-smi's, `code` its exit status."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver sees it at this moment. Memory is in MiB."""

    index: int
    uuid: str
    name: str
    pci_bus_id: str
    compute_cap: str
    memory_total_mib: int
    memory_used_mib: int
    ecc_uncorrected: int
    throttled: int
    """Why the clocks are held down: bits of nvmlClocksEventReasons (nvml.h), none of them while all is well."""
    lost: bool
    needs_reset: bool = False
    """It is listed, and neither computes nor tells its numbers before a reset."""
    inforom_corrupted: bool = False

    @property
    def memory_free_mib(self) -> int:
        return max(0, self.memory_total_mib - self.memory_used_mib)


@dataclass(frozen=True)
class ComputeProcess:
    """VRAM that one process holds on one GPU."""

    pid: int
    gpu_uuid: str
    used_mib: int


@dataclass(frozen=True)
class Faults:
    """What is broken on purpose. Keys are GPU UUIDs."""

    lost: tuple[str, ...]
    lost_at_boot: tuple[str, ...]
    """Well until the machine boots, and then not there."""
    ecc_uncorrected: dict[str, int]
    foreign_mib: dict[str, int]
    throttled: dict[str, int]
    needs_reset: tuple[str, ...]
    inforom: tuple[str, ...]
    other: dict[str, dict[str, Any]]
    """What another card in this place says of itself: `name` and `memory_total_mib`."""


class Driver:
    """The driver of the machine whose file system starts at `root`."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self._held = root / "dev/shm/flexi-lab"

    # -- what is there ------------------------------------------------------------------------------------------

    def version(self) -> str:
        """Version of the working driver, e.g. `535.309.01`.

        Raises:
            DriverError: no user space, no kernel driver, no permission, or two different versions.
        """
        userland = _read(self.root / "usr/lib/flexi-lab/userland.json")
        if userland is None:
            raise DriverError(
                "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the NVIDIA "
                "Display Driver is properly installed and present in your system.\nPlease also try adding directory "
                "that contains libnvidia-ml.so to your system PATH.",
                LIBRARY_NOT_FOUND,
            )
        kernel = _read(self.root / "run/flexi-lab/kernel.json")
        if kernel is None:
            raise _not_loaded()
        problem = self._cannot_open("nvidiactl")
        if problem in (errno.EPERM, errno.EACCES):
            raise DriverError("Failed to initialize NVML: Insufficient Permissions", NO_PERMISSION)
        if problem:
            raise _not_loaded()
        library, module = str(userland["version"]), str(kernel["version"])
        if library != module:
            short = ".".join(library.split(".")[:2])
            raise DriverError(
                f"Failed to initialize NVML: Driver/library version mismatch\nNVML library version: {short}",
                LIB_RM_VERSION_MISMATCH,
            )
        return module

    def inventory(self) -> list[Gpu]:
        """Every GPU that the kernel driver found at boot, lost ones included: what NVML enumerates."""
        self.version()
        faults = self.faults()
        kernel = _read(self.root / "run/flexi-lab/kernel.json") or {}
        probed = kernel.get("probed")  # UUIDs; a GPU that was off the bus at boot is not among them
        used = dict(faults.foreign_mib)
        for process in self.processes():
            used[process.gpu_uuid] = used.get(process.gpu_uuid, 0) + process.used_mib
        cards = [{**card, **faults.other.get(card["uuid"], {})} for card in self.hardware()]
        return [
            Gpu(
                index=int(card["index"]),
                uuid=card["uuid"],
                name=card["name"],
                pci_bus_id=card["pci_bus_id"],
                compute_cap=card["compute_cap"],
                memory_total_mib=int(card["memory_total_mib"]),
                memory_used_mib=min(int(card["memory_total_mib"]), IDLE_MIB + used.get(card["uuid"], 0)),
                ecc_uncorrected=faults.ecc_uncorrected.get(card["uuid"], 0),
                throttled=faults.throttled.get(card["uuid"], 0),
                lost=card["uuid"] in faults.lost,
                needs_reset=card["uuid"] in faults.needs_reset,
                inforom_corrupted=card["uuid"] in faults.inforom,
            )
            for card in cards
            if probed is None or card["uuid"] in probed
        ]

    def gpus(self, visible: str | None) -> list[Gpu]:
        """The GPUs that a CUDA process sees, in its order.

        Args:
            visible: the process's CUDA_VISIBLE_DEVICES, or None where it is not set. Indices or UUIDs; an entry that
                names no usable GPU (or one named before) hides itself and all that follow it, as CUDA does.

        Raises:
            DriverError: as `version`; a machine on which no GPU is usable gives an empty list.
        """
        self.version()
        if self._cannot_open("nvidia-uvm"):
            return []
        cards = [g for g in self.inventory() if not g.lost and not g.needs_reset]
        usable = [g for g in cards if not self._cannot_open(f"nvidia{g.index}")]
        if visible is None:
            return usable
        chosen: list[Gpu] = []
        for entry in (part.strip() for part in visible.split(",")):
            gpu = _named(usable, entry)
            if gpu is None or gpu in chosen:
                break
            chosen.append(gpu)
        return chosen

    def processes(self) -> list[ComputeProcess]:
        """The living processes that hold VRAM."""
        found = []
        for path in sorted(self._held.glob("*.json")):
            if not path.stem.isdecimal() or not _alive(int(path.stem)):
                continue
            for uuid, mib in (_read(path) or {}).items():
                found.append(ComputeProcess(int(path.stem), uuid, int(mib)))
        return found

    def hardware(self) -> list[dict[str, Any]]:
        """The GPUs that are in the machine, whether a driver runs or not."""
        cards: list[dict[str, Any]] = _read(self.root / "etc/flexi-lab/gpus.json") or []
        return cards

    def faults(self) -> Faults:
        data = _read(self.root / "etc/flexi-lab/faults.json") or {}
        return Faults(
            lost=tuple(data.get("lost", ())),
            lost_at_boot=tuple(data.get("lost_at_boot", ())),
            ecc_uncorrected=dict(data.get("ecc_uncorrected", {})),
            foreign_mib=dict(data.get("foreign_mib", {})),
            throttled=dict(data.get("throttled", {})),
            needs_reset=tuple(data.get("needs_reset", ())),
            inforom=tuple(data.get("inforom", ())),
            other=dict(data.get("other", {})),
        )

    # -- what processes do to it --------------------------------------------------------------------------------

    def hold(self, mib: dict[str, int], pid: int | None = None) -> None:
        """Say how much VRAM a process (this one, unless `pid` is given) holds from now on; replaces what it said."""
        path = self._held / f"{pid or os.getpid()}.json"
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps(mib), encoding="utf-8")
        # The real driver tells everyone, whatever umask the process has that holds the memory.
        draft.chmod(0o644)
        draft.replace(path)

    def busy(self) -> set[str]:
        """UUIDs of the GPUs whose memory somebody took or gave back within the last second."""
        found = set()
        for process in self.processes():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - (self._held / f"{process.pid}.json").stat().st_mtime < BUSY_S:
                    found.add(process.gpu_uuid)
        return found

    def release(self, pid: int | None = None) -> None:
        """Give back all VRAM of a process; a second time is harmless."""
        (self._held / f"{pid or os.getpid()}.json").unlink(missing_ok=True)

    def _cannot_open(self, node: str) -> int:
        """The errno that keeps this process from the device node, or 0.

        ENXIO counts as success: the node is there and permitted, only no real driver stands behind it.
        """
        try:
            os.close(os.open(self.root / "dev" / node, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            if error.errno not in (errno.ENXIO, errno.ENODEV):
                return error.errno or errno.EIO
        if node == "nvidia-uvm":
            classes = self._text("run/flexi-lab/devices")
            if classes and not re.search(r" nvidia-uvm$", classes, re.MULTILINE):
                return errno.ENXIO  # a node that was left behind
            return errno.EPERM if self._began_without_uvm() else 0
        return 0

    def _began_without_uvm(self) -> bool:
        """Whether this process's unit has a device cgroup from a time when nvidia-uvm was not loaded.

        systemd looks the names of DeviceAllow= up in /proc/devices once, before a unit's first program (src/core/
        bpf-devices.c). Where control groups of version 1 are read-only nothing enforces that: this does.
        """
        groups = re.findall(
            r"^\d+:(?:name=systemd)?:.*/([^/\n]+\.service)$", self._text("proc/self/cgroup"), re.MULTILINE
        )
        unit = groups[0] if groups else ""
        template = re.sub(r"@.*\.service$", "@.service", unit)
        if "DevicePolicy=closed" not in self._text(f"etc/systemd/system/{template}"):
            return False
        try:
            # systemd makes this link with the first program of a start (unit_export_state_files in src/core/unit.c).
            began = (self.root / f"run/systemd/units/invocation:{unit}").lstat().st_mtime_ns
            unloaded, loaded = ((self.root / f"run/flexi-lab/uvm-{what}").stat().st_mtime_ns for what in ("off", "on"))
        except FileNotFoundError:
            return False  # no unit, or always loaded
        return unloaded <= began <= loaded

    def _text(self, path: str) -> str:
        try:
            return (self.root / path).read_text(encoding="utf-8")
        except OSError:
            return ""


def _not_loaded() -> DriverError:
    return DriverError(
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest "
        "NVIDIA driver is installed and running.",
        DRIVER_NOT_LOADED,
    )


def _named(gpus: list[Gpu], entry: str) -> Gpu | None:
    """CUDA takes an index or a UUID, of which an unambiguous beginning is enough."""
    if entry.isdecimal():
        return gpus[int(entry)] if int(entry) < len(gpus) else None
    matches = [g for g in gpus if entry.startswith("GPU-") and g.uuid.startswith(entry)]
    return matches[0] if len(matches) == 1 else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _read(path: Path) -> Any:
    """Parsed JSON, or None where the file is absent (or vanished between listing and reading)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
