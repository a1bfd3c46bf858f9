"""What the lab needs of the machine it runs on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from flexi.errors import InputError

SYSTEM_PACKAGES = tuple(
    line
    for line in Path(__file__).with_name("system-packages.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
)

_PROGRAM_OF_PACKAGE = {
    "systemd-container": "systemd-nspawn",
    "mmdebstrap": "mmdebstrap",
    "nftables": "nft",
    "iproute2": "ip",
    "openssh-client": "ssh-keygen",
    "zstd": "zstd",
    "apt-utils": "apt-ftparchive",
    "gpg": "gpg",
    "gpg-agent": "gpg-agent",
}
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def require_root() -> None:
    """InputError for anybody else: machines, networks and mounts are root's."""
    if os.geteuid() != 0:
        raise InputError("the lab makes machines and networks and needs root: run it with sudo")


def require_programs() -> None:
    """InputError that names the Debian packages to install where a program is missing."""
    missing = [
        package for package in SYSTEM_PACKAGES if shutil.which(_PROGRAM_OF_PACKAGE[package], path=_SYSTEM_PATH) is None
    ]
    if missing:
        raise InputError(f"the lab needs programs that are not installed: apt-get install {' '.join(missing)}")
