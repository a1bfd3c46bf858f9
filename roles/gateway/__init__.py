"""The gateway: HAProxy in front of all instances, and the catalogue that answers the lists.

HAProxy reads the model's name from the body, asks flexi-agent whether that model is really on its GPUs, and queues
what an instance cannot run at once.
"""

import json
from io import StringIO

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.operations import apt, files, systemd
from pyinfra.operations.util import any_changed

from flexi.agent_config import catalogue_config
from flexi.agent_package import digest
from flexi.operations.gateway import health_key
from flexi.operations.system import validated_file
from flexi.plan.model import Plan
from flexi.rendering import render

MAPS = "/etc/haproxy/flexi"
HEALTH_CONSUMER = "flexi-health"


@deploy("Gateway")
def install(plan: Plan) -> None:
    gateway = plan.gateway
    apt.packages(name="Install HAProxy", packages=list(gateway.packages), no_recommends=True)

    catalogue = files.put(
        name="Write the catalogue's configuration",
        src=StringIO(json.dumps(catalogue_config(plan), indent=2) + "\n"),
        dest="/etc/flexi/catalogue.json",
        mode="0644",
        create_remote_dir=False,
    )
    unit = files.template(
        name="Write the catalogue's unit",
        src="templates/gateway/flexi-catalogue.service.j2",
        dest="/etc/systemd/system/flexi-catalogue.service",
        mode="0644",
        build=digest(),
    )
    systemd.daemon_reload(name="Let systemd read the catalogue's unit", _if=any_changed(unit))
    systemd.service(
        name="Restart the catalogue with what is new",
        service="flexi-catalogue.service",
        restarted=True,
        _if=any_changed(catalogue, unit),
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
            name=f"Write how errors {part} in each API",
            src=f"templates/gateway/{table}",
            dest=f"{MAPS}/{table}",
            mode="0644",
        )
        for part, table in host.loop((("begin", "dialects.map"), ("end", "dialects-end.map")))
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
        dest="/etc/haproxy/haproxy.cfg",
        content=render("gateway/haproxy.cfg.j2", gateway=gateway, maps=MAPS),
        check="haproxy -c -q -f {}",
    )
    systemd.service(name="Start HAProxy", service="haproxy.service", running=True, enabled=True)
    systemd.service(
        name="Reload HAProxy without dropping a stream",
        service="haproxy.service",
        running=True,
        reloaded=True,
        _if=any_changed(models, *dialects, keys, health, config),
    )
