"""What the gateway is doing at this moment: queues, who uses what, and which servers get nothing and why."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from flexi.plan.model.gateway import Backend
from flexi.plan.model.site import HostPlan, Plan
from flexi.ssh import remote
from flexi.usage.report import NOBODY, mean

COMMAND = "exec python3 /opt/flexi/flexi-agent.pyz now"


@dataclass(frozen=True)
class GatewayNow:
    """One gateway: its own words, or why there are none."""

    host: str
    error: str | None
    now: dict[str, Any] | None


def read_all(plan: Plan) -> list[GatewayNow]:
    """What the site's gateways say, in the plan's order."""
    gateways = [host for host in plan.hosts if "gateway" in host.roles]
    return list(remote.for_each(gateways, read).values())


def read(host: HostPlan) -> GatewayNow:
    answer = remote.run(host, remote.ROOT_SHELL, stdin=COMMAND)
    if not answer.reached:
        return GatewayNow(host.name, answer.unreachable, None)
    if answer.status != 0:
        return GatewayNow(host.name, f"the gateway cannot be asked: {answer.last_words}", None)
    try:
        now = json.loads(answer.stdout)
        _read_through(now)
        return GatewayNow(host.name, None, {key: now[key] for key in ("backends", "using", "recent")})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"what the gateway says cannot be read ({error!r}): another release? deploy"
        return GatewayNow(host.name, problem, None)


def _read_through(now: dict[str, Any]) -> None:
    """Read all that is shown of an answer once, so that one of another shape is an error and no traceback.

    ValueError, KeyError, TypeError or AttributeError where it is of another shape.
    """
    for backend in now["backends"]:
        str(backend["name"])
        _load(backend)
        for server in backend["servers"]:
            server["status"].startswith("UP")
            (str(server["name"]), int(server["most"]), server["reason"])
    for entry in now["using"]:
        (entry["consumer"], entry["model"], int(entry["requests"]))
    if now["recent"] is not None:
        int(now["recent"]["seconds"])
        for row in now["recent"]["rows"]:
            (row["consumer"], row["model"], int(row["requests"]))


def as_json(plan: Plan, gateways: Sequence[GatewayNow]) -> list[dict[str, object]]:
    return [
        {
            "host": gateway.host,
            "error": gateway.error,
            "models": [_of_model(backend, found) for backend, found in _backends(plan, gateway)],
            "using": gateway.now["using"] if gateway.now else [],
            "recent": gateway.now["recent"] if gateway.now else None,
        }
        for gateway in gateways
    ]


def _of_model(backend: Backend, found: dict[str, Any]) -> dict[str, object]:
    requests, waiting = _load(found)
    return {"model": backend.model, "in_work": requests, "waiting": waiting, "servers": found["servers"]}


def _backends(plan: Plan, gateway: GatewayNow) -> Iterator[tuple[Backend, dict[str, Any]]]:
    """The models of the plan that this gateway has."""
    known = {found["name"]: found for found in gateway.now["backends"]} if gateway.now else {}
    for backend in plan.gateway.backends:
        if backend.name in known:
            yield backend, known[backend.name]


def _load(found: dict[str, Any]) -> tuple[int, int]:
    """Requests that instances work on, and those that wait."""
    servers = found["servers"]
    return sum(one["requests"] for one in servers), found["queue"] + sum(one["queue"] for one in servers)


def view(plan: Plan, gateways: Sequence[GatewayNow]) -> RenderableType:
    """Tables for people: a line for each model that is in use or in trouble, and one for each consumer."""
    parts: list[RenderableType] = []
    several = len(gateways) > 1
    for gateway in gateways:
        if several:
            parts.append(f"[bold]{escape(gateway.host)}[/]")
        if gateway.error:
            parts.append(f"[bold red]{escape(gateway.host)}: {escape(gateway.error)}[/]")
            continue
        parts += [_queues(plan, gateway), *_users(gateway)]
    return Group(*parts)


def _queues(plan: Plan, gateway: GatewayNow) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("model", no_wrap=True)
    for column in ("in work", "places", "waiting"):
        table.add_column(column, justify="right")
    table.add_column("gets nothing", overflow="fold")
    for backend, found in _backends(plan, gateway):
        requests, waiting = _load(found)
        serving = [one for one in found["servers"] if one["status"].startswith("UP")]
        places = sum(one["most"] for one in serving)
        away = [f"{one['name']}: {one['reason'] or one['status']}" for one in found["servers"] if one not in serving]
        shown = f"[yellow]{waiting}[/]" if waiting else "0"
        table.add_row(backend.model, str(requests), str(places), shown, f"[red]{escape('; '.join(away))}[/]")
    return table


def _users(gateway: GatewayNow) -> Iterator[RenderableType]:
    assert gateway.now is not None
    recent = gateway.now["recent"]
    if recent is None:
        yield f"[red]the ledger on {escape(gateway.host)} does not answer (systemctl status flexi-ledger)[/]"
        recent = {"seconds": 0, "rows": []}
    now = {(entry["consumer"], entry["model"]): entry["requests"] for entry in gateway.now["using"]}
    rows = {(row["consumer"], row["model"]): row for row in recent["rows"]}
    if not now and not rows:
        yield "nobody has asked for anything in the last minutes"
        return
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for column in ("consumer", "model"):
        table.add_column(column, no_wrap=True)
    minutes = f"last {recent['seconds'] // 60} min"
    for column in ("now", minutes, "refused", "failed", "tokens out", "wait", "first"):
        table.add_column(column, justify="right")
    order = sorted(now.keys() | rows.keys(), key=lambda key: (-now.get(key, 0), -_requests(rows, key), str(key)))
    for key in order:
        row = rows.get(key)
        figures = ["0"] * 4 + [NOBODY] * 2
        if row:
            figures = [f"{row[name]:,}" for name in ("requests", "refused", "failed", "answer_tokens")]
            figures += [mean(row, name) for name in ("queue_ms", "first_byte_ms")]
        table.add_row(*(escape(word or NOBODY) for word in key), str(now.get(key, 0)), *figures)
    yield table


def _requests(rows: dict[tuple[str | None, str | None], dict[str, Any]], key: tuple[str | None, str | None]) -> int:
    return int(rows[key]["requests"]) if key in rows else 0
