"""`flexi verify`, `doctor` and `status`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from flexi import doctor
from flexi.cli.options import json_option, load, out, print_json, site_argument
from flexi.doctor import show as doctor_show
from flexi.doctor.watch import StatusWatch
from flexi.errors import EXIT_FAILED, EXIT_OK
from flexi.health import verify as verifying
from flexi.health.report import Check
from flexi.status import instances


@click.command()
@site_argument
@json_option
def verify(site: str, as_json: bool) -> None:
    """Check the running site, read-only: exit status 1 when anything is wrong."""
    path, _ = load(site)
    health = verifying.verify(path)
    if as_json:
        print_json(verifying.as_json(health))
    else:
        verifying.show(health, out())
    sys.exit(health.exit_status)


@click.command("doctor")
@site_argument
@click.option("--host", "hosts", multiple=True, metavar="HOST", help="Only this host (may be repeated).")
@json_option
def run_doctor(site: str, hosts: tuple[str, ...], as_json: bool) -> None:
    """Say what is wrong on the hosts, what it means for users, and what mends it. Changes nothing."""
    path, what = load(site)
    progress = Console(stderr=True, highlight=False)
    examination = doctor.examine(site, what, hosts, progress, checks=lambda: service_checks(path))
    if as_json:
        print_json(doctor_show.as_json(examination))
    else:
        doctor_show.show(examination, out())
    sys.exit(examination.exit_status)


def service_checks(site_file: Path) -> Sequence[Check]:
    """Run the health checks that ask the service as its users do."""
    return verifying.verify(site_file, verifying.SERVICE_CHECKS).checks


@click.command("status")
@site_argument
@click.option("--once", is_flag=True, help="Do not refresh; so it is anyway where the output is no terminal.")
@click.option("--quick", is_flag=True, help="The service alone: nothing of disks, packages, kernels and cards.")
@json_option
def show_status(site: str, once: bool, quick: bool, as_json: bool) -> None:
    """Show every model on every instance, the gateway's queues, who uses what, the chat, and what is wrong.

    On a terminal until Ctrl-C. Exit status 1 where something is wrong, as of `verify` and `doctor`.
    """
    _, what = load(site)
    console = out()
    watch = StatusWatch(site, what, quick)
    if console.is_terminal and not (once or as_json):
        sys.exit(EXIT_OK if instances.watch(what, console, watch.read) else EXIT_FAILED)
    seen, examination = watch.take()
    if as_json:
        print_json(instances.as_json(what, seen, not examination.errors, doctor_show.findings_as_json(examination)))
    else:
        instances.show(what, seen, console, doctor_show.verdict(examination, site))
    sys.exit(examination.exit_status)
