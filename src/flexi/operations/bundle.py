"""Files of the admin's machine that a host needs: a bundle's packages and models, Ollama's archive."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from pyinfra import host
from pyinfra.api import FunctionCommand, QuoteString, StringCommand, operation
from pyinfra.api.host import Host
from pyinfra.api.state import State
from rich.console import Console
from rich.filesize import decimal

from flexi.bundle import manifest
from flexi.components.bundle import INCOMING
from flexi.errors import FlexiError
from flexi.facts.bundle import BundleFiles
from flexi.operations.host_failure import fail_host, report_failure
from flexi.plan.model.site import HostPlan
from flexi.ssh import pushing
from flexi.ssh.pushing import Item
from flexi.terminal.bars import Bars


@operation()
def receive(
    host_plan: HostPlan, part: str, owner: str = "root"
) -> Generator[StringCommand | FunctionCommand, None, None]:
    """Bring what the host needs of a part of its bundle (apt, models), and remove what an older bundle left of it, and
    halves of transfers that nothing will continue."""
    assert host_plan.bundle is not None
    stored = host.get_fact(BundleFiles, home=host_plan.bundle.home)
    folder = Path(host_plan.bundle.folder)
    try:
        made = manifest.read(folder)
    except FlexiError as error:
        yield fail_host(str(error))
        return
    wanted = made.of_host(host_plan, (part,))
    missing = [
        Item(folder / path, path, file.sha256, file.size)
        for path, file in wanted.items()
        if stored.files.get(path) != file.sha256
    ]
    halves = {f"{INCOMING}/{file.sha256}" for file in made.of_host(host_plan).values()}
    old = sorted(p for p in set(stored.files) - set(wanted) - halves if p.startswith((f"{part}/", f"{INCOMING}/")))
    if not missing and not old:
        host.noop("all of it is there")
        return
    needed = sum(item.size for item in missing)
    if needed > stored.free_bytes:
        yield fail_host(
            f"{host_plan.bundle.home} needs {decimal(needed)} and has {decimal(stored.free_bytes)} free: make room"
        )
        return
    if missing:
        yield FunctionCommand(push_files, (missing, host_plan.bundle.home, owner), {})
    if old:
        script = f"cd {host_plan.bundle.home} && rm -f -- {shlex.join(old)}"
        yield StringCommand("sh", "-c", QuoteString(script))


def push_files(state: State, host: Host, items: Sequence[Item], home: str, owner: str = "root") -> bool:
    """Send files to the host as its plan says how to reach it; False, with the reason, where that fails."""
    try:
        with _shared_bars() as bars:
            pushing.push(host.data.flexi_host.ssh, items, home, bars, owner)
    except FlexiError as error:
        return report_failure(state, host, str(error))
    return True


_BARS: list[Bars] = []
"""In use now, one entry for each host that is being sent to: they share a place on the terminal."""


@contextlib.contextmanager
def _shared_bars() -> Iterator[Bars]:
    bars = _BARS[0] if _BARS else Bars(Console(stderr=True))
    if not _BARS:
        bars.__enter__()
    _BARS.append(bars)
    try:
        yield bars
    finally:
        _BARS.pop()
        if not _BARS:
            bars.__exit__(None, None, None)
