"""`flexi check` and `flexi plan`: the site file, without touching a host."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

from flexi.bundle.checking import SupplyError
from flexi.bundle.checking import check as check_supplies
from flexi.cli.options import json_option, load, out, print_json, site_argument
from flexi.configfile.findings import Finding
from flexi.errors import EXIT_BAD_INPUT, InputError
from flexi.local_files import private
from flexi.plan.render import render_plan
from flexi.site import SiteError
from flexi.terminal.bars import Bars


@click.command()
@site_argument
@json_option
def check(site: str, as_json: bool) -> None:
    """Read the site file and say whether it can be deployed. Touches no host."""
    if as_json:
        check_for_programs(site)
        return
    path, plan = load(site)
    with Bars(Console(stderr=True)) as bars:
        check_supplies(plan, site, bars)
    for warning in (*plan.warnings, *private.warnings(plan)):
        click.echo(f"{warning.where}: warning: {warning.message}")
    models = sum(len(instance.models) for instance in plan.instances)
    click.echo(
        f"{path}: fine: {len(plan.hosts)} hosts, {len(plan.instances)} instances, {models} models, "
        f"{len(plan.gateway.consumers)} consumers"
    )


def check_for_programs(site: str) -> None:
    """`check --json`: warnings or findings on standard output; exit status 2 where there are findings."""
    report: dict[str, object] = {"schema": 1, "site": site}
    findings: tuple[Finding, ...] = ()
    try:
        path, plan = load(site)
        try:
            with Bars(Console(stderr=True)) as bars:
                check_supplies(plan, site, bars)
        except InputError as error:
            findings = (_finding(path, error),)
    except SiteError as error:
        findings = tuple(error.findings)
    if findings:
        print_json({**report, "ok": False, "findings": [vars(finding) for finding in findings]})
        sys.exit(EXIT_BAD_INPUT)
    warnings = [warning.model_dump(mode="json") for warning in (*plan.warnings, *private.warnings(plan))]
    print_json({**report, "site": plan.site, "ok": True, "warnings": warnings})


def _finding(site_file: Path, error: InputError) -> Finding:
    if isinstance(error, SupplyError):
        return Finding(str(site_file), 0, 0, error.path, None, error.reason, error.remedy)
    return Finding(str(site_file), 0, 0, "", None, str(error), "")


@click.command()
@site_argument
@json_option
def plan(site: str, as_json: bool) -> None:
    """Show what exactly would run where. Touches no host."""
    _, what = load(site)
    if as_json:
        print_json(what.model_dump(mode="json"))
    else:
        render_plan(what, out())
