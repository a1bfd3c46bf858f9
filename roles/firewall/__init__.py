"""nftables: nothing comes in but SSH and what the plan opens, and the Ollama ports open to gateways only.

The rules live in a table of their own, replaced in one atomic step, so that other tables on the host stay.
"""

from pyinfra.api import deploy

from flexi.configs.rendering import render
from flexi.operations import firewall, host_files
from flexi.plan.model.site import HostPlan
from roles.services import UnitFile, managed_service

RULES = "/etc/flexi/firewall.nft"
UNIT = "/etc/systemd/system/flexi-firewall.service"


@deploy("Firewall")
def install(host_plan: HostPlan) -> None:
    """Put the plan's rules in force, now and at every boot."""
    rules = host_files.validated(
        name="Write the firewall rules, checked by nft",
        dest=RULES,
        content=render(
            "firewall/firewall.nft.j2", rules=host_plan.firewall.rules, vrrp_from=host_plan.firewall.vrrp_from
        ),
        check="nft -c -f {}",
    )
    firewall.load(
        name="Put the rules in force, unless they lock us out", rules=RULES, table="inet flexi", after=[rules]
    )
    managed_service(
        "flexi-firewall.service",
        unit_files=[UnitFile("Write the firewall's unit", "templates/firewall/flexi-firewall.service", UNIT)],
        restart_name="Let systemd read the firewall's unit",
        start_name="Raise the firewall at every boot",
        command=":",
    )
