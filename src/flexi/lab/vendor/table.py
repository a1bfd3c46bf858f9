"""What stands in the lab's repositories: a table. Another build, branch or trap is another row.

Names, branches' conflicts through virtual packages, and which package depends on which are as in Ubuntu 22.04's
`nvidia-graphics-drivers-*-server` and `linux-restricted-modules`, and in NVIDIA's ubuntu2204 repository; versions
of stubs need not exist there. What the simulated driver needs goes through files below usr/lib/flexi-lab.
"""

from __future__ import annotations

import json

from ..gpu_sim.bundle import zipapp
from .stub import File, Stub

KERNEL = "5.15.0-186-generic"
KERNEL_VERSION = "5.15.0-186.196"

_PERSISTENCED_UNIT = """[Unit]
Description=NVIDIA Persistence Daemon
Wants=syslog.target

[Service]
ExecStart=/usr/bin/nvidia-persistenced --no-persistence-mode --verbose
"""


def _marker(path: str, **content: str) -> dict[str, File]:
    return {f"usr/lib/flexi-lab/{path}": File((json.dumps(content) + "\n").encode())}


def kernel(release: str = KERNEL, version: str = KERNEL_VERSION, pocket: str = "jammy") -> list[Stub]:
    """A kernel and the meta packages that follow the newest one."""
    meta = version.replace("-", ".", 1)
    return [
        Stub(
            f"linux-image-{release}", version, pocket, ("kmod",), files=_marker(f"kernels/{release}", version=version)
        ),
        Stub(f"linux-headers-{release}", version, pocket),
        Stub("linux-image-generic", meta, pocket, (f"linux-image-{release}",)),
        Stub("linux-headers-generic", meta, pocket, (f"linux-headers-{release}",)),
        Stub("linux-generic", meta, pocket, (f"linux-image-generic (= {meta})", f"linux-headers-generic (= {meta})")),
    ]


def modules(
    branch: str, driver: str, release: str = KERNEL, version: str = KERNEL_VERSION, pocket: str = "jammy"
) -> list[Stub]:
    """Signed modules of a driver branch for one kernel, and the meta package that follows the generic kernel."""
    common = f"nvidia-kernel-common-{branch}"
    return [
        Stub(
            f"linux-modules-nvidia-{branch}-{release}",
            version,
            pocket,
            (f"linux-image-{release}",),
            files=_marker(f"modules/{release}/nvidia-{branch}.json", version=driver),
        ),
        Stub(
            f"linux-modules-nvidia-{branch}-generic",
            version,
            pocket,
            (
                f"linux-modules-nvidia-{branch}-{release} (= {version})",
                f"{common} (<= {driver}-1)",
                f"{common} (>= {driver})",
            ),
            provides=("nvidia-prebuilt-kernel",),
        ),
    ]


def driver(branch: str, version: str, pocket: str = "jammy") -> list[Stub]:
    """The user space of a driver branch as Ubuntu splits it, headless. Branches exclude each other part by part."""
    upstream = version.split("-")[0]
    compute = f"libnvidia-compute-{branch}"
    same = f"(= {version})"
    return [
        Stub(
            compute,
            version,
            pocket,
            alone=(
                "libnvidia-compute",
                "libcuda1",
                "libcuda.so.1",
                "libnvidia-ml1",
            ),
            files=_marker("userland.json", version=upstream),
        ),
        Stub(
            f"libnvidia-cfg1-{branch}",
            version,
            pocket,
            alone=(
                "libnvidia-cfg1",
                "libnvidia-cfg1-any",
            ),
        ),
        Stub(f"nvidia-firmware-{branch}-{upstream}", version, pocket),
        Stub(
            f"nvidia-kernel-common-{branch}",
            version,
            pocket,
            ("kmod", f"nvidia-firmware-{branch}-{upstream}"),
            alone=("nvidia-kernel-common",),
            files={
                **_marker("kernel-common.json", version=upstream),
                "lib/modprobe.d/nvidia-kernel-common.conf": File(b"blacklist nouveau\n"),
            },
        ),
        Stub(f"nvidia-kernel-source-{branch}", version, pocket, alone=("nvidia-kernel-source",)),
        Stub(
            f"nvidia-compute-utils-{branch}",
            version,
            pocket,
            (f"{compute} {same}", "python3"),
            alone=("nvidia-compute-utils",),
            files={
                "usr/bin/nvidia-persistenced": File(zipapp("persistenced", "main(sys.argv[1:])"), 0o755),
                "lib/systemd/system/nvidia-persistenced.service": File(_PERSISTENCED_UNIT.encode()),
            },
            # A running daemon would keep the removed program; systemd must read the new unit.
            scripts={"postinst": "if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi"},
        ),
        Stub(
            f"nvidia-utils-{branch}",
            version,
            pocket,
            (f"{compute} {same}", "python3"),
            alone=(
                "nvidia-utils",
                "nvidia-smi",
            ),
            files={"usr/bin/nvidia-smi": File(zipapp("smi", "main(sys.argv[1:])"), 0o755)},
        ),
        Stub(
            f"nvidia-headless-no-dkms-{branch}",
            version,
            pocket,
            (
                f"nvidia-kernel-common-{branch} {same}",
                f"nvidia-kernel-source-{branch} {same}",
                f"{compute} {same}",
                f"nvidia-compute-utils-{branch} {same}",
                f"libnvidia-cfg1-{branch} {same}",
            ),
            alone=("nvidia-headless-no-dkms",),
        ),
    ]


def transitional(old: str, new: str, version: str, pocket: str = "jammy-security") -> list[Stub]:
    """Empty packages under the old branch's names that pull the new branch in: how Ubuntu ends a branch."""
    parts = (
        "libnvidia-compute",
        "libnvidia-cfg1",
        "nvidia-kernel-common",
        "nvidia-kernel-source",
        "nvidia-compute-utils",
        "nvidia-utils",
        "nvidia-headless-no-dkms",
    )
    return [Stub(f"{part}-{old}", version, pocket, (f"{part}-{new}",), section="restricted/oldlibs") for part in parts]


def cuda_toolkit(version: str, release: str) -> list[Stub]:
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
    toolkit = f"cuda-toolkit-{dashed}"
    return [
        Stub(f"cuda-nvcc-{dashed}", package_version, "cuda", files={f"{root}/bin/nvcc": File(nvcc.encode(), 0o755)}),
        Stub(f"cuda-compiler-{dashed}", package_version, "cuda", (f"cuda-nvcc-{dashed} (>= {release})",)),
        Stub(
            f"{toolkit}-config-common",
            package_version,
            "cuda",
            scripts={
                "postinst": alternative,
                "prerm": f'if [ "$1" = remove ]; then update-alternatives --remove cuda /{root}; fi',
            },
        ),
        Stub(toolkit, package_version, "cuda", (f"cuda-compiler-{dashed}", f"{toolkit}-config-common")),
        # The traps: these bring NVIDIA's own driver with them.
        Stub(f"cuda-runtime-{dashed}", package_version, "cuda", ("cuda-drivers (>= 525)",)),
        Stub(f"cuda-{dashed}", package_version, "cuda", (toolkit, f"cuda-runtime-{dashed}")),
    ]


def nvidia_own_driver(version: str, names: str) -> list[Stub]:
    """The driver of NVIDIA's repository. `names` ends the package names: `-580`, or empty from branch 590 on."""
    package = f"{version}-0ubuntu1"
    compute, common = f"libnvidia-compute{names}", f"nvidia-kernel-common{names}"
    rows = [
        Stub(
            compute,
            package,
            "cuda",
            provides=("libcuda1", "libnvidia-ml1", *(["libnvidia-compute"] if names else [])),
            conflicts=("libnvidia-compute",),
            files=_marker("userland.json", version=version),
        ),
        Stub(
            common,
            package,
            "cuda",
            provides=("nvidia-kernel-common",) if names else (),
            conflicts=("nvidia-kernel-common",),
            files=_marker("kernel-common.json", version=version),
        ),
        Stub(
            f"nvidia-driver{names}",
            package,
            "cuda",
            (f"{compute} (= {package})", f"{common} (= {package})", "nvidia-modprobe"),
        ),
    ]
    if names:
        rows.append(Stub(f"cuda-drivers{names}", package, "cuda", (f"nvidia-driver{names} (>= {version})",)))
    return rows


def everything() -> list[Stub]:
    """All packages of the lab's repositories."""
    return [
        *kernel(),
        *driver("535-server", "535.309.01-0ubuntu0.22.04.1"),
        *modules("535-server", "535.309.01"),
        *driver("580-server", "580.173.02-0ubuntu0.22.04.1"),
        *modules("580-server", "580.173.02"),
        *cuda_toolkit("12.2", "12.2.140"),
        *cuda_toolkit("12.4", "12.4.131"),
        Stub("cuda", "12.4.1-1", "cuda", ("cuda-12-4",)),
        *nvidia_own_driver("580.173.02", "-580"),
        *nvidia_own_driver("610.57", ""),
        Stub("nvidia-modprobe", "610.57-0ubuntu1", "cuda"),
        Stub("cuda-drivers", "610.57-0ubuntu1", "cuda", ("nvidia-driver (>= 610.57)",)),
    ]
