"""What each platform and driver branch needs: package names, pins, limits. Data with sources, and look-ups in it.

Sources: packages.ubuntu.com (jammy, noble) and Canonical's NVIDIA driver documentation for the headless sets with
signed modules; Debian 12's own archive; NVIDIA's CUDA installation guide and CUDA Compatibility guide
(docs.nvidia.com/deploy/cuda-compatibility). Tried on a machine so far: nothing but ubuntu-22.04 with 535-server,
in the lab; rows say `unverified` where a name was inferred.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .model import PinPlan, PlatformName

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
OLLAMA_NEEDS_550 = (0, 30, 0)
"""From here on the CUDA 12 runner needs driver 550 and otherwise serves from the CPU (discover/cuda_compat.go)."""


@dataclass(frozen=True)
class Branch:
    """A driver branch. `native_cuda` is the toolkit that came out with it (CUDA toolkit release notes, table 3)."""

    name: str
    major: int
    native_cuda: tuple[int, int]
    note: str


BRANCHES: Mapping[str, Branch] = MappingProxyType(
    {
        "535-server": Branch("535-server", 535, (12, 2), "ended in June 2026; runs Ollama up to 0.24.0"),
        "580-server": Branch("580-server", 580, (13, 0), "long-term support until June 2028"),
    }
)

CUDA_MINIMUM_DRIVER: Mapping[int, int] = MappingProxyType({11: 450, 12: 525, 13: 580})
"""Toolkit major version to the oldest driver that runs all of it by minor version compatibility
(docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html, table 1)."""


@dataclass(frozen=True)
class DriverPackages:
    """How a platform ships a branch. `{kernel}` in a name is the kernel flavour."""

    packages: tuple[str, ...]
    holds: tuple[str, ...]
    version_package: str
    """Its version is the driver's: the package of nvidia-smi."""
    version: str | None = None
    """The one version that will do, as apt writes it; None where any of the branch will."""
    pins: tuple[PinPlan, ...] = ()


@dataclass(frozen=True)
class Platform:
    name: PlatformName
    cuda_repository: str
    kernels: tuple[str, ...]
    drivers: Mapping[str, DriverPackages]
    tried: bool = False
    """Whether flexi ever ran on it, in the lab or on servers."""


_KERNEL_METAS = ("linux-generic", "linux-image-{kernel}", "linux-headers-{kernel}", "linux-{kernel}")


def _ubuntu_server(branch: str, version: str | None = None, pins: tuple[PinPlan, ...] = ()) -> DriverPackages:
    """Canonical's headless set: prebuilt modules signed for Secure Boot, no DKMS, no graphics."""
    libraries = ("cfg1", "common", "compute", "decode", "encode", "extra", "fbc1", "gl")
    packages = (
        f"linux-modules-nvidia-{branch}-{{kernel}}",
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
    holds = tuple(dict.fromkeys((*packages, *others, *_KERNEL_METAS)))
    return DriverPackages(packages, holds, f"nvidia-utils-{branch}", version, pins)


def _last_535(last: str) -> DriverPackages:
    """From the next version on Ubuntu's 535-server packages are empty ones that pull 580: keep both out.

    `linux-modules-nvidia-535-server-*` has the kernel's versions and not the driver's, so the first pin cannot name
    it; an empty one cannot be installed either, since what it pulls is kept out by the second.
    """
    pins = (
        PinPlan(
            packages="nvidia-*-535-server libnvidia-*-535-server",
            pin=f"version {last}",
            priority=1001,
            reason="the last real 535; later ones are transitional packages that pull 580",
        ),
        PinPlan(
            packages="nvidia-*-580-server* libnvidia-*-580-server* linux-modules-nvidia-580-server-*",
            pin="release *",
            priority=-1,
            reason="no change of branch by way of a dependency; change driver.branch instead",
        ),
    )
    return _ubuntu_server("535-server", last, pins)


# Debian's own packages carry no branch in their names; DKMS builds the modules, so the headers belong to the set.
_DEBIAN_535 = DriverPackages(
    packages=("linux-headers-amd64", "nvidia-kernel-dkms", "nvidia-smi", "libcuda1", "nvidia-persistenced"),
    holds=(
        "linux-image-amd64",
        "linux-headers-amd64",
        "nvidia-kernel-dkms",
        "nvidia-kernel-support",
        "nvidia-smi",
        "libcuda1",
        "libnvidia-ml1",
        "nvidia-persistenced",
    ),
    version_package="nvidia-smi",
)

PLATFORMS: Mapping[PlatformName, Platform] = MappingProxyType(
    {
        "ubuntu-22.04": Platform(
            "ubuntu-22.04",
            "ubuntu2204",
            ("generic", "generic-hwe-22.04"),
            MappingProxyType(
                {
                    "535-server": _last_535("535.309.01-0ubuntu0.22.04.1"),
                    "580-server": _ubuntu_server("580-server"),
                }
            ),
            tried=True,
        ),
        "ubuntu-24.04": Platform(
            "ubuntu-24.04",
            "ubuntu2404",
            ("generic", "generic-hwe-24.04"),
            MappingProxyType(
                {
                    # unverified: the version string follows jammy's pattern.
                    "535-server": _last_535("535.309.01-0ubuntu0.24.04.1"),
                    "580-server": _ubuntu_server("580-server"),
                }
            ),
        ),
        "debian-12": Platform(
            "debian-12",
            "debian12",
            ("generic",),  # has no flavours; the headers' package follows the kernel
            MappingProxyType({"535-server": _DEBIAN_535}),  # Debian 12 ships 535 only
        ),
    }
)

UNATTENDED_BLACKLIST = (
    "nvidia-",
    "libnvidia-",
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
