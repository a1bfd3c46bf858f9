"""The kernel side of the simulated driver: what loading nvidia.ko at boot leaves behind.

Run once at every boot by the base image's `flexi-lab-boot.service`, never later: installing or upgrading packages
changes the files that the next boot loads from, not what runs, exactly as with real modules in use.

    usr/lib/flexi-lab/kernels/<release>              an installed kernel (linux-image-<release>)
    usr/lib/flexi-lab/modules/<release>/<branch>.json  NVIDIA modules built for it (linux-modules-nvidia-*)
    usr/lib/flexi-lab/kernel-common.json             the branch that modprobe is told to load (nvidia-kernel-common-*)

What it leaves for programs that know nothing of a simulation: the kernel that would have been booted in
/proc/sys/kernel/osrelease, its modules in /sys/module and, where this computer's kernel has that file, /proc/modules;
the cards on the PCI bus; a kernel log in /dev/kmsg, from which the journal takes records as from a real one's.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .driver import Driver

NVIDIA_MAJOR = 195
"""The character devices' major number (Linux: Documentation/admin-guide/devices.txt)."""
UVM_DEVICES = {"fuse": (10, 229), "tun": (10, 200)}
"""Devices of Linux's own (Documentation/admin-guide/devices.txt; names as in /proc/misc) of which one stands in for
nvidia-uvm, so that the node can really be opened, and is really refused where a device cgroup does not allow it."""
ZERO = (1, 5)
"""/dev/zero, where there is none of these: it can be opened, but every device cgroup allows it."""
FRONTEND_BEFORE = 545
"""The branch since which the cards' class is not nvidia-frontend any more (NVIDIA, open-gpu-kernel-modules, nv.c)."""
EVERYONE = 0o666

MODPROBE_D = ("etc/modprobe.d", "run/modprobe.d", "usr/local/lib/modprobe.d", "lib/modprobe.d")
"""Where modprobe looks (`man 5 modprobe.d`)."""
NVIDIA_MODULES = ("nvidia", "nvidia_modeset", "nvidia_uvm")
KMSG = Path("/dev/kmsg")
PCI_DEVICES = Path("/sys/bus/pci/devices")
PCI_IDS = {"NVIDIA RTX A5000": ("0x2231", "0x030000"), "NVIDIA A40": ("0x2235", "0x030200")}
"""Device and class (pci.ids; the workstation card is a display controller, the other has no outputs in use)."""
OSRELEASE = "run/flexi-lab/osrelease"
PCI = "run/flexi-lab/pci"
DEVICES = "run/flexi-lab/devices"
"""What stands in the place of /proc/devices."""
UVM = "run/flexi-lab/uvm"
"""Numbers of the node /dev/nvidia-uvm: major and minor."""
MODULES = "run/flexi-lab/modules"

MakeNode = Callable[[Path, int, int], None]


def installed_kernel(root: Path) -> str | None:
    """The kernel that the boot loader would start: the newest installed one."""
    names = [path.name for path in (root / "usr/lib/flexi-lab/kernels").glob("*")]
    return max(names, key=_version_key, default=None)


def loadable_version(root: Path) -> str | None:
    """Version of the NVIDIA modules for that kernel; None where there are none."""
    kernel = installed_kernel(root)
    if kernel is None:
        return None
    built = [_json(path)["version"] for path in (root / "usr/lib/flexi-lab/modules" / kernel).glob("*.json")]
    wanted = root / "usr/lib/flexi-lab/kernel-common.json"
    if wanted.exists() and _json(wanted)["version"] in built:
        return str(_json(wanted)["version"])
    return max(built, key=_version_key, default=None)


def nouveau_binds(root: Path) -> bool:
    """Whether nouveau takes the cards: it does where there are some and no file for modprobe forbids it."""
    if not Driver(root).hardware():
        return False
    files = [path for directory in MODPROBE_D for path in sorted((root / directory).glob("*.conf"))]
    return not any(re.search(r"^\s*blacklist\s+nouveau\b", path.read_text(), re.MULTILINE) for path in files)


def make_node(path: Path, major: int, minor: int) -> None:
    """A character device that everyone may open."""
    path.unlink(missing_ok=True)
    os.mknod(path, EVERYONE | stat.S_IFCHR, os.makedev(major, minor))
    path.chmod(EVERYONE)


def load(root: Path, node: MakeNode = make_node) -> str | None:
    """Load the driver as this boot finds it; its version, or None where no modules fit the kernel or nouveau has
    taken the cards."""
    held = root / "dev/shm/flexi-lab"
    held.mkdir(parents=True, exist_ok=True)
    held.chmod(0o1777)
    version = None if nouveau_binds(root) else loadable_version(root)
    modules = NVIDIA_MODULES if version else ("nouveau",) if nouveau_binds(root) else ()
    (root / MODULES).parent.mkdir(parents=True, exist_ok=True)
    (root / MODULES).write_text(_proc_modules(modules))
    (root / OSRELEASE).write_text(f"{installed_kernel(root)}\n")
    driver = Driver(root)
    faults = driver.faults()
    lost = {*faults.lost, *faults.lost_at_boot}
    cards = [card for card in driver.hardware() if card["uuid"] not in lost]
    _fill_pci(root / PCI, cards, modules[0] if modules else None)
    if version is None:
        return None
    state = root / "run/flexi-lab"
    (state / "proc-driver/nvidia/gpus").mkdir(parents=True, exist_ok=True)
    uvm = uvm_device()
    (root / UVM).write_text("{} {}\n".format(*uvm))
    (root / DEVICES).write_text(_proc_devices(version, uvm[0]))
    for card in cards:
        information = state / "proc-driver/nvidia/gpus" / card["pci_bus_id"].lower()[4:] / "information"
        information.parent.mkdir(exist_ok=True)
        information.write_text(
            f"Model: \t\t {card['name']}\nGPU UUID: \t {card['uuid']}\nDevice Minor: \t {card['index']}\n"
        )
        node(root / f"dev/nvidia{card['index']}", NVIDIA_MAJOR, int(card["index"]))
    node(root / "dev/nvidiactl", NVIDIA_MAJOR, 255)
    node(root / "dev/nvidia-uvm", *uvm)
    (state / "proc-driver/nvidia/version").write_text(
        f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  (simulated)\nGCC version:  none\n"
    )
    (state / "kernel.json").write_text(json.dumps({"version": version, "probed": [card["uuid"] for card in cards]}))
    return version


def main() -> int:
    root = Path("/")
    make_kernel_log()
    version = load(root)
    show(root, version)
    if version is None:
        print("no NVIDIA modules for the installed kernel, or nouveau has the cards", file=sys.stderr)
        return 0
    print(f"NVRM: loading NVIDIA UNIX x86_64 Kernel Module  {version}")
    subprocess.run(["mount", "--bind", "/run/flexi-lab/proc-driver", "/proc/driver"], check=True)
    subprocess.run(["mount", "--bind", root / DEVICES, "/proc/devices"], check=True)
    # udev's rule for the card does this on a real machine.
    if Path("/lib/systemd/system/nvidia-persistenced.service").exists():
        subprocess.run(["systemctl", "start", "--no-block", "nvidia-persistenced.service"], check=False)
    return 0


def show(root: Path, version: str | None) -> None:
    """Put the simulated kernel's name and modules in the place of this computer's."""
    names = [line.split()[0] for line in (root / MODULES).read_text().splitlines()]
    subprocess.run(["mount", "--bind", root / OSRELEASE, "/proc/sys/kernel/osrelease"], check=True)
    # A kernel that is built without modules has no such file, and none can be made in /proc.
    if Path("/proc/modules").exists():
        subprocess.run(["mount", "--bind", root / MODULES, "/proc/modules"], check=True)
    # systemd-nspawn makes /sys a small file system of its own, without `module`.
    subprocess.run(["mount", "-o", "remount,rw", "/sys"], check=True)
    sys_module = Path("/sys/module")
    sys_module.mkdir(exist_ok=True)
    for name in names:
        module = sys_module / name
        module.mkdir()
        (module / "initstate").write_text("live\n")
        if name.startswith("nvidia"):
            (module / "version").write_text(f"{version}\n")
    subprocess.run(["mount", "-o", "remount,ro", "/sys"], check=True)
    if PCI_DEVICES.exists():
        subprocess.run(["mount", "--bind", root / PCI, PCI_DEVICES], check=True)


def make_kernel_log() -> None:
    """A pipe that keeps a record until the journal reads it, one at a time, as the real device does."""
    KMSG.unlink(missing_ok=True)
    os.mkfifo(KMSG, 0o640)
    # The journal's daemon writes into it before it reads, and would wait for a reader for ever.
    with open(os.open(KMSG, os.O_RDWR), "r+b", buffering=0) as pipe:
        subprocess.Popen(["sleep", "infinity"], stdin=pipe, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def uvm_device(misc: Path = Path("/proc/misc")) -> tuple[int, int]:
    """Major and minor number of the device that stands in for nvidia-uvm on this kernel."""
    names = misc.read_text().split()[1::2] if misc.exists() else []
    return next((number for name, number in UVM_DEVICES.items() if name in names), ZERO)


def _proc_devices(version: str, uvm_major: int, real: Path = Path("/proc/devices")) -> str:
    """/proc/devices of this kernel with the driver's classes, first of the character devices."""
    cards = ("nvidia-frontend",) if int(version.split(".")[0]) < FRONTEND_BEFORE else ("nvidia", "nvidiactl")
    lines = [f"{NVIDIA_MAJOR} {name}" for name in cards] + [f"{uvm_major:3} nvidia-uvm"]
    return real.read_text().replace("Character devices:\n", "\n".join(["Character devices:", *lines, ""]), 1)


def _fill_pci(directory: Path, cards: Sequence[dict[str, Any]], driver: str | None) -> None:
    """The cards as in /sys/bus/pci/devices (Linux: Documentation/ABI/testing/sysfs-bus-pci)."""
    for card in cards:
        device, kind = PCI_IDS.get(card["name"], ("0x0000", "0x030200"))
        place = directory / card["pci_bus_id"].lower()[4:]
        place.mkdir(parents=True, exist_ok=True)
        for name, text in {"vendor": "0x10de", "device": device, "class": kind}.items():
            (place / name).write_text(f"{text}\n")
        if driver:
            (place / "driver").unlink(missing_ok=True)
            (place / "driver").symlink_to(f"../../../bus/pci/drivers/{driver}")
    directory.mkdir(exist_ok=True)


def _proc_modules(names: Sequence[str]) -> str:
    """Lines as in /proc/modules (`man 5 proc`): size, users, who they are, state, address; sizes are made up."""
    users = {name: [other for other in names if other.startswith(f"{name}_")] for name in names}
    return "".join(
        f"{name} 1048576 {len(users[name])} {''.join(f'{user},' for user in users[name]) or '-'} Live "
        f"0x0000000000000000{' (POE)' if name.startswith('nvidia') else ''}\n"
        for name in reversed(names)
    )


def _version_key(text: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", text)]


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
