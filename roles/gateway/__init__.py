"""The gateway: HAProxy in front of all instances, and the catalogue that answers the lists.

HAProxy reads the model's name from the body, asks flexi-agent whether that model is really on its GPUs, and queues
what an instance cannot run at once.
"""

import json
from io import StringIO

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.api.operation import OperationMeta
from pyinfra.operations import files, systemd

from flexi.agent_config import catalogue_config
from flexi.operations.applying import applied
from flexi.operations.gateway import health_key
from flexi.operations.packages import installed
from flexi.operations.system import validated_file
from flexi.plan.model import HEALTH_CONSUMER, Plan
from flexi.rendering import render
from roles.agent import PACKAGE

MAPS = "/etc/haproxy/flexi"
HAPROXY = "/etc/haproxy/haproxy.cfg"
CATALOGUE = "/etc/flexi/catalogue.json"
UNIT = "/etc/systemd/system/flexi-catalogue.service"


@deploy("Gateway")
def install(plan: Plan, package: OperationMeta) -> None:
    """`package` is the operation that writes the agent, whose other program is the catalogue."""
    gateway = plan.gateway
    installed(name="Install HAProxy", packages=gateway.packages)

    catalogue = files.put(
        name="Write the catalogue's configuration",
        src=StringIO(json.dumps(catalogue_config(plan), indent=2) + "\n"),
        dest=CATALOGUE,
        mode="0644",
        create_remote_dir=False,
    )
    unit = files.put(
        name="Write the catalogue's unit", src="templates/gateway/flexi-catalogue.service", dest=UNIT, mode="0644"
    )
    applied(
        name="Restart the catalogue with what is new",
        what="flexi-catalogue.service",
        inputs=(PACKAGE, CATALOGUE, UNIT),
        command="systemctl restart flexi-catalogue.service",
        after=[package, catalogue, unit],
    )
    systemd.service(name="Start the catalogue", service="flexi-catalogue.service", running=True, enabled=True)

    files.directory(name="Make the directory of the gateway's tables", path=MAPS, mode="0755")
    models = files.template(
        name="Write which model runs where",
        src="templates/gateway/models.map.j2",
        dest=f"{MAPS}/models.map",
        mode="0644",
        backends=gateway.backends,
    )
    dialects = [
        files.put(
            name=f"Write how errors look in each API ({table})",
            src=f"templates/gateway/{table}",
            dest=f"{MAPS}/{table}",
            mode="0644",
        )
        for table in host.loop(("dialects.map", "dialects-end.map"))
    ]
    keys = files.template(
        name="Write the consumers' keys (hashes only)",
        src="templates/gateway/keys.map.j2",
        dest=f"{MAPS}/keys.map",
        user="root",
        group="haproxy",
        mode="0640",
        consumers=gateway.consumers,
    )
    health = health_key(
        name="Make the key of the health checks, which never leaves this host",
        key_header="/etc/flexi/health.header",
        key_map=f"{MAPS}/local.map",
        consumer=HEALTH_CONSUMER,
    )
    config = validated_file(
        name="Write HAProxy's configuration, checked by HAProxy",
        dest=HAPROXY,
        content=render("gateway/haproxy.cfg.j2", gateway=gateway, maps=MAPS),
        check="haproxy -c -q -f {}",
    )
    tables = ("models.map", "dialects.map", "dialects-end.map", "keys.map", "local.map")
    applied(
        name="Reload HAProxy without dropping a stream",
        what="haproxy.service",
        inputs=(HAPROXY, *(f"{MAPS}/{table}" for table in tables)),
        command="systemctl reload-or-restart haproxy.service",
        after=[config, models, *dialects, keys, health],
    )
    systemd.service(name="Start HAProxy", service="haproxy.service", running=True, enabled=True)
