"""`flexi bundle`: prepares, on a machine with internet, the folder from which a site deploys without any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal

from flexi.bundle.make import Summary, make
from flexi.bundle.manifest import PARTS
from flexi.errors import InputError
from flexi.plan import build_plan
from flexi.plan.model.site import Plan
from flexi.site import load_site
from flexi.terminal.bars import Bars


def given_sources(plan: Plan, arguments: Sequence[str]) -> dict[str, Path]:
    """`--sources FILE` or `PLATFORM=FILE`, by platform. InputError where one goes with no platform of the site."""
    platforms = list(dict.fromkeys(str(host.platform) for host in plan.hosts))
    found: dict[str, Path] = {}
    for argument in arguments:
        platform, sign, file = argument.partition("=")
        if not sign:
            if len(platforms) > 1:
                raise InputError(f"--sources {argument}: for which platform? Write {platforms[0]}={argument}")
            platform, file = platforms[0], argument
        if platform not in platforms:
            raise InputError(f"--sources {argument}: the site has no {platform}; it has {', '.join(platforms)}")
        found[platform] = Path(file)
        if not found[platform].is_file():
            raise InputError(f"--sources {argument}: there is no such file")
    return found


def bundle(
    site_file: Path,
    to: Path | None,
    sources: Sequence[str],
    only: Sequence[str],
    console: Console,
    *,
    kernels: Sequence[str],
    renew: bool,
    quiet: bool,
) -> Summary:
    """Make or complete the site's bundle. FlexiError and InputError as `make`."""
    site = load_site(site_file)
    plan = build_plan(site.from_its_makers())
    planned = site.beside(site.content.mirrors.bundle)
    folder = (to or Path(planned or "bundle")).absolute()
    with Bars(console, quiet=quiet) as bars:
        given = given_sources(plan, sources)
        return make(plan, folder, tuple(only) or PARTS, given, kernels=kernels, renew=renew, bars=bars)


def show(summary: Summary, site: str, console: Console) -> None:
    """What there is now, and what to do with it."""
    fetched = f"{summary.fetched_files} files, {decimal(summary.fetched_bytes)}" if summary.fetched_files else "nothing"
    console.print(
        f"{summary.folder}: {summary.files} files, {decimal(summary.bytes)}, every one checked; "
        f"fetched {fetched} in {summary.seconds:.0f} s",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"With mirrors.bundle set to this folder: ./flexi deploy {site}", highlight=False)


def as_json(summary: Summary, site: str) -> dict[str, object]:
    """For programs; sizes in bytes."""
    return {
        "schema": 1,
        "site": site,
        "folder": str(summary.folder),
        "parts": list(summary.parts),
        "files": summary.files,
        "bytes": summary.bytes,
        "fetched_files": summary.fetched_files,
        "fetched_bytes": summary.fetched_bytes,
        "mended": summary.mended,
        "seconds": round(summary.seconds, 1),
    }
