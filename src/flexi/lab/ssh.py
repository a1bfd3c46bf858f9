"""Keys and the OpenSSH configuration with which one reaches a lab's machines."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from .topology import ADMIN, UPLINK_NETWORK, MachineSpec

CONFIG = "ssh_config"
KEY = "key"
KNOWN_HOSTS = "known_hosts"


def outside_address(machine: MachineSpec, number: int) -> str:
    """Where this computer finds the machine of the lab with 10.86.`number`.0/24."""
    return f"{UPLINK_NETWORK}.{number}.{machine.host_byte}"


def make_key(path: Path, comment: str) -> str:
    """Make an Ed25519 key pair unless it is there; the public key's line."""
    public = path.with_name(path.name + ".pub")
    if not public.exists():
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)]
        subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
    return public.read_text(encoding="ascii").strip()


def config(directory: Path, machines: Sequence[MachineSpec], number: int) -> str:
    """The ssh_config of a lab in `directory`: by name or by the address that the site file says."""
    blocks = [
        f"""\
Host {machine.name} {machine.address}
  HostName {outside_address(machine, number)}
  User {ADMIN}
  IdentityFile "{directory / KEY}"
  IdentitiesOnly yes
  UserKnownHostsFile "{directory / KNOWN_HOSTS}"
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
"""
        for machine in machines
    ]
    return "\n".join(blocks)


def known_hosts(host_keys: Sequence[tuple[MachineSpec, str]], number: int) -> str:
    """Lines for known_hosts; `host_keys` holds each machine's public key line."""
    lines = []
    for machine, line in host_keys:
        names = [machine.name, machine.address, outside_address(machine, number)]
        lines.append(f"{','.join(names)} {' '.join(line.split()[:2])}\n")
    return "".join(lines)
