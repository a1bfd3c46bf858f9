"""`flexi moodle`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click
from rich.console import Console

from flexi.deploy import moodle as deploying
from flexi.errors import InputError
from flexi.moodle.steps import steps
from flexi.plan import build_plan
from flexi.plan.model.moodle import MoodlePlan
from flexi.plan.model.site import Plan
from flexi.site import Site, find_site, load_site


def _load(name: str) -> tuple[Site, Plan, MoodlePlan]:
    site = load_site(find_site(name))
    plan = build_plan(site)
    if plan.moodle is None:
        raise InputError(f"{site.shown_as}: names no Moodle; add moodle: {{url: …, model: …}}, see docs/chat/moodle.md")
    return site, plan, plan.moodle


@click.group("moodle")
def moodle() -> None:
    """A Moodle that the university runs: its AI provider."""


@moodle.command("deploy")
@click.argument("site")
@click.option("--dry", is_flag=True, help="Only show what would change.")
@click.option("--new-key", is_flag=True, help="Moodle makes itself another key; the one before stays good for a day.")
def deploy(site: str, dry: bool, new_key: bool) -> None:
    """Set up Moodle's AI provider by Moodle's own PHP, and let the gateway know its key. Again, it changes nothing."""
    found, plan, _ = _load(site)
    sys.exit(deploying.deploy(found, plan, Console(highlight=False), dry=dry, new_key=new_key))


@moodle.command("steps")
@click.argument("site")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for a program instead of text.")
def show_steps(site: str, as_json: bool) -> None:
    """Say what to enter in Moodle by hand, with the values filled in. Touches no host."""
    found, _, plan = _load(site)
    has_key = any(entry.name == plan.consumer for entry in found.entries)
    todo = steps(plan, site, has_key)
    if as_json:
        click.echo(json.dumps({"schema": 1, "steps": [asdict(step) for step in todo]}, indent=2, ensure_ascii=False))
        return
    for number, step in enumerate(todo, 1):
        click.echo(f"{number}. {step.title}")
        width = max((len(label) for label, _ in step.fields), default=0)
        for label, value in step.fields:
            click.echo(f"     {label:<{width}}  {value}")
        for note in step.notes:
            click.echo(f"   {note}")
        click.echo()
