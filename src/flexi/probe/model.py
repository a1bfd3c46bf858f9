"""What is true on a host, as plain frozen data. Sizes are bytes unless a name says otherwise; times are Unix seconds.

None and empty mean: not there, or not to be learnt. A bare host is as good an answer as a deployed one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from flexi_host.agent.smi import short

_DKMS_BUILT = re.compile(r"nvidia[\w-]*[/,] ?[\d.]+, .*: installed")
"""`nvidia-current/535.309.01, 6.1.0-25-amd64, x86_64: installed`; a comma before the version in old releases."""


@dataclass(frozen=True)
class Package:
    """A package that dpkg has unpacked. `summary` is the first line of its description."""

    name: str
    version: str
    held: bool
    state: str
    """dpkg's word: `installed`, or what an interrupted run left (`half-configured`, `unpacked`, …)."""
    section: str
    summary: str

    @property
    def transitional(self) -> bool:
        return is_transitional(self.section, self.summary)


@dataclass(frozen=True)
class Candidate:
    """The version of an installed package that apt would take today. `label` is its archive's (`l=` in `Release`)."""

    name: str
    installed: str | None
    version: str | None
    label: str | None
    installed_labels: tuple[str, ...] = ()
    """Of every archive that has the installed version; empty where none has it any more."""
    section: str = ""
    summary: str = ""

    @property
    def changes(self) -> bool:
        return self.version is not None and self.version != self.installed

    @property
    def transitional(self) -> bool:
        return is_transitional(self.section, self.summary)


def is_transitional(section: str, summary: str) -> bool:
    """Ubuntu and Debian mark empty packages that only pull another one by either (Debian Policy has no field)."""
    return section.rpartition("/")[2] == "oldlibs" or "transitional" in summary.lower()


@dataclass(frozen=True)
class Module:
    """An NVIDIA kernel module on disk, built for the kernel `kernel`."""

    kernel: str
    path: str
    version: str
    signer: str

    @property
    def by_dkms(self) -> bool:
        return "/updates/dkms/" in self.path


@dataclass(frozen=True)
class Pin:
    """A stanza of apt's preferences."""

    packages: str
    pin: str
    priority: int


@dataclass(frozen=True)
class Gpu:
    """A card that the driver shows, usable or not. `throttle` is NVML's bit mask of clock event reasons."""

    index: int
    uuid: str
    name: str
    pci: str
    memory_total: int | None
    memory_used: int | None
    temperature_c: int | None
    persistence: bool | None
    ecc_uncorrected: int | None
    throttle: int | None = None
    fault: str | None = None
    """Why nothing can compute on it, in nvidia-smi's words."""
    split: bool = False
    """It is in MIG mode."""

    @property
    def called(self) -> str:
        """`GPU 1 (GPU-ab12cd34)`."""
        return f"GPU {self.index} ({short(self.uuid)})"


@dataclass(frozen=True)
class PciCard:
    """A card of NVIDIA's on the bus, whether or not a driver shows it. `driver` is the kernel's name for its driver."""

    address: str
    driver: str


@dataclass(frozen=True)
class Process:
    """A process that computes on a GPU, and the systemd unit or control group that it belongs to."""

    gpu_uuid: str
    pid: int
    memory: int | None
    name: str
    cgroup: str

    @property
    def unit(self) -> str:
        """`ollama@a.service` of `/system.slice/system-ollama.slice/ollama@a.service`; empty for none."""
        units = [part for part in self.cgroup.split("/") if part.endswith((".service", ".scope"))]
        return units[-1] if units else ""


@dataclass(frozen=True)
class Xid:
    """A message of the kernel driver about a GPU (`NVRM: Xid (PCI:0000:41:00): 79, …`)."""

    pci: str
    code: int
    text: str
    at: float | None


@dataclass(frozen=True)
class Unit:
    name: str
    load: str
    active: str
    sub: str
    boot: str
    """UnitFileState: `enabled`, `disabled`, `static`, …; empty where there is no such file."""
    restarts: int
    active_since_s: float | None
    """Seconds after boot at which it became active; None where it is not."""


@dataclass(frozen=True)
class Loaded:
    """A model in an instance's memory (`/api/ps`)."""

    name: str
    size: int
    size_vram: int
    expires_at: str


@dataclass(frozen=True)
class Instance:
    """An Ollama instance by its environment file, its API and its journal."""

    group: str
    uuids: tuple[str, ...]
    address: str
    version: str | None
    """What it answers; None where it does not."""
    loaded: tuple[Loaded, ...] | None
    libraries: tuple[str, ...]
    """What it computes on by its log since it was started, one for each device: `CUDA`, `cpu`, …"""

    @property
    def unit(self) -> str:
        return f"ollama@{self.group}.service"


@dataclass(frozen=True)
class Disk:
    mount: str
    free: int
    used_percent: int | None
    inodes_used_percent: int | None
    """None on file systems that do not count them (btrfs)."""


@dataclass(frozen=True)
class Certificate:
    file: str
    expires: float | None
    """None where the file holds none that openssl can read."""


@dataclass(frozen=True)
class HostTruth:
    """All that one probe has learnt. `hung_in` names the part that gave no answer in time, None after a whole run."""

    hung_in: str | None = None
    started: float | None = None
    """The host's clock at the beginning and the end of the probe."""
    ended: float | None = None
    os: str = ""
    """`ubuntu-22.04`, as site files name platforms."""
    kernel: str = ""
    boot_id: str = ""
    uptime_s: float | None = None
    reboot_required: bool = False
    reboot_packages: tuple[str, ...] = ()
    tried: tuple[str, ...] = ()
    """The boot that a deploy's last reboot led to without mending what was due, and the kernel that did not start."""
    disks: tuple[Disk, ...] = ()
    foreign_files: tuple[str, ...] = ()
    """Of each model store that has any, one file that is not the user ollama's."""

    driver: str | None = None
    """Version of the loaded NVIDIA module."""
    modules_loaded: tuple[str, ...] = ()
    device_nodes: tuple[str, ...] = ()
    pci: tuple[PciCard, ...] = ()
    modules: tuple[Module, ...] = ()
    dkms: tuple[str, ...] = ()
    """Lines of `dkms status`."""
    secure_boot: bool | None = None
    """None where the firmware does not say; False also on a machine without UEFI."""
    enrolled_keys: tuple[str, ...] = ()
    xids: tuple[Xid, ...] = ()

    packages: tuple[Package, ...] = ()
    half_installed: tuple[str, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    pins: tuple[Pin, ...] = ()
    blacklist: tuple[str, ...] = ()
    """`Unattended-Upgrade::Package-Blacklist`, as apt reads it."""
    needrestart: bool = False
    """Whether flexi's limits for needrestart are in place."""

    deployed: bool = False
    """Whether flexi ever wrote to this host."""
    drained: dict[str, str] = field(default_factory=dict)
    """Group -> reason of each drain switch."""
    releases: tuple[str, ...] = ()
    release_current: str | None = None
    release_previous: str | None = None
    certificates: tuple[Certificate, ...] = ()
    agent: dict[str, Any] | None = None
    """The agent's status file; None where there is none to be read."""
    instances: tuple[Instance, ...] = ()
    units: tuple[Unit, ...] = ()

    smi_status: int | None = None
    """Exit status of nvidia-smi; None where it is not installed."""
    smi_words: tuple[str, ...] = ()
    """What it complains of, besides its cards: the driver, or a card without a line."""
    smi_warnings: tuple[str, ...] = ()
    """What it complains of although every card computes."""
    gpus: tuple[Gpu, ...] = ()
    processes: tuple[Process, ...] = ()

    @property
    def complete(self) -> bool:
        return self.hung_in is None

    @property
    def driver_major(self) -> int | None:
        return int(self.driver.split(".")[0]) if self.driver else None

    @property
    def nouveau(self) -> bool:
        return "nouveau" in self.modules_loaded

    @property
    def mismatch(self) -> bool:
        return is_mismatch(self.smi_words)

    @property
    def library(self) -> str | None:
        """Version of the driver's user space: in NVML's words where it complains, else of libcuda's package."""
        for line in self.smi_words:
            if "NVML library version: " in line:
                return line.rpartition(": ")[2]
        for package in self.packages:
            if is_library(package.name) and not package.transitional:
                return upstream(package.version)
        return None

    @property
    def kernels(self) -> tuple[str, ...]:
        """Releases of the installed kernels, the oldest first."""
        return kernel_releases(package.name for package in self.packages)

    @property
    def next_kernel(self) -> str:
        return booting_next(self.kernels, self.kernel)

    def has_modules(self, kernel: str) -> bool:
        """Whether there are NVIDIA modules for this kernel: on disk, by DKMS's books, or prebuilt by Ubuntu."""
        return (
            any(module.kernel == kernel for module in self.modules)
            or any(_DKMS_BUILT.match(line) and f", {kernel}, " in line for line in self.dkms)
            or any(
                package.name.startswith("linux-modules-nvidia-") and package.name.endswith(f"-{kernel}")
                for package in self.packages
            )
        )

    def package(self, name: str) -> Package | None:
        return next((package for package in self.packages if package.name == name), None)

    def unit(self, name: str) -> Unit | None:
        return next((unit for unit in self.units if unit.name == name), None)

    def instance(self, group: str) -> Instance | None:
        return next((instance for instance in self.instances if instance.group == group), None)

    def gpu(self, uuid: str) -> Gpu | None:
        return next((gpu for gpu in self.gpus if gpu.uuid == uuid), None)


def is_mismatch(words: Iterable[str]) -> bool:
    """NVML's own words for a library that differs from the loaded module (NVML_ERROR_LIB_RM_VERSION_MISMATCH)."""
    return any("version mismatch" in line for line in words)


def is_library(package: str) -> bool:
    """Whether the package of this name has the driver's library for programs (libcuda and NVML's version)."""
    return package == "libcuda1" or (package.startswith("libnvidia-compute-") and not package.endswith(":i386"))


def kernel_releases(packages: Iterable[str]) -> tuple[str, ...]:
    """Releases of the kernels among names of packages, the oldest first. Debian's `-dbg` packages boot nothing."""
    names = (name.removeprefix("linux-image-") for name in packages if name.startswith("linux-image-"))
    releases = {name.removeprefix("unsigned-").removesuffix("-unsigned") for name in names if not name.endswith("-dbg")}
    return tuple(sorted((release for release in releases if release[:1].isdigit()), key=release_key))


def booting_next(kernels: Sequence[str], running: str) -> str:
    """The kernel that the next boot starts: the newest installed (GRUB's default; `GRUB_DEFAULT` is not read).

    The running one where it is in no package (a container's, one of the admin's own): the others then say nothing.
    """
    return kernels[-1] if running in kernels else running


def upstream(version: str) -> str:
    """The driver's version in a package's: `535.309.01` of `1:535.309.01-0ubuntu0.22.04.1`."""
    return version.partition(":")[2].partition("-")[0] if ":" in version else version.partition("-")[0]


def release_key(release: str) -> tuple[list[int], str]:
    """Orders kernel releases as dpkg would: by their numbers, `5.15.0-122-generic` after `5.15.0-91-generic`."""
    numbers = [int(part) for part in release.replace("-", ".").replace("+", ".").split(".") if part.isdigit()]
    return numbers, release
