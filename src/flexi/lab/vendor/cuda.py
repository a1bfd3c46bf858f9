"""NVIDIA's own repositories: the toolkit, and the driver packages that replace the distribution's. Rows of a table.

Names and relations are as in NVIDIA's ubuntu2204 repository; versions of stubs need not exist there.
"""

from __future__ import annotations

from . import ubuntu
from .stub import File, Stub, marker


def toolkit(version: str, release: str, pocket: str) -> list[Stub]:
    """`version` as people say it (12.4), `release` the compiler's full one (12.4.131)."""
    dashed = version.replace(".", "-")
    root = f"usr/local/cuda-{version}"
    package_version = f"{release}-1"
    nvcc = (
        "#!/bin/sh\n"
        f'case "$1" in --version|-V) ;; *) echo "nvcc fatal   : No input files specified; '
        'use option --help for more information" >&2; exit 1 ;; esac\n'
        "echo 'nvcc: NVIDIA (R) Cuda compiler driver'\n"
        f"echo 'Cuda compilation tools, release {version}, V{release}'\n"
    )
    alternative = f"update-alternatives --install /usr/local/cuda cuda /{root} {version.replace('.', '')}"
    meta = f"cuda-toolkit-{dashed}"
    return [
        Stub(f"cuda-nvcc-{dashed}", package_version, pocket, files={f"{root}/bin/nvcc": File(nvcc.encode(), 0o755)}),
        Stub(f"cuda-compiler-{dashed}", package_version, pocket, (f"cuda-nvcc-{dashed} (>= {release})",)),
        Stub(
            f"{meta}-config-common",
            package_version,
            pocket,
            scripts={
                "postinst": alternative,
                "prerm": f'if [ "$1" = remove ]; then update-alternatives --remove cuda /{root}; fi',
            },
        ),
        Stub(meta, package_version, pocket, (f"cuda-compiler-{dashed}", f"{meta}-config-common")),
        # The traps: these bring NVIDIA's own driver with them.
        Stub(f"cuda-runtime-{dashed}", package_version, pocket, ("cuda-drivers (>= 525)",)),
        Stub(f"cuda-{dashed}", package_version, pocket, (meta, f"cuda-runtime-{dashed}")),
    ]


def own_driver(version: str, pocket: str) -> list[Stub]:
    """The driver of NVIDIA's repository from branch 590 on: names without a branch.

    Source: docs.nvidia.com/datacenter/tesla/driver-installation-guide, "Ubuntu 590 and later packages".
    """
    package = f"{version}-0ubuntu1"
    return [
        Stub(
            "libnvidia-compute",
            package,
            pocket,
            provides=("libcuda1", "libnvidia-ml1"),
            conflicts=("libnvidia-compute",),
            files=marker("userland.json", version=version),
        ),
        Stub(
            "nvidia-kernel-common",
            package,
            pocket,
            conflicts=("nvidia-kernel-common",),
            files=marker("kernel-common.json", version=version),
        ),
        Stub("nvidia-modprobe", package, pocket),
        Stub(
            "nvidia-driver",
            package,
            pocket,
            (f"libnvidia-compute (= {package})", f"nvidia-kernel-common (= {package})", "nvidia-modprobe"),
        ),
        Stub("cuda-drivers", package, pocket, (f"nvidia-driver (>= {version})",)),
    ]


def own_driver_with_ubuntus_names(version: str, pocket: str) -> list[Stub]:
    """Up to branch 580 NVIDIA's packages have the names of Ubuntu's, without `-server`, and versions that apt takes
    for newer: `-0ubuntu1` against `-0ubuntu0.22.04.1`."""
    package, branch = f"{version}-0ubuntu1", version.split(".")[0]
    compute, common = f"libnvidia-compute-{branch}", f"nvidia-kernel-common-{branch}"
    return [
        *ubuntu.driver(branch, package, pocket),
        Stub(
            f"nvidia-driver-{branch}",
            package,
            pocket,
            (f"{compute} (= {package})", f"{common} (= {package})", "nvidia-modprobe"),
        ),
        Stub(f"cuda-drivers-{branch}", package, pocket, (f"nvidia-driver-{branch} (>= {version})",)),
    ]


def own_driver_with_debians_names(version: str, pocket: str) -> list[Stub]:
    """The driver of NVIDIA's debian12 repository, whose packages have the names of Debian's.

    Unverified which parts it has beside those that published pins for it name (nvidia-*, libnvidia-*, libcuda*).
    """
    package = f"{version}-1"
    same = f"(= {package})"
    return [
        Stub("libcuda1", package, pocket),
        Stub("libnvidia-ml1", package, pocket, files=marker("userland.json", version=version)),
        Stub("libnvidia-cfg1", package, pocket),
        Stub("nvidia-kernel-support", package, pocket, provides=("nvidia-kernel-support--v1",)),
        Stub("nvidia-kernel-dkms", package, pocket, (f"nvidia-kernel-support {same}", "dkms")),
        Stub("nvidia-modprobe", package, pocket),
        Stub("nvidia-persistenced", package, pocket, ("libnvidia-cfg1",)),
        Stub("nvidia-smi", package, pocket, (f"libnvidia-ml1 {same}",)),
        Stub(
            "nvidia-driver", package, pocket, (f"libcuda1 {same}", f"nvidia-smi {same}", f"nvidia-kernel-dkms {same}")
        ),
        Stub("cuda-drivers", package, pocket, (f"nvidia-driver (>= {version})",)),
    ]


def repository(pocket: str) -> list[Stub]:
    """What stands in NVIDIA's repository for a platform (`ubuntu2204`)."""
    if pocket.startswith("ubuntu"):
        drivers = [*own_driver_with_ubuntus_names("580.178.04", pocket), *own_driver("610.57", pocket)]
    else:
        drivers = own_driver_with_debians_names("610.57", pocket)
    return [
        *toolkit("12.2", "12.2.140", pocket),
        *toolkit("12.4", "12.4.131", pocket),
        Stub("cuda", "12.4.1-1", pocket, ("cuda-12-4",)),
        *drivers,
    ]
