"""nftables: nothing comes in but SSH and what the plan opens, and the Ollama ports open to gateways only.

The rules live in a table of their own, replaced in one atomic step, so that other tables on the host stay.
"""

from pyinfra.api import deploy
from pyinfra.operations import files, systemd

from flexi.configs.rendering import render
from flexi.operations.applying import applied
from flexi.operations.system import firewall_raised, validated_file
from flexi.plan.model.site import HostPlan

RULES = "/etc/flexi/firewall.nft"
UNIT = "/etc/systemd/system/flexi-firewall.service"


@deploy("Firewall")
def install(plan: HostPlan) -> None:
    rules = validated_file(
        name="Write the firewall rules, checked by nft",
        dest=RULES,
        content=render("firewall/firewall.nft.j2", rules=plan.firewall.rules, vrrp_from=plan.firewall.vrrp_from),
        check="nft -c -f {}",
    )
    firewall_raised(
        name="Put the rules in force, unless they lock us out", rules=RULES, table="inet flexi", after=[rules]
    )
    unit = files.put(
        name="Write the firewall's unit", src="templates/firewall/flexi-firewall.service", dest=UNIT, mode="0644"
    )
    applied(
        name="Let systemd read the firewall's unit",
        what="flexi-firewall.service",
        inputs=(UNIT,),
        command=":",
        after=[unit],
    )
    systemd.service(
        name="Raise the firewall at every boot",
        service="flexi-firewall.service",
        running=True,
        enabled=True,
    )
