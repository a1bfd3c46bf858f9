"""A control group for each machine, so that its systemd has a tree of its own.

On a machine that runs systemd a scope gives that (`systemd-run --scope -p Delegate=yes`). Elsewhere all containers
would share their starter's groups, and two `ssh.service` of two machines would be one.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

_MOUNT = re.compile(r"\S+ \S+ \S+ \S+ (\S+) .* - (cgroup2?) \S+ (\S+)$", re.MULTILINE)
_OF_SYSTEMD = ("", "name=systemd")
"""Version 2, and version 1's hierarchy without a controller: nspawn shows the others read-only."""


def systemd_runs_here() -> bool:
    return Path("/run/systemd/system").is_dir()


def join(group: str) -> None:
    """Move this process into the group `group` (a relative path) below its present one, where systemd keeps its own."""
    mounts = _mounts()
    for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
        _, controllers, present = line.split(":", 2)
        mount = mounts.get(controllers)
        if mount is None or controllers not in _OF_SYSTEMD:
            continue
        directory = mount / present.lstrip("/") / group
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cgroup.procs").write_text(f"{os.getpid()}\n", encoding="ascii")


def remove(name: str) -> None:
    """Remove all groups called `name` with everything below; they must have no process left."""
    for mount in set(_mounts().values()):
        for path, names, _ in os.walk(mount):
            if name in names:
                _remove_tree(Path(path) / name)
                names.remove(name)


def _remove_tree(group: Path) -> None:
    for path, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):
            Path(path).rmdir()


def _mounts() -> dict[str, Path]:
    """Mount points by controllers, written as in /proc/self/cgroup; version 2 is the empty string."""
    found: dict[str, Path] = {}
    for point, kind, options in _MOUNT.findall(Path("/proc/self/mountinfo").read_text(encoding="ascii")):
        if kind == "cgroup2":
            found[""] = Path(point)
        else:
            words = [word for word in options.split(",") if word not in ("rw", "ro", "xattr", "clone_children")]
            words = [word for word in words if not word.startswith("release_agent=")]
            found[",".join(words)] = Path(point)
    return found
