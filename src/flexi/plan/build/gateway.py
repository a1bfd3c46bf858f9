"""The gateway in the plan: back ends, names, consumers and limits."""

from __future__ import annotations

import re

from flexi.catalog import ports
from flexi.catalog.fit import Load
from flexi.plan.build.chat import CHAT_CLASS, chat_edge
from flexi.plan.build.consumers import HEALTH_CLASS, consumer_class
from flexi.plan.build.gateway_tls import tls_plan
from flexi.plan.build.haproxy import haproxy_plan
from flexi.plan.build.moodle import moodle_aliases, moodle_keyless, moodle_origins
from flexi.plan.build.ollama import group_ports
from flexi.plan.model.gateway import Backend, BackendServer, GatewayPlan, LedgerPlan
from flexi.site.model import Site

MAX_CONNECTIONS = 4000
"""Bounds the gateway's memory. A stream is two connections on each side of HAProxy, which keep buffers of 16 KiB."""
GUARD_WORKERS = 4
"""Processes of the guard. One relays a few thousand pieces of answers in a second; a gateway has two cores at least."""
GUARD_RUN = "/run/flexi-guard"
INNER_SOCKET = "/run/haproxy/flexi-inner.sock"
LEDGER_SOCKET = "/run/flexi-ledger/ledger.sock"

_OPEN_PATHS = {"tags": "/api/tags", "version": "/api/version", "show": "/api/show"}


def gateway_plan(site: Site) -> GatewayPlan:
    gateway = site.content.gateway
    return GatewayPlan(
        hosts=tuple(site.gateways),
        address=site.users_address,
        name=gateway.name,
        port=site.users_port,
        catalogue_port=ports.CATALOGUE,
        metrics_port=ports.METRICS,
        ledger=LedgerPlan(
            port=ports.LEDGER,
            socket=LEDGER_SOCKET,
            retention_days=gateway.log.retention_days,
            usage_days=gateway.log.usage_days,
        ),
        max_connections=MAX_CONNECTIONS,
        timeout_s=gateway.timeout,
        queue_timeout_s=gateway.queue_timeout,
        queue_length=gateway.queue_length,
        body_limit_bytes=gateway.body_limit * 2**20,
        max_answer_tokens=gateway.max_answer_tokens,
        guard_sockets=tuple(f"{GUARD_RUN}/{number}.sock" for number in range(1, GUARD_WORKERS + 1)),
        inner_socket=INNER_SOCKET,
        anonymous_paths=tuple(_OPEN_PATHS[name] for name in dict.fromkeys((*gateway.anonymous, *moodle_keyless(site)))),
        cors=tuple(dict.fromkeys((*gateway.cors, *moodle_origins(site)))),
        backends=_backends(site),
        consumers=site.consumers,
        classes=(
            *(consumer_class(name, rules) for name, rules in site.classes.items()),
            HEALTH_CLASS,
            *([CHAT_CLASS] if site.content.chat else []),
        ),
        tls=tls_plan(site),
        chat=chat_edge(site),
        haproxy=haproxy_plan(gateway.name),
    )


def _backends(site: Site) -> tuple[Backend, ...]:
    """One for each model of the site, in the order of the file, with every instance that holds it."""
    servers: dict[str, list[BackendServer]] = {}
    loads: dict[str, list[Load]] = {}
    for _, host, group_name, group in site.groups():
        for load in site.loads(group):
            loads.setdefault(load.name.lower(), []).append(load)
            servers.setdefault(load.name.lower(), []).append(
                BackendServer(
                    name=group_name,
                    group=group_name,
                    address=host.address,
                    port=group_ports(host)[group_name],
                    agent_port=ports.AGENT_CHECK,
                    max_connections=load.parallel,
                )
            )
    sections = _section_names(list(servers))
    aliases = _aliases(site)
    return tuple(
        Backend(
            name=sections[model],
            model=loads[model][0].name,
            names=model_spellings(model),
            aliases=tuple(aliases.get(model, ())),
            context=min(load.context for load in loads[model]),
            embedding=loads[model][0].facts.embedding,
            servers=tuple(found),
        )
        for model, found in servers.items()
    )


def _aliases(site: Site) -> dict[str, list[str]]:
    """Lower-case spellings of aliases, by the lower-case name of the model that they mean; the site file's own win."""
    found: dict[str, list[str]] = {}
    for alias, model in {**moodle_aliases(site), **site.content.gateway.aliases}.items():
        found.setdefault(model.lower(), []).extend(model_spellings(alias))
    return found


def model_spellings(model: str) -> tuple[str, ...]:
    """Lower-case names that mean `model`: Ollama compares names without case (server/routes.go getExistingName) and
    reads a missing tag as `latest` (types/model/name.go)."""
    lower = model.lower()
    return (lower, lower.removesuffix(":latest")) if lower.endswith(":latest") else (lower,)


def _section_names(models: list[str]) -> dict[str, str]:
    """HAProxy section names; two models that differ in signs only get a number."""
    names: dict[str, str] = {}
    for model in models:
        base = "model_" + re.sub(r"[^a-z0-9]+", "_", model).strip("_")
        name, count = base, 1
        while name in names.values():
            count += 1
            name = f"{base}_{count}"
        names[model] = name
    return names
