"""`flexi bundle`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from flexi.bundle import command
from flexi.bundle.manifest import PARTS
from flexi.cli.options import json_option, out, print_json, site_argument
from flexi.site import find_site


@click.command("bundle")
@site_argument
@click.option("--to", type=click.Path(path_type=Path), metavar="DIR", help="Default: mirrors.bundle, or ./bundle.")
@click.option("--sources", multiple=True, metavar="[PLATFORM=]FILE", help="Apt sources of a platform (deb822).")
@click.option("--only", multiple=True, type=click.Choice(PARTS), help="Only this part (may be repeated).")
@click.option("--kernel", "kernels", multiple=True, metavar="RELEASE", help="A kernel of the hosts (uname -r).")
@click.option("--renew", is_flag=True, help="Ask again for what is there: it may have become newer.")
@json_option
def make_bundle(
    site: str,
    to: Path | None,
    sources: tuple[str, ...],
    only: tuple[str, ...],
    kernels: tuple[str, ...],
    renew: bool,
    as_json: bool,
) -> None:
    """Prepare a folder from which the site deploys with no internet. Touches no host; run again, it only checks."""
    path = find_site(site)
    console = Console(stderr=as_json)
    summary = command.bundle(path, to, sources, only, console, kernels=kernels, renew=renew, quiet=as_json)
    if as_json:
        print_json(command.as_json(summary, site))
    else:
        command.show(summary, site, out())
