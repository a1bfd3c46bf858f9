"""The gateway: HAProxy in front of all instances, the guard that reads what is asked, the catalogue for the lists.

HAProxy knows who asks; the guard says which model, and whether it may be; then HAProxy asks flexi-agent whether that
model is really on its GPUs, and queues what an instance cannot run at once.
"""

import json
from io import StringIO

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.api.operation import OperationMeta
from pyinfra.operations import files, systemd

from flexi.catalog.consumers import HEALTH_CONSUMER
from flexi.configs.agent import catalogue_config
from flexi.configs.gateway import FOLLOW_KEYS, KEYS_MAP, KEYS_STAMP, MAPS, keys_map
from flexi.configs.guard import guard_config
from flexi.configs.rendering import render
from flexi.operations.applying import applied
from flexi.operations.chat import chat_known
from flexi.operations.gateway import health_key
from flexi.operations.packages import installed
from flexi.operations.system import validated_file
from flexi.plan.model.gateway import GatewayPlan
from flexi.plan.model.site import Plan
from roles.agent import PACKAGE
from roles.gateway import certificate, failover, ledger
from roles.users import service_user

CERTIFICATE = f"{MAPS}/gateway.pem"
PLACES = f"{MAPS}/places.lua"
CHAT_AWAY = f"{MAPS}/chat-away.html"
HAPROXY = "/etc/haproxy/haproxy.cfg"
CATALOGUE = "/etc/flexi/catalogue.json"
UNIT = "/etc/systemd/system/flexi-catalogue.service"
GUARD = "/etc/flexi/guard.json"
GUARD_USER = "flexi-guard"
GUARD_UNIT = "/etc/systemd/system/flexi-guard.service"
GUARD_SOCKET = "/etc/systemd/system/flexi-guard.socket"


@deploy("Gateway")
def install(plan: Plan, package: OperationMeta) -> None:
    """`package` is the operation that writes the agent, whose other program is the catalogue."""
    gateway, here = plan.gateway, plan.host(host.name).gateway
    ledger.keep_off_the_disk()
    packages = installed(name="Install HAProxy", packages=here.packages)

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

    judging = _guard(plan, package)
    ledger.install(plan, package)

    files.directory(name="Make the directory of the gateway's tables", path=MAPS, mode="0755")
    dialects = [
        files.put(
            name=f"Write how errors look in each API ({table})",
            src=f"templates/gateway/{table}",
            dest=f"{MAPS}/{table}",
            mode="0644",
        )
        for table in host.loop(("dialects.map", "dialects-end.map"))
    ]
    places = files.put(
        name="Write how HAProxy waits for a consumer's place",
        src="templates/gateway/places.lua",
        dest=PLACES,
        mode="0644",
    )
    keys = files.put(
        name="Write the consumers' keys (hashes only)",
        src=StringIO(keys_map(gateway.consumers)),
        dest=KEYS_MAP,
        user="root",
        group="haproxy",
        mode="0640",
    )
    health = health_key(
        name="Make the key of the health checks, which never leaves this host",
        key_header="/etc/flexi/health.header",
        key_map=f"{MAPS}/local.map",
        consumer=HEALTH_CONSUMER,
    )
    away = _chat_away(gateway)
    chat = chat_known(
        name="Know the chat's key",
        dest=f"{MAPS}/chat.map",
        chat_host=plan.chat.host if plan.chat else None,
    )
    certificates = certificate.provide(gateway, CERTIFICATE)
    config = validated_file(
        name="Write HAProxy's configuration, checked by HAProxy",
        dest=HAPROXY,
        content=render("gateway/haproxy.cfg.j2", gateway=gateway, here=here, name=host.name, maps=MAPS),
        check="haproxy -c -q -f {}",
    )
    tables = ("dialects.map", "dialects-end.map", "local.map", "chat.map")
    inputs = [HAPROXY, PLACES, *(f"{MAPS}/{table}" for table in tables)]
    if gateway.chat:
        inputs.append(CHAT_AWAY)
    if gateway.tls and not gateway.tls.acme:
        # What certbot renews it brings to HAProxy itself.
        inputs.append(CERTIFICATE)
    reloaded = applied(
        name="Reload HAProxy without dropping a stream",
        what="haproxy.service",
        inputs=inputs,
        command=f"/usr/bin/python3 {PACKAGE} haproxy-reload",
        after=[config, *away, *dialects, places, health, chat, *certificates],
    )
    systemd.service(name="Start HAProxy", service="haproxy.service", running=True, enabled=True)
    applied(
        name="Tell HAProxy the consumers' keys, without a reload",
        what=KEYS_STAMP,
        inputs=(KEYS_MAP,),
        command=FOLLOW_KEYS,
        after=[keys],
    )
    shared = failover.share(plan)
    failover.end(plan, [packages, *judging, reloaded, *shared])
    certificate.order(gateway, CERTIFICATE)


def _chat_away(gateway: GatewayPlan) -> list[OperationMeta]:
    """Returns the operations after which HAProxy must read the page anew."""
    if not gateway.chat:
        files.file(name="Have no page for a chat", path=CHAT_AWAY, present=False)
        return []
    page = files.put(
        name="Write what users see while the chat is away",
        src=StringIO(render("gateway/chat-away.html.j2", gateway=gateway)),
        dest=CHAT_AWAY,
        mode="0644",
    )
    return [page]


def _guard(plan: Plan, package: OperationMeta) -> list[OperationMeta]:
    """Returns the operations after which the guard is another one."""
    service_user(GUARD_USER, "the guard's")
    config = files.put(
        name="Write the guard's configuration",
        src=StringIO(json.dumps(guard_config(plan), indent=2) + "\n"),
        dest=GUARD,
        user="root",
        group=GUARD_USER,
        mode="0640",
        create_remote_dir=False,
    )
    sockets = files.template(
        name="Write the guard's sockets",
        src="templates/gateway/flexi-guard.socket.j2",
        dest=GUARD_SOCKET,
        mode="0644",
        gateway=plan.gateway,
    )
    unit = files.put(
        name="Write the guard's unit", src="templates/gateway/flexi-guard.service", dest=GUARD_UNIT, mode="0644"
    )
    restarted = applied(
        name="Restart the guard with new units",
        what="flexi-guard.socket",
        inputs=(GUARD_UNIT, GUARD_SOCKET),
        # A socket is not made anew while the service holds it.
        command="systemctl stop flexi-guard.service; systemctl restart flexi-guard.socket flexi-guard.service",
        after=[sockets, unit],
    )
    taken_over = applied(
        name="Have the guard take over what is new, without dropping a stream",
        what="flexi-guard.service",
        inputs=(PACKAGE, GUARD),
        command="systemctl reload-or-restart flexi-guard.service",
        after=[package, config],
    )
    systemd.service(name="Start the guard's sockets", service="flexi-guard.socket", running=True, enabled=True)
    systemd.service(name="Start the guard", service="flexi-guard.service", running=True, enabled=True)
    return [restarted, taken_over]
