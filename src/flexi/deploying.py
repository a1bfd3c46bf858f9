"""`flexi deploy`: a thin wrapper that prints and runs pyinfra, then waits for the models."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from flexi import status, verifying
from flexi.errors import EXIT_FAILED, EXIT_OK, FlexiError, InputError
from flexi.paths import ROOT
from flexi.plan import build_plan
from flexi.plan.model import Plan
from flexi.site import load_site

READY_TIMEOUT_S = 6 * 3600
"""300 GB of weights over a gigabit line take most of an hour; a slow mirror several."""


def inventory_file(site_file: Path) -> Path:
    """The two-line pyinfra inventory beside a site file; InputError where it is missing."""
    path = site_file.with_suffix(".py")
    if not path.exists():
        raise InputError(f"{path} is missing: copy inventory/example.py to it (two lines, the same for every site)")
    return path


def pyinfra_command(site_file: Path, *, dry: bool = False, limit: Sequence[str] = ()) -> list[str]:
    """The command that an admin could type as well, run from the checkout."""
    command = [str(Path(sys.executable).with_name("pyinfra"))]
    # pyinfra tells its story on standard error; with --json the outcome of each host is on standard output.
    command += ["--dry"] if dry else ["-y", "--json"]
    for host in limit:
        command += ["--limit", host]
    path = inventory_file(site_file).resolve()
    return [*command, str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path), "deploy.py"]


def failed_hosts(output: str) -> list[str]:
    """Hosts that pyinfra's --json names as failed; empty where it ended before it could say so."""
    try:
        return [str(name) for name in json.loads(output)["results"]["failed_hosts"]]
    except (ValueError, KeyError, TypeError):
        return []


def changes(output: str) -> int:
    """How many operations changed something, summed over the hosts."""
    return int(json.loads(output)["results"]["totals"]["success"])


def deploy(plan: Plan, site_file: Path, console: Console, *, dry: bool, limit: Sequence[str], wait: bool) -> int:
    """Run pyinfra and, unless told otherwise, wait for the models; returns the exit status."""
    known = [host.name for host in plan.hosts]
    for name in limit:
        if name not in known:
            raise InputError(f"--limit {name}: the site has no such host; it has {', '.join(known)}")
    command = pyinfra_command(site_file, dry=dry, limit=limit)
    console.print(f"$ {shlex.join(command)}", highlight=False, soft_wrap=True)
    done = subprocess.run(command, cwd=ROOT, stdout=None if dry else subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        failed = failed_hosts(done.stdout or "") or list(limit) or known
        raise FlexiError(f"see above why; safe to run again once it is mended. Not deployed: {', '.join(failed)}")
    if dry:
        return EXIT_OK
    changed = changes(done.stdout)
    console.print(f"{changed} operations changed something", highlight=False)
    waited_for = [host.name for host in plan.hosts if host.agent and (not limit or host.name in limit)]
    if not wait or not waited_for:
        return EXIT_OK
    result = status.wait_until_ready(
        plan,
        console,
        READY_TIMEOUT_S,
        lambda plan: status.read_all(plan, waited_for),
        settle_s=status.SETTLE_S if changed else 0.0,
    )
    if not result.ready:
        for point in result.open_points:
            console.print(f"not ready: {point}", highlight=False, markup=False)
        return EXIT_FAILED
    where = f" on {', '.join(waited_for)}" if limit else ""
    console.print(f"all models{where} are loaded ({result.seconds:.0f} s)", highlight=False)
    return EXIT_OK


def deploy_and_verify(site_file: Path, console: Console) -> int:
    """What `lab up` does with machines that are up: deploy, wait for the models, check; returns the exit status."""
    plan = build_plan(load_site(site_file))
    status_of_deploy = deploy(plan, site_file, console, dry=False, limit=(), wait=True)
    if status_of_deploy != EXIT_OK:
        return status_of_deploy
    health = verifying.verify(site_file)
    verifying.show(health, console)
    return health.exit_status
