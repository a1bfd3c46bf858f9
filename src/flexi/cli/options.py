"""Arguments and options that mean the same in every command, and how results are printed."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console

from flexi.plan import build_plan
from flexi.plan.model.site import Plan
from flexi.site import find_site, load_site

site_argument = click.argument("site")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for a program instead of text.")


def out() -> Console:
    return Console(highlight=False)


def load(site: str) -> tuple[Path, Plan]:
    """Site file and plan of a site's name or path. SiteError with every finding where the file is wrong."""
    path = find_site(site)
    return path, build_plan(load_site(path))


def print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))
