"""`flexi test`."""

from __future__ import annotations

import sys

import click

from flexi.cli.options import out
from flexi.selftest import tiers


@click.command("test")
@click.argument("tier", type=click.Choice(["all", "quick", "lab"]), default="all")
@click.argument("pytest_args", nargs=-1, type=click.UNPROCESSED)
def run_tests(tier: str, pytest_args: tuple[str, ...]) -> None:
    """Run flexi's own tests: `quick` (no root, no network), `lab` (end to end), or all of them."""
    sys.exit(tiers.run(tiers.Tier(tier), pytest_args, out()))
