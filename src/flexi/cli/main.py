"""The command line. Exit status: 0 fine, 1 a check or a host failed, 2 the input is wrong (nothing was touched)."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console

from flexi import doctor
from flexi.bench import lab as lab_bench
from flexi.bench import preload as preload_bench
from flexi.bench.gateway import measure as gateway_bench
from flexi.bench.gateway import show as gateway_show
from flexi.bench.gateway.rivals import RIVALS
from flexi.bundle import command
from flexi.bundle.checking import SupplyError
from flexi.bundle.checking import check as check_supplies
from flexi.bundle.manifest import PARTS
from flexi.cli import accounts as accounts_commands
from flexi.cli import backup as saving_commands
from flexi.cli import courses as courses_commands
from flexi.cli import keys as keys_commands
from flexi.cli import lab as lab_commands
from flexi.cli import moodle as moodle_commands
from flexi.cli import questions as questions_commands
from flexi.configfile.findings import Finding
from flexi.deploy import run as deploying
from flexi.doctor import show as doctor_show
from flexi.doctor.watch import StatusWatch
from flexi.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_OK, FlexiError, InputError
from flexi.health import verify as verifying
from flexi.health.report import Check
from flexi.lab import chat_account as lab_account
from flexi.lab.lifecycle import Lab
from flexi.local_files import private
from flexi.paths import INVENTORY
from flexi.plan import build_plan
from flexi.plan.model.site import Plan
from flexi.plan.render import render_plan
from flexi.selftest import tiers
from flexi.site import SiteError, find_site, load_site
from flexi.status import instances
from flexi.terminal.bars import Bars
from flexi.usage import report as usage

site_argument = click.argument("site")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for a program instead of text.")


def out() -> Console:
    return Console(highlight=False)


def load(site: str) -> tuple[Path, Plan]:
    """Site file and plan of a site's name or path. SiteError with every finding where the file is wrong."""
    path = find_site(site)
    return path, build_plan(load_site(path))


def greeting(site_file: Path, plan: Plan) -> str:
    """How to talk to a lab that is up: one request for a model on each GPU host."""
    name = "" if site_file.parent == INVENTORY else f" --name {site_file.parents[1].name}"
    lines = ["", "Talk to it:", "", f'  eval "$(./flexi lab env{name})"']
    for host in (host for host in plan.hosts if host.ollama):
        assert host.ollama is not None
        models = [model for instance in host.ollama.instances for model in instance.models if not model.embedding]
        quickest = max(models, key=lambda model: model.tokens_per_second or 0.0)
        body = json.dumps({"model": quickest.name, "prompt": "Why is the sky blue?"})
        lines += ["", f"  # {quickest.name} on {host.name}", '  curl -H "Authorization: Bearer $FLEXI_API_KEY" \\']
        lines += [f"    $FLEXI_API_URL/api/generate -d '{body}'"]
    if plan.chat:
        lines += ["", "  # the chat, in a browser", '  echo "$FLEXI_CHAT_URL $FLEXI_CHAT_USER $FLEXI_CHAT_PASSWORD"']
    return "\n".join(lines)


def print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name=None, version="0.1.0", prog_name="flexi")
def cli() -> None:
    """Open-weight language models on a university's own GPUs: deployed, kept right and proven.

    SITE is a name (inventory/SITE.yaml) or the path of a site file.
    """


@cli.command()
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


@cli.command()
@site_argument
@json_option
def plan(site: str, as_json: bool) -> None:
    """Show what exactly would run where. Touches no host."""
    _, what = load(site)
    if as_json:
        print_json(what.model_dump(mode="json"))
    else:
        render_plan(what, out())


@cli.command()
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


@cli.command()
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


@cli.command("bundle")
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


@cli.command()
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


@cli.command()
@site_argument
@json_option
def verify(site: str, as_json: bool) -> None:
    """Check the running site, read-only: exit status 1 when anything is wrong."""
    path, _ = load(site)
    health = verifying.verify(path)
    if as_json:
        print_json(verifying.as_json(health))
    else:
        verifying.show(health, out())
    sys.exit(health.exit_status)


@cli.command("doctor")
@site_argument
@click.option("--host", "hosts", multiple=True, metavar="HOST", help="Only this host (may be repeated).")
@json_option
def run_doctor(site: str, hosts: tuple[str, ...], as_json: bool) -> None:
    """Say what is wrong on the hosts, what it means for users, and what mends it. Changes nothing."""
    path, what = load(site)
    progress = Console(stderr=True, highlight=False)
    examination = doctor.examine(site, what, hosts, progress, checks=lambda: service_checks(path))
    if as_json:
        print_json(doctor_show.as_json(examination))
    else:
        doctor_show.show(examination, out())
    sys.exit(examination.exit_status)


def service_checks(site_file: Path) -> Sequence[Check]:
    """Run the health checks that ask the service as its users do."""
    return verifying.verify(site_file, verifying.SERVICE_CHECKS).checks


@cli.command("status")
@site_argument
@click.option("--once", is_flag=True, help="Do not refresh; so it is anyway where the output is no terminal.")
@click.option("--quick", is_flag=True, help="The service alone: nothing of disks, packages, kernels and cards.")
@json_option
def show_status(site: str, once: bool, quick: bool, as_json: bool) -> None:
    """Show every model on every instance, the gateway's queues, who uses what, the chat, and what is wrong.

    On a terminal until Ctrl-C. Exit status 1 where something is wrong, as of `verify` and `doctor`.
    """
    _, what = load(site)
    console = out()
    watch = StatusWatch(site, what, quick)
    if console.is_terminal and not (once or as_json):
        sys.exit(EXIT_OK if instances.watch(what, console, watch.read) else EXIT_FAILED)
    seen, examination = watch.take()
    if as_json:
        print_json(instances.as_json(what, seen, not examination.errors, doctor_show.findings_as_json(examination)))
    else:
        instances.show(what, seen, console, doctor_show.verdict(examination, site))
    sys.exit(examination.exit_status)


@cli.command("usage")
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


@cli.group()
def bench() -> None:
    """Measurements, never part of the tests."""


@bench.command("lab")
@json_option
def bench_lab(as_json: bool) -> None:
    """Time `lab up`, cold and warm, in a lab of its own."""
    measurements = lab_bench.measure()
    if as_json:
        print_json(lab_bench.as_json(measurements))
    else:
        lab_bench.show(measurements, out())


@bench.command("preload")
@click.option("--name", default="lab", show_default=True, help="The lab, which must be up.")
@json_option
def bench_preload(name: str, as_json: bool) -> None:
    """Cut the power of the lab's servers, and time from power-on to each model's first token."""
    starts = preload_bench.measure(name, Console(stderr=True) if as_json else out())
    if as_json:
        print_json(preload_bench.as_json(starts))
    else:
        preload_bench.show(starts, out())


@bench.command("gateway")
@click.option("--name", default="bench", show_default=True, help="The lab that is made for it and removed after it.")
@click.option("--rival", "rivals", multiple=True, type=click.Choice(list(RIVALS)), help="Only this one; repeatable.")
@click.option("--markdown", type=click.Path(path_type=Path), metavar="FILE", help="Write the table here as well.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE", help="Draw a plot here (SVG).")
@json_option
def bench_gateway(name: str, rivals: tuple[str, ...], markdown: Path | None, plot: Path | None, as_json: bool) -> None:
    """Measure what the gateway costs, against the instances themselves and against other proxies."""
    run = gateway_bench.measure(name, rivals or tuple(RIVALS), Console(stderr=True, highlight=False))
    if markdown is not None:
        markdown.write_text(gateway_show.markdown(run), encoding="utf-8")
    if plot is not None:
        plot.write_text(gateway_show.svg(run), encoding="utf-8")
    if as_json:
        print_json(gateway_show.as_json(run))
    else:
        gateway_show.show(run, out())


@cli.command("test")
@click.argument("tier", type=click.Choice(["all", "quick", "lab"]), default="all")
@click.argument("pytest_args", nargs=-1, type=click.UNPROCESSED)
def run_tests(tier: str, pytest_args: tuple[str, ...]) -> None:
    """Run flexi's own tests: `quick` (no root, no network), `lab` (end to end), or all of them."""
    sys.exit(tiers.run(tiers.Tier(tier), pytest_args, out()))


cli.add_command(courses_commands.courses)
cli.add_command(lab_commands.lab)
cli.add_command(keys_commands.keys)
cli.add_command(accounts_commands.accounts)
cli.add_command(accounts_commands.agreements)
cli.add_command(moodle_commands.moodle)
cli.add_command(questions_commands.questions)
cli.add_command(saving_commands.backup)
cli.add_command(saving_commands.restore)


def _after_lab_up(lab: Lab) -> int:
    exit_status = deploying.deploy_and_verify(lab.site_file, out())
    if exit_status == EXIT_OK:
        lab_account.provide(lab)
        out().print(greeting(*load(str(lab.site_file))), soft_wrap=True)
    return exit_status


lab_commands.after_up = _after_lab_up


def main() -> None:
    """Entry point: a FlexiError is one clear message and its exit status, never a traceback."""
    try:
        sys.exit(cli.main(prog_name="flexi", standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_BAD_INPUT)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(130)
    except SiteError as error:
        click.echo(str(error), err=True)
        sys.exit(EXIT_BAD_INPUT)
    except FlexiError as error:
        click.echo(f"flexi: {error}", err=True)
        sys.exit(error.exit_status)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(EXIT_FAILED)
    except OSError as error:
        # This machine's doing: a full disk, a folder that is closed.
        what = f"{error.filename}: " if error.filename else ""
        click.echo(f"flexi: {what}{error.strerror or error}", err=True)
        sys.exit(EXIT_FAILED)
