"""Ubuntu's packages: kernels, the driver's branches, and how a branch ends. Rows of a table.

Names, branches' conflicts through virtual packages, and which package depends on which are as in Ubuntu's
`nvidia-graphics-drivers-*-server` and `linux-restricted-modules`; versions of stubs need not exist there. What the
simulated driver needs goes through files below usr/lib/flexi-lab.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..gpu_sim.bundle import zipapp
from .stub import File, Stub, kernel_image, marker, module_file

PERSISTENCED_UNIT = """[Unit]
Description=NVIDIA Persistence Daemon
Wants=syslog.target

[Service]
Type=forking
ExecStart=/usr/bin/nvidia-persistenced --no-persistence-mode --verbose
"""


@dataclass(frozen=True)
class Kernel:
    """One build of Ubuntu's kernel, and the flavour whose meta packages follow it."""

    release: str
    """As `uname -r` says it."""
    version: str
    """As apt says it."""
    flavour: str = "generic"

    @property
    def meta(self) -> str:
        return self.version.replace("-", ".", 1)


@dataclass(frozen=True)
class Release:
    """A release of Ubuntu: what differs between them."""

    codename: str
    number: str
    kernel: Kernel
    newer_kernel: Kernel
    """What the archive has one day."""
    hwe: Kernel

    @property
    def security(self) -> str:
        return f"{self.codename}-security"

    def driver_version(self, upstream: str, build: int = 1) -> str:
        return f"{upstream}-0ubuntu0.{self.number}.{build}"


JAMMY = Release(
    "jammy",
    "22.04",
    Kernel("5.15.0-186-generic", "5.15.0-186.196"),
    Kernel("5.15.0-190-generic", "5.15.0-190.200"),
    Kernel("6.8.0-134-generic", "6.8.0-134.134~22.04.1", "generic-hwe-22.04"),
)
NOBLE = Release(
    "noble",
    "24.04",
    Kernel("6.8.0-134-generic", "6.8.0-134.134"),
    Kernel("6.8.0-140-generic", "6.8.0-140.140"),
    Kernel("6.14.0-61-generic", "6.14.0-61.61~24.04.1", "generic-hwe-24.04"),
)

DRIVERS = {"535-server": "535.309.01", "580-server": "580.173.02"}
"""The branches and the driver that each of them holds."""
NEWER_580 = "580.181.07"
"""What 580-server holds one day; invented."""


def kernel(build: Kernel, pocket: str) -> list[Stub]:
    """A kernel and the meta packages that follow the newest one of its flavour."""
    release, version, flavour, meta = build.release, build.version, build.flavour, build.meta
    metas = (f"linux-image-{flavour} (= {meta})", f"linux-headers-{flavour} (= {meta})")
    return [
        kernel_image(f"linux-image-{release}", release, version, pocket, "kernel", (f"linux-modules-{release}",)),
        Stub(f"linux-modules-{release}", version, pocket, section="kernel"),
        Stub(f"linux-headers-{release}", version, pocket, section="devel"),
        Stub(f"linux-image-{flavour}", meta, pocket, (f"linux-image-{release}",), section="kernel"),
        Stub(f"linux-headers-{flavour}", meta, pocket, (f"linux-headers-{release}",), section="devel"),
        Stub(f"linux-{flavour}", meta, pocket, metas, section="kernel"),
    ]


def modules(branch: str, build: Kernel, pocket: str, driver: str | None = None) -> list[Stub]:
    """Signed modules of a driver branch for one kernel, and the meta package that follows the kernel's flavour.

    `driver` is another one than the branch's, whose modules then come as a later build. Each kernel's modules want the
    user space that they were built with (apt's words in elementary/os#613: `linux-modules-nvidia-470-5.11.0-44-generic:
    Depends: nvidia-kernel-common-470 (<= 470.86-1)`): a change of branch removes those of all kernels.
    """
    version = f"{build.version}+1" if driver else build.version
    driver = driver or DRIVERS[branch]
    common = (f"nvidia-kernel-common-{branch} (<= {driver}-1)", f"nvidia-kernel-common-{branch} (>= {driver})")
    return [
        Stub(
            f"linux-modules-nvidia-{branch}-{build.release}",
            version,
            pocket,
            (f"linux-image-{build.release}", *common),
            section="restricted/kernel",
            files={
                **marker(f"modules/{build.release}/nvidia-{branch}.json", version=driver),
                # Linked there by the real package's postinst (linux-restricted-modules), with its signature.
                f"lib/modules/{build.release}/kernel/nvidia-{branch.replace('-server', 'srv')}/nvidia.ko": module_file(
                    build.release, driver
                ),
            },
        ),
        Stub(
            f"linux-modules-nvidia-{branch}-{build.flavour}",
            version,
            pocket,
            (f"linux-modules-nvidia-{branch}-{build.release} (= {version})", *common),
            provides=("nvidia-prebuilt-kernel",),
            section="restricted/kernel",
        ),
    ]


def driver(branch: str, version: str, pocket: str) -> list[Stub]:
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
            files=marker("userland.json", version=upstream),
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
                **marker("kernel-common.json", version=upstream),
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
                "lib/systemd/system/nvidia-persistenced.service": File(PERSISTENCED_UNIT.encode()),
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


def transitional(old: str, new: str, version: str, pocket: str) -> list[Stub]:
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


def transitional_modules(old: str, new: str, build: Kernel, pocket: str) -> list[Stub]:
    """The modules' meta packages of an ended branch pull those of the next one; unverified, after what
    linux-restricted-modules did with branches that ended before."""
    flavour = build.flavour
    return [
        Stub(
            f"linux-modules-nvidia-{old}-{flavour}",
            f"{build.version}+1",
            pocket,
            (f"linux-modules-nvidia-{new}-{flavour}",),
            section="restricted/oldlibs",
        )
    ]


def branch(release: Release, name: str) -> list[Stub]:
    """A branch's user space, and its modules for the kernels of the day."""
    pocket = release.codename
    return [
        *driver(name, release.driver_version(DRIVERS[name]), pocket),
        *modules(name, release.kernel, pocket),
        *modules(name, release.hwe, pocket),
    ]


def kernels(release: Release) -> list[Stub]:
    """The kernels of the day: generic, and the newer one for new hardware."""
    return [*kernel(release.kernel, release.codename), *kernel(release.hwe, release.codename)]


def next_kernel(release: Release, with_modules: bool) -> list[Stub]:
    """The kernel that comes one day, in the security pocket."""
    rows = kernel(release.newer_kernel, release.security)
    if with_modules:
        rows += [row for name in DRIVERS for row in modules(name, release.newer_kernel, release.security)]
    return rows


def ended_branch(release: Release) -> list[Stub]:
    """The transitional packages that Ubuntu put in the place of 535-server, in the security pocket."""
    version = release.driver_version(DRIVERS["535-server"], build=2)
    pocket = release.security
    return [
        *transitional("535-server", "580-server", version, pocket),
        *transitional_modules("535-server", "580-server", release.kernel, pocket),
        *transitional_modules("535-server", "580-server", release.hwe, pocket),
    ]


def next_driver(release: Release) -> list[Stub]:
    """The newer 580-server that comes one day, in the security pocket, with its modules."""
    name, pocket = "580-server", release.security
    return [
        *driver(name, release.driver_version(NEWER_580), pocket),
        *modules(name, release.kernel, pocket, NEWER_580),
        *modules(name, release.hwe, pocket, NEWER_580),
    ]
