"""flexi-agent: the package that GPU hosts and gateways share, and on a GPU host the service that uses it.

The service keeps models loaded, and tells the gateway and people how each instance really is.
"""

import json
from io import BytesIO, StringIO

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.api.operation import OperationMeta
from pyinfra.operations import files, systemd

from flexi.configs.agent import agent_config
from flexi.configs.host_package import build
from flexi.operations.applying import applied
from flexi.plan.model.site import HostPlan
from roles.users import service_user

PACKAGE = "/opt/flexi/flexi-agent.pyz"
CONFIG = "/etc/flexi/agent.json"
UNITS = "/etc/systemd/system"
UNIT = f"{UNITS}/flexi-agent.service"
SHARE = ("flexi-share.socket", "flexi-share@.service")
USER = "flexi-agent"


@deploy("Agent package")
def install_package() -> OperationMeta:
    """Returns the operation that writes the agent."""
    service_user(USER, "the agent's")
    return files.put(
        name="Write the agent",
        src=BytesIO(build()),
        dest=PACKAGE,
        mode="0644",
    )


@deploy("Agent")
def install(plan: HostPlan, package: OperationMeta) -> None:
    files.directory(name="Make the directory of the drain switches", path="/etc/flexi/drain.d", mode="0755")
    config = files.put(
        name="Write the agent's configuration",
        src=StringIO(json.dumps(agent_config(plan), indent=2) + "\n"),
        dest=CONFIG,
        mode="0644",
        create_remote_dir=False,
    )
    share = [
        files.put(name=f"Write {name}", src=f"templates/agent/{name}", dest=f"{UNITS}/{name}", mode="0644")
        for name in host.loop(SHARE)
    ]
    applied(
        name="Restart flexi-share.socket with what is new",
        what="flexi-share.socket",
        inputs=tuple(f"{UNITS}/{unit}" for unit in SHARE),
        command="systemctl restart flexi-share.socket",
        after=share,
    )
    systemd.service(name="Start flexi-share.socket", service="flexi-share.socket", running=True, enabled=True)
    unit = files.put(name="Write the agent's unit", src="templates/agent/flexi-agent.service", dest=UNIT, mode="0644")
    applied(
        name="Restart the agent with what is new",
        what="flexi-agent.service",
        inputs=(PACKAGE, CONFIG, UNIT),
        command="systemctl restart flexi-agent.service",
        after=[package, config, unit],
    )
    systemd.service(name="Start the agent", service="flexi-agent.service", running=True, enabled=True)
