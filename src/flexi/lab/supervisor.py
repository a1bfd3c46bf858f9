"""One machine's power supply: runs systemd-nspawn, and runs it again when the machine reboots.

Started detached, in the machine's network namespace and in a mount namespace of its own: the overlay that is the
machine's disk, and whatever nspawn mounts, ends with this process, however it ends.

Usage: python -m flexi.lab.supervisor DIRECTORY   (with machine.json in it)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from flexi.errors import FlexiError

from . import cache, cgroups, processes

SPEC_FILE = "machine.json"
PID_FILE = "supervisor.pid"
POWER_PID_FILE = "power.pid"
AGAIN_FILE = "power-on-again"
"""Made by who cuts the power and wants the machine to boot afterwards."""
REBOOT = 133
"""systemd-nspawn's exit status when the machine inside asked for a reboot and nobody else can do it."""
ENVIRONMENT = os.environ | {"SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"}
"""/proc/sys/net belongs to the machine's own network namespace, so it may write there; the rest is the host's."""
NSPAWN_RUNTIME = Path("/run/systemd/nspawn")


@dataclass(frozen=True)
class Spec:
    """What the supervisor has to know about its machine."""

    hostname: str
    machine: str
    images: tuple[str, ...]
    """Cache entries of the platform's layer and of the base image."""
    lower: str
    """Their root directories, the upper one first: the overlay's lower layers."""
    namespace_path: str
    cgroup: str | None
    """Where the machine's control groups go; None where systemd has made a scope for us."""

    def write(self, directory: Path) -> None:
        (directory / SPEC_FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, directory: Path) -> Spec:
        """FlexiError where another version of flexi has made the machine."""
        values = json.loads((directory / SPEC_FILE).read_text(encoding="utf-8"))
        try:
            return cls(**{**values, "images": tuple(values["images"])})
        except (KeyError, TypeError):
            raise FlexiError(f"{directory.name} was made by another flexi: ./flexi lab up --fresh") from None


def nspawn_command(spec: Spec, root: Path) -> list[str]:
    return [
        # A killed nspawn leaves its machine running; as the first process of a pid namespace it takes it along.
        *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
        "systemd-nspawn",
        "--quiet",
        "--boot",
        f"--directory={root}",
        f"--machine={spec.machine}",
        f"--hostname={spec.hostname}",
        "--register=no",
        "--keep-unit",
        f"--network-namespace-path={spec.namespace_path}",
        # nftables is the machine's own affair: it has a network namespace for itself.
        "--capability=CAP_NET_ADMIN",
        "--resolv-conf=off",
        "--timezone=off",
        "--console=pipe",
    ]


def main(directory: Path) -> int:
    processes.myself().write(directory / PID_FILE)
    spec = Spec.read(directory)
    for image in spec.images:
        cache.hold(Path(image))
    if spec.cgroup is not None:
        cgroups.join(spec.cgroup)
    root = directory / "root"
    layers = f"lowerdir={spec.lower},upperdir={directory / 'upper'},workdir={directory / 'work'}"
    _run("mount", "-t", "overlay", "overlay", "-o", layers, str(root))
    # nspawn's locks and sockets would stay behind on the host.
    NSPAWN_RUNTIME.mkdir(parents=True, exist_ok=True)
    _run("mount", "-t", "tmpfs", "tmpfs", str(NSPAWN_RUNTIME))
    return supervise(spec, root, directory)


def supervise(spec: Spec, root: Path, directory: Path) -> int:
    """Boot the machine again and again until it is switched off; the exit status."""
    while True:
        status = _boot(spec, root, directory)
        again = directory / AGAIN_FILE
        if status != REBOOT and not again.exists():
            print(f"{spec.hostname} is off: systemd-nspawn ended with status {status}", flush=True)
            return 0 if status == 0 else 1
        again.unlink(missing_ok=True)


def _boot(spec: Spec, root: Path, directory: Path) -> int:
    """Run the machine until it stops; nspawn's exit status."""
    command = nspawn_command(spec, root)
    # A killed supervisor takes its machine along.
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, env=ENVIRONMENT, preexec_fn=processes.die_with_parent
    ) as power:
        process = processes.Process.of(power.pid)
        if process is not None:
            process.write(directory / POWER_PID_FILE)
        return power.wait()


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
