"""What each platform and driver branch needs: package names, pins, limits. Data with sources, and look-ups in it.

docs/reference/platforms.md is generated from here (`python -m flexi.docgen`). A row's `sources` say where its names
come from, its `unverified` what of it was inferred; `tried` says where flexi ran with it. Another branch or platform
is more data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from flexi.catalog.frozen import Frozen as _Frozen

PlatformName = Literal["ubuntu-22.04", "ubuntu-24.04", "debian-12"]


class PinPlan(_Frozen):
    """One stanza of an apt preferences file (`man apt_preferences`)."""

    packages: str
    pin: str
    priority: int
    reason: str


NVIDIA_REPOSITORIES = "https://developer.download.nvidia.com/compute/cuda/repos"
NVIDIA_KEY = "3bf863cc.pub"
NVIDIA_KEY_FINGERPRINT = "EB693B3035CD5710E231E123A4B469963BF863CC"
"""NVIDIA's repository key (`cudatools <cudatools@nvidia.com>`), the same for all three platforms."""

CUDA_SOURCE = "cuda"
"""What the apt source of NVIDIA's repository is called among the site's own."""

DISTRIBUTION_KEYRINGS: Mapping[PlatformName, str] = MappingProxyType(
    {
        "ubuntu-22.04": "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
        "ubuntu-24.04": "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
        "debian-12": "/usr/share/keyrings/debian-archive-keyring.gpg",
    }
)
"""Keys of the distribution on each of its hosts (file lists of the packages ubuntu-keyring, debian-archive-keyring)."""

APT_SOURCES = "/etc/apt/sources.list.d"
APT_SOURCES_ONLY = "/etc/apt/flexi-sources.d"
"""In place of the former where the site file says `mirrors.apt_only`: apt then reads no other."""

OLLAMA_RELEASES = "https://github.com/ollama/ollama/releases/download"
OLLAMA_ARCHIVE = "ollama-linux-amd64.tar.zst"
"""Name since 0.14.0 (scripts/build_linux.sh); the release workflow writes `sha256sum.txt` beside it."""

OLLAMA_FIRST_ZSTD = (0, 14, 0)
OLLAMA_FIRST_TEXT = ".".join(map(str, OLLAMA_FIRST_ZSTD))
OLLAMA_NEEDS_550 = (0, 30, 0)
"""From here on the CUDA 12 runner needs driver 550 and otherwise serves from the CPU (discover/cuda_compat.go)."""


@dataclass(frozen=True)
class Branch:
    """A driver branch. `native_cuda` is the toolkit that came out with it (CUDA toolkit release notes, table 3)."""

    name: str
    major: int
    native_cuda: tuple[int, int]
    ends: str
    """Month until which NVIDIA mends it."""
    newest_ollama: str | None
    """The last release that computes on GPUs with it; None where all do."""
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Python:
    """The interpreter that runs the chat on a platform: 3.11 or 3.12, for Open WebUI 0.12.4 takes no other
    (`Requires-Python: <3.13.0,>=3.11` in its metadata)."""

    path: str
    packages: tuple[str, ...]
    """The interpreter, and what makes a venv of it."""
    sources: tuple[str, ...]
    unverified: str | None = None


PYTHONS: Mapping[PlatformName, Python] = MappingProxyType(
    {
        "ubuntu-22.04": Python(
            "/usr/bin/python3.11",
            ("python3.11", "python3.11-venv"),
            sources=("packages.ubuntu.com: jammy-updates, universe",),
            unverified="the archive's is 3.11.0~rc1, a release candidate: flexi was not tried with it; a newer one of "
            "the same name may come from a repository in mirrors.apt",
        ),
        "ubuntu-24.04": Python(
            "/usr/bin/python3.12",
            ("python3.12", "python3.12-venv"),
            sources=("packages.ubuntu.com: noble, main and universe",),
            unverified="not tried on this platform",
        ),
        "debian-12": Python(
            "/usr/bin/python3.11",
            ("python3.11", "python3.11-venv"),
            sources=("tried on Debian 12.15",),
        ),
    }
)

_LIFECYCLE = "https://docs.nvidia.com/datacenter/tesla/drivers/ (driver lifecycle)"

BRANCHES: Mapping[str, Branch] = MappingProxyType(
    {
        "535-server": Branch(
            "535-server",
            535,
            (12, 2),
            "June 2026",
            "0.24.0",
            (_LIFECYCLE, "Ollama: docs/gpu.mdx of v0.24.0 (531 and newer), discover/cuda_compat.go of v0.30.11"),
        ),
        "580-server": Branch("580-server", 580, (13, 0), "June 2028", None, (_LIFECYCLE,)),
    }
)

CUDA_MINIMUM_DRIVER: Mapping[int, int] = MappingProxyType({11: 450, 12: 525, 13: 580})
"""Toolkit major version to the oldest driver that runs all of it by minor version compatibility
(docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html, table 1)."""


@dataclass(frozen=True)
class DriverPackages:
    """How a platform ships a branch. `{kernel}` in a name is the kernel's flavour, `{release}` what `uname -r` says."""

    packages: tuple[str, ...]
    holds: tuple[str, ...]
    module_package: str
    """Brings the modules of one kernel: has them, or makes DKMS build them."""
    kernel_packages: tuple[str, ...]
    """Follow the newest kernel of the flavour; a kernel update upgrades all of them that are installed, together."""
    version_package: str
    """Its version is the driver's: the package of nvidia-smi."""
    sources: tuple[str, ...]
    version: str | None = None
    """The one version that will do, as apt writes it; None where any of the branch will."""
    pins: tuple[PinPlan, ...] = ()
    unverified: str | None = None


@dataclass(frozen=True)
class Platform:
    name: PlatformName
    cuda_repository: str
    oldest_cuda: tuple[int, int]
    """The first toolkit in NVIDIA's repository for this platform."""
    kernels: Mapping[str, str]
    """Kernel flavour by what the site file calls it; `generic` is every platform's ordinary one."""
    drivers: Mapping[str, DriverPackages]
    sources: tuple[str, ...]
    unverified: str | None = None
    tried: bool = False
    """Whether flexi ever ran on it, in the lab or on servers."""


_KERNEL_METAS = ("linux-{kernel}", "linux-image-{kernel}", "linux-headers-{kernel}")

_SIGNED = (
    "modules of a kernel, signed; nvidia-smi and nvidia-persistenced: "
    "https://docs.nvidia.com/datacenter/cloud-native/gpu-operator/install-precompiled-signed-drivers.html"
)


def _ubuntu_server(
    branch: str,
    sources: tuple[str, ...],
    version: str | None = None,
    unverified: str | None = None,
) -> DriverPackages:
    """Canonical's headless set: prebuilt modules signed for Secure Boot, no DKMS, no graphics.

    The modules of a kernel (`module_package`) need no hold of their own: the meta package that is on hold depends on
    their exact version, and a hold would keep the old kernels that they depend on from ever being removed.
    """
    libraries = ("cfg1", "common", "compute", "decode", "encode", "extra", "fbc1", "gl")
    modules = f"linux-modules-nvidia-{branch}-{{kernel}}"
    packages = (
        # Of an ended branch, the archive's newest pulls the next branch: each kernel's modules are named instead.
        *([] if version else [modules]),
        f"nvidia-headless-no-dkms-{branch}",
        f"nvidia-utils-{branch}",  # nvidia-smi
        f"nvidia-compute-utils-{branch}",  # nvidia-persistenced
    )
    others = (
        f"nvidia-kernel-common-{branch}",
        f"nvidia-kernel-source-{branch}",
        *(f"libnvidia-{library}-{branch}" for library in libraries),
    )
    # Without the kernel's meta packages on hold a new kernel would boot that has no modules yet.
    holds = tuple(dict.fromkeys((modules, *packages, *others, "linux-generic", *_KERNEL_METAS)))
    return DriverPackages(
        packages=packages,
        holds=holds,
        module_package=f"linux-modules-nvidia-{branch}-{{release}}",
        kernel_packages=(*_KERNEL_METAS, modules),  # the last also where a host has it from before its branch ended
        version_package=f"nvidia-utils-{branch}",
        sources=(_SIGNED, *sources),
        version=version,
        pins=_stay_on(branch, version),
        unverified=unverified,
    )


def _stay_on(branch: str, version: str | None) -> tuple[PinPlan, ...]:
    """No change of branch by way of a dependency: that is how Ubuntu ends one, by empty packages that pull the next.

    Of several stanzas that name a package the first counts (apt_preferences(5)). With `version`, the packages of any
    other version are kept out too: the archive's later ones are those empty ones. The modules have the kernel's
    versions and not the driver's; an empty one of theirs cannot be installed, since what it pulls is kept out.
    """
    own = f"nvidia-*-{branch} libnvidia-*-{branch}"
    free = f"nvidia-firmware-{branch}-* linux-modules-nvidia-{branch}-*"
    pins = []
    if version:
        reason = "the last real build of this branch; later ones are empty and pull the next branch"
        pins.append(PinPlan(packages=own, pin=f"version {version}", priority=1001, reason=reason))
    else:
        free = f"{own} {free}"
    digits = "[0-9][0-9][0-9]"
    others = (
        f"nvidia-*-{digits}-server* libnvidia-*-{digits}-server* nvidia-firmware-{digits}-server-* "
        f"linux-modules-nvidia-{digits}-server-*"
    )
    reason = "what is on this branch, as apt ranks it by itself"
    pins.append(PinPlan(packages=free, pin="release *", priority=500, reason=reason))
    reason = "no other branch by way of a dependency; change driver.branch instead"
    pins.append(PinPlan(packages=others, pin="release *", priority=-1, reason=reason))
    return tuple(pins)


# Debian's own packages carry no branch in their names, and a point release may change it, as it did from 525.
# DKMS builds the modules where the headers of a kernel are.
_DEBIAN_METAS = ("linux-image-{kernel}", "linux-headers-{kernel}")
_DEBIAN_535 = DriverPackages(
    packages=(*_DEBIAN_METAS, "nvidia-kernel-dkms", "nvidia-smi", "libcuda1", "nvidia-persistenced"),
    holds=(
        *_DEBIAN_METAS,
        *("nvidia-kernel-dkms", "nvidia-kernel-support", "nvidia-alternative", "nvidia-legacy-check"),
        *("nvidia-modprobe", "nvidia-smi", "nvidia-persistenced", "firmware-nvidia-gsp", "libcuda1", "libnvidia-ml1"),
        *("libnvidia-cfg1", "libnvidia-ptxjitcompiler1", "libnvidia-pkcs11-openssl3"),
    ),
    module_package="linux-headers-{release}",
    kernel_packages=_DEBIAN_METAS,
    version_package="nvidia-smi",
    sources=(
        "tried with apt on Debian 12.15 (tests/lab/test_05_debian.py): 535.309.01-0+deb12u1, in non-free",
        "/etc/kernel/header_postinst.d/dkms of the package dkms builds modules when headers come",
    ),
    pins=(
        PinPlan(
            packages="nvidia-* libnvidia-* libcuda1 firmware-nvidia-gsp",
            pin="version 535.*",
            priority=1001,
            reason="this branch, whatever a point release or the backports bring",
        ),
    ),
)

_UBUNTU_PACKAGES = "https://packages.ubuntu.com"
_TRANSITION = (
    _UBUNTU_PACKAGES + "/source/{}/libs/nvidia-graphics-drivers-535-server: every package of it is transitional"
)
_580 = (
    f"{_UBUNTU_PACKAGES}/questing-updates/nvidia-utils-580-server: in jammy, noble and later",
    f"{_UBUNTU_PACKAGES}/questing/kernel/linux-modules-nvidia-580-server-generic-hwe-24.04-edge: in noble and later",
)
_535_MODULES = (
    f"{_UBUNTU_PACKAGES}/jammy/linux-modules-nvidia-510-server-generic: pulls linux-modules-nvidia-535-server-generic"
)
_LIKE_GENERIC = "the names of the HWE kernels' modules: as those of other branches and releases"

PLATFORMS: Mapping[PlatformName, Platform] = MappingProxyType(
    {
        "ubuntu-22.04": Platform(
            "ubuntu-22.04",
            "ubuntu2204",
            (11, 7),
            MappingProxyType({"generic": "generic", "generic-hwe-22.04": "generic-hwe-22.04"}),
            MappingProxyType(
                {
                    "535-server": _ubuntu_server(
                        "535-server",
                        (_TRANSITION.format("jammy"), _535_MODULES),
                        version="535.309.01-0ubuntu0.22.04.1",
                        unverified=_LIKE_GENERIC,
                    ),
                    "580-server": _ubuntu_server("580-server", _580, unverified=_LIKE_GENERIC),
                }
            ),
            sources=("kernel 5.15, HWE 6.8: https://ubuntu.com/kernel/lifecycle",),
            unverified="the first CUDA toolkit, from memory of NVIDIA's release notes for 11.7",
            tried=True,
        ),
        "ubuntu-24.04": Platform(
            "ubuntu-24.04",
            "ubuntu2404",
            (12, 5),
            MappingProxyType({"generic": "generic", "generic-hwe-24.04": "generic-hwe-24.04"}),
            MappingProxyType(
                {
                    "535-server": _ubuntu_server(
                        "535-server",
                        (_TRANSITION.format("noble"),),
                        version="535.309.01-0ubuntu0.24.04.1",
                        unverified="that the last real build, the one before …24.04.2, is …24.04.1; " + _LIKE_GENERIC,
                    ),
                    "580-server": _ubuntu_server("580-server", _580),
                }
            ),
            sources=(
                "kernel 6.8: https://ubuntu.com/kernel/lifecycle",
                f"first toolkit: {NVIDIA_REPOSITORIES}/ubuntu2404/x86_64 begins in May 2024, after CUDA 12.4",
            ),
        ),
        "debian-12": Platform(
            "debian-12",
            "debian12",
            (12, 3),
            MappingProxyType({"generic": "amd64", "amd64": "amd64", "cloud-amd64": "cloud-amd64"}),
            MappingProxyType({"535-server": _DEBIAN_535}),  # Debian 12 ships 535 only
            sources=(
                "tried with apt on Debian 12.15: kernel 6.1, headers for amd64 and cloud-amd64",
                f"first toolkit: {NVIDIA_REPOSITORIES}/debian12/x86_64",
            ),
        ),
    }
)

UNATTENDED_BLACKLIST = (
    "nvidia-",
    "libnvidia-",
    "firmware-nvidia-",
    "libcuda",
    "cuda-",
    "linux-modules-",
    "linux-objects-nvidia-",
    "linux-signatures-nvidia-",
    "linux-image-",
    "linux-headers-",
    "linux-generic",
)
"""What unattended-upgrades must leave alone on a GPU host: a userland or kernel that changes by night breaks the
running driver."""

_CUDA_DRIVER_PACKAGES = (
    "nvidia-* libnvidia-* libcuda1 libxnvctrl* xserver-xorg-video-nvidia* "
    "cuda cuda-11-* cuda-12-* cuda-13-* cuda-drivers* cuda-runtime-* cuda-demo-suite-*"
)
"""The driver in NVIDIA's repository, and the meta packages that pull it. `cuda-toolkit-*` is not among them."""


def cuda_pins(repository: str) -> tuple[PinPlan, ...]:
    """Keep NVIDIA's repository from replacing the distribution's driver.

    By label, as NVIDIA's own preferences file does: it holds behind a mirror too, and where one host serves several
    archives. By the maker's host name as well, in case the label is ever changed.
    """
    reason = "the driver comes from the distribution; a second source gives mixed versions"
    pins = [PinPlan(packages=_CUDA_DRIVER_PACKAGES, pin="release l=NVIDIA CUDA", priority=-1, reason=reason)]
    if repository.startswith(NVIDIA_REPOSITORIES):
        origin = NVIDIA_REPOSITORIES.split("/")[2]
        pins.append(PinPlan(packages=_CUDA_DRIVER_PACKAGES, pin=f'origin "{origin}"', priority=-1, reason=reason))
    return tuple(pins)


def version_tuple(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def ollama_needs(version: str) -> int:
    """The oldest driver major version that this Ollama computes on GPUs with."""
    return 550 if version_tuple(version) >= OLLAMA_NEEDS_550 else 531


def cuda_needs(toolkit: str) -> int | None:
    """The oldest driver major version for a CUDA toolkit; None for one that is not in the table."""
    return CUDA_MINIMUM_DRIVER.get(version_tuple(toolkit)[0])
