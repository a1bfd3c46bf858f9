"""`flexi deploy`, `rollback` and `remove`."""

from __future__ import annotations

import sys

import click
from rich.console import Console

from flexi.bundle.checking import check as check_supplies
from flexi.cli.options import load, out, site_argument
from flexi.deploy import run as deploying
from flexi.errors import InputError
from flexi.terminal.bars import Bars


@click.command()
@site_argument
@click.option("--dry", is_flag=True, help="Only show what would change.")
@click.option("--limit", multiple=True, metavar="HOST", help="Only this host (may be repeated).")
@click.option("--no-wait", is_flag=True, help="Do not wait until the models are loaded.")
@click.option("--allow-reboot", is_flag=True, help="Reboot hosts whose driver or kernel needs it, one after the other.")
@click.option("--update", is_flag=True, help="Also bring driver and kernel to the newest of their branch.")
@click.option("--accept-gpus", multiple=True, metavar="HOST", help="Take HOST's cards as they are: some were replaced.")
@click.option(
    "--leave-chats", default="", metavar="PLACE", help="Let the chat begin anew: its chats in PLACE stay there."
)
def deploy(
    site: str,
    dry: bool,
    limit: tuple[str, ...],
    no_wait: bool,
    allow_reboot: bool,
    update: bool,
    accept_gpus: tuple[str, ...],
    leave_chats: str,
) -> None:
    """Make the hosts what the site file says. Running it again changes nothing."""
    path, what = load(site)
    with Bars(Console(stderr=True)) as bars:
        check_supplies(what, site, bars)
    wish = deploying.Wish(limit, allow_reboot, update, accept_gpus, leave_chats=leave_chats)
    sys.exit(deploying.deploy(what, path, out(), wish, dry=dry, wait=not no_wait))


@click.command()
@site_argument
@click.option("--host", "hosts", multiple=True, metavar="HOST", help="Only this host (may be repeated).")
@click.option("--chat", is_flag=True, help="The chat's Open WebUI instead, with all that was said since.")
def rollback(site: str, hosts: tuple[str, ...], chat: bool) -> None:
    """Go back to the Ollama release before the present one, host by host, without a download."""
    path, what = load(site)
    if chat:
        if hosts:
            raise InputError("--host: the chat is on one host; leave it out")
        sys.exit(deploying.roll_back_chat(what, path, out()))
    sys.exit(deploying.roll_back(what, path, out(), deploying.Wish(limit=hosts)))


@click.command()
@site_argument
@click.argument("host")
@click.option("--dry", is_flag=True, help="Only show what would be stopped and removed.")
@click.option("--purge", is_flag=True, help="Remove the models and the chats too, not only flexi.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(site: str, host: str, dry: bool, purge: bool, yes: bool) -> None:
    """Drain HOST, stop its instances and take flexi off it. The driver stays; models and chats unless purged."""
    path, what = load(site)
    deploying.check_removable(what, host)
    lost = deploying.last_homes(what, host)
    if lost:
        click.echo(f"No other host has {', '.join(lost)}.", err=True)
    if not (yes or dry):
        if not sys.stdin.isatty():
            raise InputError(f"remove takes {host} out of service: say --yes where nobody can be asked")
        click.confirm(f"Take {host} out of service and flexi off it?", abort=True)
    sys.exit(deploying.remove(what, path, out(), host, purge=purge, dry=dry))
