"""`flexi backup` and `flexi restore`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.filesize import decimal

from flexi.backup import chat, keys
from flexi.cli.options import json_option, site_argument
from flexi.errors import InputError
from flexi.plan import build_plan
from flexi.plan.model.site import Plan
from flexi.site import find_site, load_site
from flexi.terminal.bars import Bars


def _load(site: str) -> Plan:
    return build_plan(load_site(find_site(site)))


@click.command("backup")
@site_argument
@click.option(
    "--to", type=click.Path(path_type=Path), default=Path(), metavar="DIR", help="Folder for the file; default: here."
)
@json_option
def backup(site: str, to: Path, as_json: bool) -> None:
    """Save the chat: users, chats, bots, files. Encrypted for chat.backup.recipients; nobody notices."""
    plan = _load(site)
    planned, _ = chat.chat_of(plan)
    recipients = keys.recipients(planned.recipients)
    with Bars(Console(stderr=True), quiet=as_json) as bars:
        saved = chat.backup(plan, recipients, to, bars)
    if as_json:
        report = {"schema": 1, "site": site, "host": saved.host, "file": str(saved.file), "bytes": saved.size}
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
        return
    keyholders = "1 recipient" if saved.recipients == 1 else f"{saved.recipients} recipients"
    click.echo(f"{saved.file}: {decimal(saved.size)}, encrypted for {keyholders}")


@click.command("restore")
@site_argument
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--identity",
    type=click.Path(path_type=Path),
    required=True,
    metavar="KEY",
    help="File with the private key; `-` reads it from standard input.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def restore(site: str, file: Path, identity: Path, yes: bool, as_json: bool) -> None:
    """Put the backup FILE in the place of all that the chat has. It is out of service for a moment."""
    plan = _load(site)
    planned, host = chat.chat_of(plan)
    identities = keys.identities(identity)
    chat.check(file, identities)
    if not yes:
        if as_json or not sys.stdin.isatty():
            raise InputError(f"restore replaces everything in the chat on {host.name}: say --yes where nobody is asked")
        click.confirm(f"Replace every user, chat and bot of {planned.url} by those of {file.name}?", abort=True)
    with Bars(Console(stderr=True), quiet=as_json) as bars:
        restored = chat.restore(plan, file, identities, bars)
    if as_json:
        report = {"schema": 1, "host": restored.host, "of": restored.site, "version": restored.version}
        click.echo(json.dumps({**report, "site": site, "made": restored.made}, indent=2, ensure_ascii=False))
        return
    click.echo(f"{restored.host}: the chat is back as it was at {restored.made} (Open WebUI {restored.version})")
