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
from flexi.operations import chat, host_files, packages, restart
from flexi.operations import gateway as gateway_operations
from flexi.plan.model.gateway import GatewayPlan
from flexi.plan.model.site import Plan
from roles.agent import PACKAGE
from roles.gateway import certificate, failover, ledger
from roles.services import UnitFile, managed_service
from roles.users import service_user

CERTIFICATE = f"{MAPS}/gateway.pem"
QUEUE_SCRIPT = f"{MAPS}/places.lua"
CHAT_AWAY_PAGE = f"{MAPS}/chat-away.html"
HAPROXY = "/etc/haproxy/haproxy.cfg"
CATALOGUE = "/etc/flexi/catalogue.json"
UNIT = "/etc/systemd/system/flexi-catalogue.service"
GUARD = "/etc/flexi/guard.json"
GUARD_USER = "flexi-guard"
GUARD_UNIT = "/etc/systemd/system/flexi-guard.service"
GUARD_SOCKET = "/etc/systemd/system/flexi-guard.socket"
ERROR_FORMAT_TABLES = ("dialects.map", "dialects-end.map")
"""Maps of how errors look in each API format."""


@deploy("Gateway")
def install(plan: Plan, package: OperationMeta) -> None:
    """Run the gateway; `package` is the operation that writes the agent, of which guard and catalogue are programs."""
    ledger.keep_off_the_disk()
    haproxy = packages.present(name="Install HAProxy", names=plan.host(host.name).gateway.packages)
    _catalogue(plan, package)
    guard = _guard(plan, package)
    ledger.install(plan, package)
    tables = _tables()
    consumer_keys = _consumer_keys(plan.gateway)
    health_key = gateway_operations.make_health_key(
        name="Make the key of the health checks, which never leaves this host",
        key_header="/etc/flexi/health.header",
        key_map=f"{MAPS}/local.map",
        consumer=HEALTH_CONSUMER,
    )
    page = _chat_away(plan.gateway)
    chat_key = chat.write_key_map(
        name="Know the chat's key",
        dest=f"{MAPS}/chat.map",
        chat_host_name=plan.chat.host if plan.chat else None,
    )
    certificates = certificate.provide(plan.gateway, CERTIFICATE)
    reloaded = _haproxy(plan, [*page, *tables, health_key, chat_key, *certificates])
    restart.on_change(
        name="Tell HAProxy the consumers' keys, without a reload",
        service=KEYS_STAMP,
        watch=(KEYS_MAP,),
        command=FOLLOW_KEYS,
        after=[consumer_keys],
    )
    shared = failover.share(plan)
    failover.end(plan, [haproxy, *guard, reloaded, *shared])
    certificate.order(plan.gateway, CERTIFICATE)


def _catalogue(plan: Plan, package: OperationMeta) -> None:
    config = files.put(
        name="Write the catalogue's configuration",
        src=StringIO(json.dumps(catalogue_config(plan), indent=2) + "\n"),
        dest=CATALOGUE,
        mode="0644",
        create_remote_dir=False,
    )
    managed_service(
        "flexi-catalogue.service",
        unit_files=[UnitFile("Write the catalogue's unit", "templates/gateway/flexi-catalogue.service", UNIT)],
        restart_name="Restart the catalogue with what is new",
        start_name="Start the catalogue",
        watch=(PACKAGE, CATALOGUE, UNIT),
        after=[package, config],
    )


def _tables() -> list[OperationMeta]:
    """Write HAProxy's tables and its script that queues; returns the operations after which it must read them anew."""
    files.directory(name="Make the directory of the gateway's tables", path=MAPS, mode="0755")
    error_formats = [
        files.put(
            name=f"Write how errors look in each API ({table})",
            src=f"templates/gateway/{table}",
            dest=f"{MAPS}/{table}",
            mode="0644",
        )
        for table in host.loop(ERROR_FORMAT_TABLES)
    ]
    queue_script = files.put(
        name="Write how HAProxy waits for a consumer's place",
        src="templates/gateway/places.lua",
        dest=QUEUE_SCRIPT,
        mode="0644",
    )
    return [*error_formats, queue_script]


def _consumer_keys(gateway: GatewayPlan) -> OperationMeta:
    return files.put(
        name="Write the consumers' keys (hashes only)",
        src=StringIO(keys_map(gateway.consumers)),
        dest=KEYS_MAP,
        user="root",
        group="haproxy",
        mode="0640",
    )


def _haproxy(plan: Plan, after: list[OperationMeta]) -> OperationMeta:
    """Configure and run HAProxy; returns the operation that reloads it."""
    gateway, here = plan.gateway, plan.host(host.name).gateway
    config = host_files.validated(
        name="Write HAProxy's configuration, checked by HAProxy",
        dest=HAPROXY,
        content=render("gateway/haproxy.cfg.j2", gateway=gateway, here=here, name=host.name, maps=MAPS),
        check="haproxy -c -q -f {}",
    )
    watch = [HAPROXY, QUEUE_SCRIPT, *(f"{MAPS}/{table}" for table in (*ERROR_FORMAT_TABLES, "local.map", "chat.map"))]
    if gateway.chat:
        watch.append(CHAT_AWAY_PAGE)
    if gateway.tls and not gateway.tls.acme:
        # What certbot renews it brings to HAProxy itself.
        watch.append(CERTIFICATE)
    reloaded, _ = managed_service(
        "haproxy.service",
        restart_name="Reload HAProxy without dropping a stream",
        start_name="Start HAProxy",
        watch=watch,
        command=f"/usr/bin/python3 {PACKAGE} haproxy-reload",
        after=[config, *after],
    )
    return reloaded


def _chat_away(gateway: GatewayPlan) -> list[OperationMeta]:
    """Write the page for a chat that is away; returns the operations after which HAProxy must read it anew."""
    if not gateway.chat:
        files.file(name="Have no page for a chat", path=CHAT_AWAY_PAGE, present=False)
        return []
    page = files.put(
        name="Write what users see while the chat is away",
        src=StringIO(render("gateway/chat-away.html.j2", gateway=gateway)),
        dest=CHAT_AWAY_PAGE,
        mode="0644",
    )
    return [page]


def _guard(plan: Plan, package: OperationMeta) -> list[OperationMeta]:
    """Run the guard; returns the operations after which it is another one."""
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
    restarted = restart.on_change(
        name="Restart the guard with new units",
        service="flexi-guard.socket",
        watch=(GUARD_UNIT, GUARD_SOCKET),
        # A socket is not made anew while the service holds it.
        command="systemctl stop flexi-guard.service; systemctl restart flexi-guard.socket flexi-guard.service",
        after=[sockets, unit],
    )
    taken_over = restart.on_change(
        name="Have the guard take over what is new, without dropping a stream",
        service="flexi-guard.service",
        watch=(PACKAGE, GUARD),
        command="systemctl reload-or-restart flexi-guard.service",
        after=[package, config],
    )
    systemd.service(name="Start the guard's sockets", service="flexi-guard.socket", running=True, enabled=True)
    systemd.service(name="Start the guard", service="flexi-guard.service", running=True, enabled=True)
    return [restarted, taken_over]
