"""`flexi lab`: build, use, break and remove labs on this machine."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from flexi.errors import EXIT_FAILED, EXIT_OK, FlexiError
from flexi.lab.gpu_sim.smi import EVENT_REASONS
from flexi.lab.lifecycle import Lab
from flexi.lab.machine import Machine
from flexi.lab.naming import DEFAULT
from flexi.lab.progress import Shown
from flexi.lab.requirements import require_root
from flexi.lab.topology import MACHINES
from flexi.lab.vendor.archives import DAYS

AfterUp = Callable[[Lab], int]
after_up: AfterUp | None = None
"""What `up` does once the machines run: deploy and verify its site file, return the exit status. The command line
sets it, so that the lab does not know the layers above it."""

name_option = click.option("--name", default=DEFAULT, show_default=True, help="Which lab.")


def _console() -> Console:
    return Console(highlight=False)


@click.group()
def lab() -> None:
    """A local lab: real machines under systemd, reached over SSH, with simulated GPUs. Needs root."""


@lab.command()
@click.option("--fresh", is_flag=True, help="Discard the machines and make new ones.")
@name_option
@click.option(
    "--ollama-archive",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Serve this real Ollama release (ollama-linux-amd64.tar.zst) instead of the simulated one.",
)
@click.option("--machines-only", is_flag=True, help="Do not deploy: only bare machines.")
@click.option(
    "--with",
    "more",
    multiple=True,
    type=click.Choice([spec.name for spec in MACHINES if not spec.by_default]),
    help="A further machine, of another platform; not in inventory/lab.yaml. Can be repeated.",
)
def up(fresh: bool, name: str, ollama_archive: Path | None, machines_only: bool, more: tuple[str, ...]) -> None:
    """Build the lab, deploy to it and verify it. Safe to repeat."""
    console = _console()
    what = Lab(name)
    try:
        what.up(more=more, fresh=fresh, ollama_archive=ollama_archive, progress=Shown(console))
    except KeyboardInterrupt:
        again = "" if name == DEFAULT else f" --name {name}"
        raise FlexiError(f"interrupted: ./flexi lab up{again} goes on, ./flexi lab down{again} cleans up") from None
    if after_up is not None and not machines_only:
        sys.exit(after_up(what))


@lab.command()
@name_option
def down(name: str) -> None:
    """Remove the lab: machines, network, files. Nothing stays but the cached base image."""
    Lab(name).down()


@lab.command()
@name_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON for a program instead of text.")
def status(name: str, as_json: bool) -> None:
    """Show the lab's machines; exit status 1 unless all run."""
    require_root()
    rows = Lab(name).status()
    if as_json:
        click.echo(json.dumps({"lab": name, "machines": [asdict(row) for row in rows]}, indent=2))
    else:
        shown = Table("machine", "platform", "state", "address", "GPUs")
        for row in rows:
            shown.add_row(row.name, row.platform, row.state, row.address, row.gpus)
        _console().print(shown)
    sys.exit(EXIT_OK if all(row.state == "running" for row in rows) else EXIT_FAILED)


@lab.command("ssh", context_settings={"ignore_unknown_options": True})
@name_option
@click.argument("host")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh_(name: str, host: str, command: tuple[str, ...]) -> None:
    """Log in to HOST as its admin user, or run a command there: flexi lab ssh HOST -- COMMAND …"""
    what = Lab(name)
    what.machine(host)
    if not what.ssh_config.exists():
        raise FlexiError(f"the lab '{name}' is not up: ./flexi lab up")
    os.execvp("ssh", ["ssh", "-F", str(what.ssh_config), host, *command])


@lab.command()
@name_option
def env(name: str) -> None:
    """Print shell assignments for clients of the lab: eval "$(./flexi lab env)"."""
    for key, value in Lab(name).env().items():
        click.echo(f"export {key}={shlex.quote(value)}")


@lab.command()
@name_option
@click.option("--hard", is_flag=True, help="Cut the power instead of asking the machine.")
@click.argument("host")
def reboot(name: str, hard: bool, host: str) -> None:
    """Reboot HOST and wait until it can be reached again."""
    require_root()
    Lab(name).machine(host).reboot(hard=hard)


@lab.command()
@name_option
@click.argument("host")
def kill(name: str, host: str) -> None:
    """Cut the power of HOST; it stays off until the next `lab up`."""
    require_root()
    Lab(name).machine(host).kill()


@lab.command()
@name_option
@click.argument("archive", type=click.Choice(list(DAYS)))
def archive(name: str, archive: str) -> None:
    """Let the vendors' archives be as on another day; machines see it with their next apt-get update."""
    Lab(name).archive(archive)


@lab.group()
@name_option
@click.argument("host")
@click.pass_context
def fault(context: click.Context, name: str, host: str) -> None:
    """Break something in HOST's GPUs or driver, or mend it: flexi lab fault HOST lost --gpu 3."""
    require_root()
    context.obj = Lab(name).machine(host)


gpu_option = click.option("--gpu", default=0, show_default=True, help="Index of the GPU.")


@fault.command()
@click.pass_obj
def mismatch(machine: Machine) -> None:
    """The driver's library was upgraded under the running kernel module."""
    machine.mismatch()


@fault.command()
@gpu_option
@click.option("--at-boot", is_flag=True, help="Not now: the next boot does not find it.")
@click.pass_obj
def lost(machine: Machine, gpu: int, at_boot: bool) -> None:
    """A GPU has fallen off the bus. It also stays away over a reboot, until `clear`."""
    machine.lose(gpu, at_boot=at_boot)


@fault.command()
@gpu_option
@click.pass_obj
def reset(machine: Machine, gpu: int) -> None:
    """A GPU requires a reset: it is listed without numbers, and computes nothing."""
    machine.require_reset(gpu)


@fault.command()
@gpu_option
@click.pass_obj
def inforom(machine: Machine, gpu: int) -> None:
    """A GPU's infoROM is corrupted: nvidia-smi warns and ends with 14, the card computes."""
    machine.corrupt_inforom(gpu)


@fault.command("another-card")
@gpu_option
@click.option("--model", default="Tesla T4", show_default=True, help="Its name as in nvidia-smi.")
@click.option("--mib", default=15_360, show_default=True, type=click.IntRange(min=1), help="Its memory, in MiB.")
@click.pass_obj
def another_card(machine: Machine, gpu: int, model: str, mib: int) -> None:
    """A GPU is another model than the site file says, as after a repair."""
    machine.other_card(gpu, model, mib)


@fault.command()
@click.pass_obj
def uvm(machine: Machine) -> None:
    """The module nvidia_uvm is not loaded and cannot be: nvidia-smi is well, and no instance may start now."""
    machine.unload_uvm()


@fault.command()
@gpu_option
@click.option("--count", default=1, show_default=True, type=click.IntRange(min=1), help="Errors so far.")
@click.pass_obj
def ecc(machine: Machine, gpu: int, count: int) -> None:
    """A GPU counts uncorrected memory errors."""
    machine.ecc_errors(gpu, count)


@fault.command()
@gpu_option
@click.option("--mib", default=20_000, show_default=True, type=click.IntRange(min=1), help="How much, in MiB.")
@click.pass_obj
def memory(machine: Machine, gpu: int, mib: int) -> None:
    """Somebody else has taken memory of a GPU, and no process is to be seen."""
    machine.foreign_memory(gpu, mib)


@fault.command()
@gpu_option
@click.option("--mib", default=8_000, show_default=True, type=click.IntRange(min=1), help="How much, in MiB.")
@click.pass_obj
def process(machine: Machine, gpu: int, mib: int) -> None:
    """Somebody else computes on a GPU: a process of the admin's."""
    click.echo(machine.foreign_process(gpu, mib))


@fault.command()
@gpu_option
@click.option("--reason", default="hw_thermal_slowdown", show_default=True, type=click.Choice(list(EVENT_REASONS)))
@click.pass_obj
def throttle(machine: Machine, gpu: int, reason: str) -> None:
    """A GPU slows down."""
    machine.throttle(gpu, reason)


@fault.command()
@gpu_option
@click.option("--code", default=79, show_default=True, type=click.IntRange(min=1), help="The Xid.")
@click.pass_obj
def xid(machine: Machine, gpu: int, code: int) -> None:
    """The driver writes an Xid message into the kernel log (journalctl -k)."""
    machine.xid(gpu, code)


@fault.command()
@gpu_option
@click.option("--running", is_flag=True, help="At once, without switching the machine off.")
@click.pass_obj
def replace(machine: Machine, gpu: int, running: bool) -> None:
    """Another card in the place of a GPU, which has another UUID; `clear` does not bring the old one back."""
    click.echo(machine.replace_gpu(gpu, power_off=not running))


@fault.command()
@click.pass_obj
def clear(machine: Machine) -> None:
    """Mend all of HOST's faults."""
    machine.clear_faults()
