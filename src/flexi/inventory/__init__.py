"""From a site file to pyinfra's inventory: `inventory/<site>.py` is two lines that call this."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from flexi.bundle.checking import check
from flexi.errors import EXIT_BAD_INPUT, InputError
from flexi.plan import build_plan
from flexi.plan.model.site import HostPlan, Plan
from flexi.plan.model.ssh import SshPlan
from flexi.site import SiteError, load_site
from flexi.terminal.bars import Bars

DEPLOY = "deploy.py"
MOODLE = "moodle.py"
Host = tuple[str, dict[str, Any]]


def pyinfra_hosts(inventory_file: str) -> list[Host]:
    """Hosts of the site file beside `inventory_file` (`lab.py` → `lab.yaml`), each with its part of the plan.

    A wrong site file ends pyinfra before it connects anywhere: its findings on standard error, exit status 2. So does a
    bundle that is not whole, for the one script that brings it to the hosts. For `moodle.py` there is one host alone,
    Moodle's machine, which no other script knows.
    """
    site_file = Path(inventory_file).with_suffix(".yaml")
    try:
        plan = build_plan(load_site(site_file))
        if _runs(MOODLE, inventory_file):
            return [moodle_host(plan)]
        if _runs(DEPLOY, inventory_file):
            check(plan, str(site_file), Bars(Console(stderr=True), quiet=True))
    except (SiteError, InputError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(EXIT_BAD_INPUT) from None
    return [(host.name, host_data(plan, host)) for host in plan.hosts]


def _runs(script: str, inventory_file: str) -> bool:
    """Whether pyinfra was called with this script; a site may have the script's name."""
    own = Path(inventory_file).resolve()
    return any(Path(word).name == script and Path(word).resolve() != own for word in sys.argv)


def moodle_host(plan: Plan) -> Host:
    """Moodle's machine. InputError where the site file names none."""
    if plan.moodle is None or plan.moodle.host is None:
        raise InputError(
            "the site file names no machine of Moodle (moodle.ssh): ./flexi moodle steps says what to enter"
        )
    return ("moodle", {**_connection(plan.moodle.host.ssh), "flexi_moodle": plan.moodle})


def host_data(plan: Plan, host: HostPlan) -> dict[str, Any]:
    """pyinfra's connector data and the plan for one host. Host keys must be known: nobody deploys to a stranger."""
    data: dict[str, Any] = {**_connection(host.ssh), "flexi_plan": plan, "flexi_host": host}
    if host.environment:
        data["_env"] = dict(host.environment)
    return data


def _connection(ssh: SshPlan) -> dict[str, Any]:
    data: dict[str, Any] = {
        "ssh_hostname": ssh.address,
        "ssh_user": ssh.user,
        "ssh_port": ssh.port,
        "ssh_strict_host_key_checking": "yes",
    }
    if ssh.config:
        data["ssh_config_file"] = ssh.config
    if ssh.identity:
        data["ssh_key"] = ssh.identity
    return data
