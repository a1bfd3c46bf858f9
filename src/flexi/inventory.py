"""From a site file to pyinfra's inventory: `inventory/<site>.py` is two lines that call this."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from flexi.bundle.checking import check
from flexi.bundle.progress import Bars
from flexi.errors import EXIT_BAD_INPUT, InputError
from flexi.plan import build_plan
from flexi.plan.model import HostPlan, Plan
from flexi.site import SiteError, load_site

DEPLOY = "deploy.py"
Host = tuple[str, dict[str, Any]]


def pyinfra_hosts(inventory_file: str) -> list[Host]:
    """Hosts of the site file beside `inventory_file` (`lab.py` → `lab.yaml`), each with its part of the plan.

    A wrong site file ends pyinfra before it connects anywhere: its findings on standard error, exit status 2. So does a
    bundle that is not whole, for the one script that brings it to the hosts.
    """
    site_file = Path(inventory_file).with_suffix(".yaml")
    try:
        plan = build_plan(load_site(site_file))
        if any(Path(word).name == DEPLOY for word in sys.argv):
            check(plan, str(site_file), Bars(Console(stderr=True), quiet=True))
    except (SiteError, InputError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(EXIT_BAD_INPUT) from None
    return [(host.name, host_data(plan, host)) for host in plan.hosts]


def host_data(plan: Plan, host: HostPlan) -> dict[str, Any]:
    """pyinfra's connector data and the plan for one host. Host keys must be known: nobody deploys to a stranger."""
    ssh = host.ssh
    data: dict[str, Any] = {
        "ssh_hostname": ssh.address,
        "ssh_user": ssh.user,
        "ssh_port": ssh.port,
        "ssh_strict_host_key_checking": "yes",
        "flexi_plan": plan,
        "flexi_host": host,
    }
    if host.environment:
        data["_env"] = dict(host.environment)
    if ssh.config:
        data["ssh_config_file"] = ssh.config
    if ssh.identity:
        data["ssh_key"] = ssh.identity
    return data
