"""`flexi accounts` and `flexi agreements`."""

from __future__ import annotations

import json
import sys
from typing import Any

import click
from rich.console import Console

from flexi.accounts import show
from flexi.accounts.host import ask, chat_of
from flexi.cli.options import json_option, site_argument
from flexi.configfile.names import mail_address
from flexi.errors import InputError
from flexi.plan import build_plan
from flexi.plan.model.site import Plan
from flexi.site import find_site, load_site


def _plan(site: str) -> Plan:
    return build_plan(load_site(find_site(site)))


def _print(value: object) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


class Mail(click.ParamType[str]):
    """A mail address, in small letters as the chat keeps it."""

    name = "mail"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return mail_address(str(value)).lower()
        except ValueError:
            self.fail(f"{value!r} is no mail address", param, ctx)


@click.group("accounts")
def accounts() -> None:
    """Accounts of the chat: those with a password of the chat's own, and those that came from a directory."""


@accounts.command("list")
@site_argument
@json_option
def list_all(site: str, as_json: bool) -> None:
    """Show all accounts: who, since when, seen when, and whether they accepted the agreement."""
    rows = ask(_plan(site), "list")["accounts"]
    if as_json:
        _print({"schema": 1, "accounts": [show.account(row) for row in rows]})
    else:
        show.accounts(rows, Console(highlight=False))


@accounts.command("add")
@site_argument
@click.argument("mail", type=Mail())
@click.option("--name", help="The person's name; default: the mail address.")
@json_option
def add(site: str, mail: str, name: str | None, as_json: bool) -> None:
    """Make an account for MAIL and show its password once; its owner changes it on the page."""
    plan = _plan(site)
    _needs_passwords(plan)
    _hand_out(ask(plan, "add", "--", mail, name or mail), as_json)


@accounts.command("reset")
@site_argument
@click.argument("mail", type=Mail())
@json_option
def reset(site: str, mail: str, as_json: bool) -> None:
    """Give the account MAIL another password and show it once. All its sessions end."""
    plan = _plan(site)
    _needs_passwords(plan)
    _hand_out(ask(plan, "reset", mail), as_json)


@accounts.command("remove")
@site_argument
@click.argument("mail", type=Mail())
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def remove(site: str, mail: str, yes: bool, as_json: bool) -> None:
    """Remove the account MAIL with its chats, its files and the record of what it accepted."""
    plan = _plan(site)
    chat_of(plan)
    if not yes:
        if not sys.stdin.isatty():
            raise InputError(f"remove deletes {mail}'s chats and files: say --yes where nobody can be asked")
        click.confirm(f"Delete {mail} with all chats and files?", abort=True, err=True)
    said = ask(plan, "remove", mail)
    if as_json:
        _print({"schema": 1, "removed": said["mail"], "files": said["files"]})
    else:
        click.echo(f"removed: {said['mail']}")


@click.command("agreements")
@site_argument
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values for a spreadsheet.")
@json_option
def agreements(site: str, as_csv: bool, as_json: bool) -> None:
    """Show who accepted which version of the chat's user agreement, and when."""
    if as_csv and as_json:
        raise InputError("--csv and --json: choose one of the two")
    rows = ask(_plan(site), "agreements")["agreements"]
    if as_json:
        _print({"schema": 1, "agreements": [show.acceptance(row) for row in rows]})
    elif as_csv:
        show.write_csv(rows, sys.stdout)
    else:
        show.acceptances(rows, Console(highlight=False))


def _needs_passwords(plan: Plan) -> None:
    if not chat_of(plan).sign_in.local:
        raise InputError("chat.sign_in.local is false: accounts come from the directory, with its passwords")


def _hand_out(said: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print({"schema": 1, **said})
    else:
        click.echo(said["password"])
        click.echo(f"{said['mail']}'s password; it is shown only now.", err=True)
