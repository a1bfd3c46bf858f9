"""Whether this process can open the device node through which CUDA reaches the GPUs; the gate of an instance asks.

nvidia-smi opens /dev/nvidiactl and the node of each card itself, so its answer covers these. It never opens
/dev/nvidia-uvm, and without that Ollama finds no GPU and serves from the CPU.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
from pathlib import Path

UVM_CLASS = "nvidia-uvm"
"""Name of the device class in /proc/devices on every driver branch; its major number is given out at each load of the
module (NVIDIA, open-gpu-kernel-modules: NVIDIA_UVM_DEVICE_NAME and alloc_chrdev_region in kernel-open/nvidia-uvm)."""
UVM_MODULE = "sys/module/nvidia_uvm"
UVM_NODE = "dev/nvidia-uvm"
NODES_UNIT = "flexi-gpu-nodes.service"
"""Unit that loads the module and makes the node; every start of an instance starts it before."""

_LOOK = "'journalctl -u flexi-gpu-nodes' tells why"


def refusal(root: Path = Path("/")) -> str | None:
    """Open /dev/nvidia-uvm as this user, inside this process's device cgroup; return why it cannot be, in one line.

    Returns None where it opens.
    """
    fault = missing(root)
    if fault:
        return fault
    node = root / UVM_NODE
    try:
        os.close(os.open(node, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return _why(error, node)
    return None


def missing(root: Path = Path("/")) -> str | None:
    """Return why no process of this host can open /dev/nvidia-uvm, in one line; None where the right node is there.

    Nothing is opened: what holds for this process alone is left out.
    """
    node = root / UVM_NODE
    major = class_major(UVM_CLASS, root)
    if major is None and not (root / UVM_MODULE).exists():
        return f"the kernel module {UVM_CLASS} is not loaded, so CUDA would find no GPU; {_LOOK}"
    try:
        found = node.stat()
    except FileNotFoundError:
        return f"the device node /{UVM_NODE} is missing although {UVM_CLASS} is loaded; {_LOOK}"
    except OSError as error:
        return f"/{UVM_NODE} cannot be looked at: {error.strerror}"
    # Looked at before it is opened: with a number of yesterday it may be another driver's device.
    if not stat.S_ISCHR(found.st_mode) or major not in (None, os.major(found.st_rdev)):
        return (
            f"/{UVM_NODE} is not the node of {UVM_CLASS}, whose number is another since it was loaded last; "
            f"'systemctl start {NODES_UNIT}' makes it anew"
        )
    return None


def class_major(name: str, root: Path = Path("/")) -> int | None:
    """Return the major number of a class of character devices by /proc/devices; None where that does not list it."""
    try:
        text = (root / "proc/devices").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    characters = text.partition("Character devices:")[2].partition("Block devices:")[0]
    for line in characters.splitlines():
        words = line.split(None, 1)
        if len(words) == 2 and words[0].isdecimal() and words[1].strip() == name:
            return int(words[0])
    return None


def _why(error: OSError, node: Path) -> str:
    if error.errno == errno.EPERM:
        # Only the device cgroup answers so (devcgroup_check_permission in security/device_cgroup.c); a mode is EACCES.
        return (
            f"the unit's device cgroup refuses /{UVM_NODE}: {UVM_CLASS} was loaded after this start had begun, which "
            "the next start makes good, or the unit has no DeviceAllow=char-nvidia-uvm ('systemctl cat' shows it)"
        )
    if error.errno == errno.EACCES:
        found = node.stat()
        return (
            f"the user {_user()} may not open /{UVM_NODE}, which is {stat.filemode(found.st_mode)} and belongs to user "
            f"{found.st_uid} and group {found.st_gid}; give it mode 0666 as NVIDIA does, or the group video"
        )
    if error.errno in (errno.ENXIO, errno.ENODEV):
        return f"no driver stands behind /{UVM_NODE}; load {UVM_CLASS} again ('modprobe -r nvidia_uvm'), or reboot"
    return (
        f"/{UVM_NODE} does not open ({error.strerror}), so CUDA would find no GPU; "
        "'journalctl -k -g nvidia' tells what the driver says"
    )


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
