"""flexi-agent: the package that GPU hosts and gateways share, and on a GPU host the service that uses it.

The service keeps models loaded, and tells the gateway and people how each instance really is.
"""

import json
from io import BytesIO, StringIO

from pyinfra.api import deploy
from pyinfra.api.operation import OperationMeta
from pyinfra.operations import files

from flexi.configs.agent import agent_config
from flexi.configs.host_package import build
from flexi.plan.model.site import HostPlan
from roles.services import UnitFile, managed_service
from roles.users import service_user

PACKAGE = "/opt/flexi/flexi-agent.pyz"
CONFIG = "/etc/flexi/agent.json"
UNITS = "/etc/systemd/system"
UNIT = f"{UNITS}/flexi-agent.service"
SHARE = ("flexi-share.socket", "flexi-share@.service")
USER = "flexi-agent"


@deploy("Agent package")
def install_package() -> OperationMeta:
    """Write the programs that run on hosts; returns the operation that writes them."""
    service_user(USER, "the agent's")
    return files.put(
        name="Write the agent",
        src=BytesIO(build()),
        dest=PACKAGE,
        mode="0644",
    )


@deploy("Agent")
def install(host_plan: HostPlan, package: OperationMeta) -> None:
    """Run the agent; `package` is the operation that writes it."""
    files.directory(name="Make the directory of the drain switches", path="/etc/flexi/drain.d", mode="0755")
    config = files.put(
        name="Write the agent's configuration",
        src=StringIO(json.dumps(agent_config(host_plan), indent=2) + "\n"),
        dest=CONFIG,
        mode="0644",
        create_remote_dir=False,
    )
    managed_service(
        "flexi-share.socket",
        unit_files=[UnitFile(f"Write {name}", f"templates/agent/{name}", f"{UNITS}/{name}") for name in SHARE],
        restart_name="Restart flexi-share.socket with what is new",
        start_name="Start flexi-share.socket",
    )
    managed_service(
        "flexi-agent.service",
        unit_files=[UnitFile("Write the agent's unit", "templates/agent/flexi-agent.service", UNIT)],
        restart_name="Restart the agent with what is new",
        start_name="Start the agent",
        watch=(PACKAGE, CONFIG, UNIT),
        after=[package, config],
    )
