"""nftables: nothing comes in but SSH and what the plan opens, and the Ollama ports open to gateways only.

The rules live in a table of their own, replaced in one atomic step, so that other tables on the host stay.
"""

from pyinfra.api import deploy
from pyinfra.operations import files, systemd
from pyinfra.operations.util import any_changed

from flexi.operations.system import validated_file
from flexi.plan.model import HostPlan
from flexi.rendering import render

RULES = "/etc/flexi/firewall.nft"


@deploy("Firewall")
def install(plan: HostPlan) -> None:
    rules = validated_file(
        name="Write the firewall rules, checked by nft",
        dest=RULES,
        content=render("firewall/firewall.nft.j2", rules=plan.firewall.rules),
        check="nft -c -f {}",
    )
    unit = files.put(
        name="Write the firewall's unit",
        src="templates/firewall/flexi-firewall.service",
        dest="/etc/systemd/system/flexi-firewall.service",
        mode="0644",
    )
    systemd.daemon_reload(name="Let systemd read the firewall's unit", _if=any_changed(unit))
    systemd.service(
        name="Raise the firewall now and at every boot",
        service="flexi-firewall.service",
        running=True,
        enabled=True,
    )
    systemd.service(
        name="Replace the rules in one step",
        service="flexi-firewall.service",
        running=True,
        reloaded=True,
        _if=any_changed(rules),
    )
