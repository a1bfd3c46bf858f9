"""`flexi usage`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import click

from flexi.cli.options import json_option, load, out, print_json, site_argument
from flexi.errors import InputError
from flexi.usage import report as usage


@click.command("usage")
@site_argument
@click.option("--since", default="7d", show_default=True, metavar="WHEN", help="7d, 12h, 4w, or a date.")
@click.option("--by", multiple=True, type=click.Choice(usage.BY), help="Sum by this (may be repeated).")
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values for a spreadsheet.")
@json_option
def show_usage(site: str, since: str, by: tuple[str, ...], as_csv: bool, as_json: bool) -> None:
    """Show who used which model how much: requests, refusals, tokens, waiting times."""
    if as_csv and as_json:
        raise InputError("--csv and --json: choose one of the two")
    _, what = load(site)
    found = usage.read(what, usage.moment(since, datetime.now(UTC)), tuple(dict.fromkeys(by)) or ("consumer", "model"))
    if as_json:
        print_json(usage.as_json(found, what.site))
    elif as_csv:
        usage.write_csv(found, sys.stdout)
    else:
        usage.show(found, out())
