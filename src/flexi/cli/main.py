"""The command line. Exit status: 0 fine, 1 a check or a host failed, 2 the input is wrong (nothing was touched)."""

from __future__ import annotations

import sys

import click

from flexi.cli import (
    accounts,
    backup,
    bench,
    bundle,
    courses,
    deploy,
    health,
    keys,
    lab,
    lab_greeting,
    moodle,
    questions,
    selftest,
    site,
    usage,
)
from flexi.errors import EXIT_BAD_INPUT, EXIT_FAILED, FlexiError
from flexi.site import SiteError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name=None, version="0.1.0", prog_name="flexi")
def cli() -> None:
    """Open-weight language models on a university's own GPUs: deployed, kept right and proven.

    SITE is a name (inventory/SITE.yaml) or the path of a site file.
    """


COMMANDS: tuple[click.Command, ...] = (
    site.check,
    site.plan,
    deploy.deploy,
    deploy.rollback,
    deploy.remove,
    bundle.make_bundle,
    health.verify,
    health.run_doctor,
    health.show_status,
    usage.show_usage,
    bench.bench,
    selftest.run_tests,
    courses.courses,
    lab.lab,
    keys.keys,
    accounts.accounts,
    accounts.agreements,
    moodle.moodle,
    questions.questions,
    backup.backup,
    backup.restore,
)

for _command in COMMANDS:
    cli.add_command(_command)
lab.after_up = lab_greeting.after_lab_up


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
