"""Debian 12's packages: its kernel, and the driver under Debian's own names, built on the host by DKMS. Table rows.

Names, components and relations are those of bookworm and bookworm-security in November 2026 (`apt-cache show`), as far
as the headless set reaches; alternatives and graphics are left out. Nothing is compiled: see `_DKMS`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..gpu_sim.bundle import zipapp
from .stub import File, Stub, kernel_image, marker, module_file

MAIN, SECURITY = "bookworm", "bookworm-security"

DRIVER = "535.309.01-0+deb12u1"
OLD_DRIVER = "535.261.03-1"
"""Of the release itself; the security suite has a newer one."""
NEWER_DRIVER = "535.337.05-0+deb12u1"
"""What the security suite has one day; invented."""


@dataclass(frozen=True)
class Kernel:
    """One build of Debian's kernel."""

    release: str
    """As `uname -r` says it."""
    version: str
    """As apt says it."""

    @property
    def abi(self) -> str:
        return self.release.removesuffix("-amd64")


KERNEL = Kernel("6.1.0-56-amd64", "6.1.192-2")
NEWER_KERNEL = Kernel("6.1.0-60-amd64", "6.1.203-1")

# From nvidia-persistenced 535.171.04-1~deb12u1; only the path of the state directory is a newer one.
_PERSISTENCED_UNIT = """[Unit]
Description=NVIDIA Persistence Daemon
Wants=syslog.target

[Service]
Type=forking
ExecStart=/usr/bin/nvidia-persistenced --user nvpd
ExecStopPost=/bin/rm -rf /run/nvidia-persistenced

[Install]
WantedBy=multi-user.target
"""

_DKMS = r"""#!/bin/sh
# dkms of the flexi lab: it keeps books as the real one does, and compiles nothing.
tree=/var/lib/dkms
command=$1
shift
while [ $# -gt 0 ]; do
  case $1 in
    -m) module=$2; shift ;;
    -v) version=$2; shift ;;
    -k|--kernelver) kernel=$2; shift ;;
    --all) ;;
    *) echo "dkms (lab): unknown option $1" >&2; exit 1 ;;
  esac
  shift
done
case $command in
  add)
    mkdir -p "$tree/$module/$version/source" ;;
  remove)
    for built in "$tree/$module/$version"/*/x86_64; do
      [ -d "$built" ] || continue
      kernel=$(basename "$(dirname "$built")")
      rm -f "/usr/lib/flexi-lab/modules/$kernel/$module.json" "/lib/modules/$kernel/updates/dkms/$module.ko"
    done
    rm -rf "${tree:?}/$module/$version" ;;
  autoinstall)
    for source in "$tree"/*/*/source; do
      [ -d "$source" ] || continue
      version=$(basename "$(dirname "$source")")
      module=$(basename "$(dirname "$(dirname "$source")")")
      [ -e "/lib/modules/$kernel/build/include" ] || {
        echo "Error! Your kernel headers for kernel $kernel cannot be found at /lib/modules/$kernel/build." >&2
        exit 1
      }
      mkdir -p "$tree/$module/$version/$kernel/x86_64" "/usr/lib/flexi-lab/modules/$kernel"
      mkdir -p "/lib/modules/$kernel/updates/dkms"
      cp "/usr/src/$module-$version/$module.ko" "/lib/modules/$kernel/updates/dkms/$module.ko"
      echo "{\"version\": \"$version\"}" >"/usr/lib/flexi-lab/modules/$kernel/$module.json"
    done ;;
  status)
    for source in "$tree"/*/*/source; do
      [ -d "$source" ] || continue
      here=$(dirname "$source")
      name=$(basename "$(dirname "$here")")/$(basename "$here")
      found=
      for built in "$here"/*/x86_64; do
        [ -d "$built" ] || continue
        found=yes
        echo "$name, $(basename "$(dirname "$built")"), x86_64: installed"
      done
      [ -n "$found" ] || echo "$name: added"
    done ;;
  *) echo "dkms (lab): unknown command $command" >&2; exit 1 ;;
esac
"""

# Both hooks do the same, as in the real package: build for the kernel whose headers or image have just come.
_DKMS_HOOK = """#!/bin/sh
set -e
if [ -e "/lib/modules/$1/build/include" ]; then
  echo "dkms: running auto installation service for kernel $1"
  exec /usr/sbin/dkms autoinstall --kernelver "$1"
fi
echo "dkms: autoinstall for kernel $1 was skipped since the kernel headers for this kernel do not seem to be installed"
"""


def kernel(build: Kernel, pocket: str) -> list[Stub]:
    """The kernel's image, and the meta package that follows the newest one."""
    release, version = build.release, build.version
    return [
        kernel_image(f"linux-image-{release}", release, version, pocket, "kernel"),
        Stub(
            "linux-image-amd64",
            version,
            pocket,
            (f"linux-image-{release} (= {version})",),
            provides=("linux-image-generic",),
            section="kernel",
        ),
    ]


def headers(build: Kernel, pocket: str) -> list[Stub]:
    """What modules are built against."""
    release, version = build.release, build.version
    common = f"linux-headers-{build.abi}-common"
    hooks = (
        f"directory=/etc/kernel/header_postinst.d; if [ -d $directory ]; then "
        f"run-parts --report --exit-on-error --arg={release} $directory; fi"
    )
    return [
        Stub("linux-compiler-gcc-12-x86", version, pocket, section="kernel"),
        Stub("linux-kbuild-6.1", version, pocket, section="kernel"),
        Stub(common, version, pocket, section="kernel"),
        Stub(
            f"linux-headers-{release}",
            version,
            pocket,
            (f"{common} (= {version})", "linux-kbuild-6.1", "linux-compiler-gcc-12-x86"),
            section="kernel",
            files={f"lib/modules/{release}/build/include/README": File(b"stub of the flexi lab\n")},
            scripts={"postinst": hooks},
        ),
        Stub(
            "linux-headers-amd64",
            version,
            pocket,
            (f"linux-headers-{release} (= {version})",),
            provides=("linux-headers-generic",),
            section="kernel",
        ),
    ]


def tools() -> list[Stub]:
    """What the driver's packages lean on and security updates leave alone."""
    unversioned = "20220217+3~deb12u1"
    glx = "1.2.2"
    return [
        Stub(
            "dkms",
            "3.0.10-8+deb12u1",
            MAIN,
            ("kmod", "lsb-release"),
            section="kernel",
            files={
                "usr/sbin/dkms": File(_DKMS.encode(), 0o755),
                "etc/kernel/postinst.d/dkms": File(_DKMS_HOOK.encode(), 0o755),
                "etc/kernel/header_postinst.d/dkms": File(_DKMS_HOOK.encode(), 0o755),
            },
        ),
        Stub("nvidia-installer-cleanup", unversioned, MAIN, section="contrib/misc"),
        Stub("nvidia-support", unversioned, MAIN, section="contrib/misc"),
        Stub("nvidia-kernel-common", unversioned, MAIN, section="contrib/kernel"),
        Stub("update-glx", glx, MAIN, section="contrib/libs"),
        Stub("glx-diversions", glx, MAIN, section="contrib/libs"),
        Stub("glx-alternative-mesa", glx, MAIN, section="contrib/libs"),
        Stub(
            "glx-alternative-nvidia",
            glx,
            MAIN,
            (f"update-glx (= {glx})", f"glx-diversions (= {glx})", "glx-alternative-mesa"),
            section="contrib/libs",
        ),
        Stub(
            "nvidia-persistenced",
            "535.171.04-1~deb12u1",
            MAIN,
            ("libnvidia-cfg1 | libnvidia-cfg.so.1 | libnvidia-cfg1-any", "python3"),
            section="contrib/utils",
            files={
                "usr/bin/nvidia-persistenced": File(zipapp("persistenced", "main(sys.argv[1:])"), 0o755),
                "lib/systemd/system/nvidia-persistenced.service": File(_PERSISTENCED_UNIT.encode()),
            },
            scripts={
                "postinst": "getent passwd nvpd >/dev/null || useradd --system --no-create-home -d /run/nvpd nvpd\n"
                "if [ -d /run/systemd/system ]; then systemctl daemon-reload; "
                "systemctl enable --quiet nvidia-persistenced.service; fi"
            },
        ),
    ]


def driver(version: str, pocket: str) -> list[Stub]:
    """The headless part of nvidia-graphics-drivers."""
    upstream = version.split("-")[0]
    same = f"(= {version})"
    alternative = f"nvidia-alternative {same}"

    def row(name: str, section: str, *depends: str, provides: tuple[str, ...] = (), **more: dict[str, File]) -> Stub:
        return Stub(name, version, pocket, depends, provides=provides, section=section, files=more.get("files", {}))

    dkms = f"-m nvidia-current -v {upstream}"
    return [
        row("nvidia-legacy-check", "non-free/libs", "nvidia-installer-cleanup"),
        row(
            "nvidia-alternative",
            "non-free/libs",
            "glx-alternative-nvidia (>= 1.2)",
            "nvidia-legacy-check",
            provides=("nvidia-alternative--kmod-alias", f"nvidia-alternative-{upstream}", "nvidia-alternative-any"),
        ),
        row("libnvidia-ptxjitcompiler1", "non-free/libs"),
        row("libnvidia-pkcs11-openssl3", "non-free/libs"),
        row(
            "libcuda1",
            "non-free/libs",
            "nvidia-support",
            alternative,
            f"libnvidia-ptxjitcompiler1 {same}",
            f"libnvidia-pkcs11-openssl3 {same}",
            "nvidia-legacy-check",
            provides=(f"libcuda.so.1 (= {upstream})", "libcuda1-any", "libcuda-12.2-1"),
        ),
        row(
            "libnvidia-ml1",
            "non-free/libs",
            alternative,
            provides=(f"libnvidia-ml.so.1 (= {upstream})",),
            files=marker("userland.json", version=upstream),
        ),
        row("libnvidia-cfg1", "non-free/libs", alternative, provides=("libnvidia-cfg.so.1", "libnvidia-cfg1-any")),
        row(
            "nvidia-smi",
            "non-free/utils",
            alternative,
            f"libnvidia-ml1 {same}",
            "python3",
            files={"usr/bin/nvidia-smi": File(zipapp("smi", "main(sys.argv[1:])"), 0o755)},
        ),
        row(
            "firmware-nvidia-gsp",
            "non-free-firmware/kernel",
            provides=(f"firmware-nvidia-gsp (= {upstream})", f"firmware-nvidia-gsp-{upstream}"),
        ),
        row("nvidia-modprobe", "contrib/utils"),
        row(
            "nvidia-kernel-support",
            "non-free/kernel",
            alternative,
            "nvidia-alternative--kmod-alias",
            "nvidia-kernel-common",
            "nvidia-modprobe (>= 535)",
            provides=("nvidia-kernel-support--v1", "nvidia-kernel-support-any"),
            # A link of update-alternatives to /etc/nvidia/current/nvidia-blacklists-nouveau.conf in the real one.
            files={"etc/modprobe.d/nvidia-blacklists-nouveau.conf": File(b"blacklist nouveau\n")},
        ),
        Stub(
            "nvidia-kernel-dkms",
            version,
            pocket,
            (
                f"firmware-nvidia-gsp (= {upstream}) | firmware-nvidia-gsp-{upstream}",
                "nvidia-kernel-support--v1",
                "dkms (>= 3.0.3-4~)",
                "nvidia-installer-cleanup",
            ),
            provides=(f"nvidia-kernel-{upstream}", f"nvidia-kernel-dkms-any (= {upstream})"),
            section="non-free/kernel",
            files={f"usr/src/nvidia-current-{upstream}/nvidia-current.ko": module_file(KERNEL.release, upstream)},
            scripts={
                # dkms's own common.postinst: for the kernels that are there, as far as they have headers.
                "postinst": f"dkms add {dkms}\nfor k in /usr/lib/flexi-lab/kernels/*; do "
                '/etc/kernel/postinst.d/dkms "$(basename "$k")"; done',
                "prerm": f"dkms remove {dkms} --all",
            },
        ),
    ]
