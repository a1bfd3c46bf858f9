"""From what the hosts said to what is wrong with the service now: one judgement for `status`, the doctor and `verify`.

Pure. A problem is something that users lose now; what will be lost later is the doctor's (`flexi.doctor`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from flexi.plan.model.site import Plan
from flexi.status import chat as chat_status
from flexi.status.instances import Look, model_states


class Subject(Enum):
    """Parts of the service that a problem can be about; the value is the doctor's id of it."""

    HOST = "unreachable"
    UNIT = "unit-down"
    FIREWALL = "firewall-open"
    AGENT = "agent-silent"
    CARDS = "gpu-other"
    MODEL = "model-not-ready"
    GATEWAY = "gateway-down"
    CLIENTS = "gateway-answers-wrong"
    SERVER = "gateway-withholds"
    KEYS = "keys-differ"
    LEDGER = "ledger-silent"
    CHAT = "chat-down"
    BOT = "bot-not-ready"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the service now."""

    host: str
    subject: Subject
    what: str
    """In words, with names and numbers."""
    unit: str = ""
    """The service that is stopped, where the problem is that."""
    group: str = ""
    """The group whose model or server it is about."""


def problems(plan: Plan, look: Look) -> list[Problem]:
    """Judge a look at the whole site. What a stopped service or an unreachable host explains is said once."""
    silent = {units.host for units in look.units if units.error}
    found = [*_hosts(look), *_agents(plan, look, silent), *_gateways(plan, look, silent), *_chat(plan, look, silent)]
    stopped = {(one.host, one.unit) for one in found if one.unit}
    return [one for one in found if not _follows(one, stopped)]


_SERVICES = {
    Subject.GATEWAY: ("haproxy.service",),
    Subject.CLIENTS: ("haproxy.service", "flexi-catalogue.service", "flexi-guard.service"),
    Subject.KEYS: ("haproxy.service",),
    Subject.LEDGER: ("flexi-ledger.service", "flexi-ledger.socket"),
    Subject.AGENT: ("flexi-agent.service",),
    Subject.CHAT: ("flexi-chat.service", "flexi-chat-front.service", "haproxy.service", "postgresql.service"),
    Subject.FIREWALL: ("flexi-firewall.service",),
}
"""Services of a host without which a problem of that kind is no news."""


def _follows(problem: Problem, stopped: set[tuple[str, str]]) -> bool:
    if problem.unit:
        return False
    services = (*_SERVICES.get(problem.subject, ()), f"ollama@{problem.group}.service")
    return any((problem.host, service) in stopped for service in services)


def _hosts(look: Look) -> Iterator[Problem]:
    for units in look.units:
        if units.error:
            yield Problem(units.host, Subject.HOST, units.error)
            continue
        for unit, state in units.stopped:
            yield Problem(units.host, Subject.UNIT, f"{unit} is {state}", unit=unit)
        if not units.firewall:
            what = "its firewall does not drop what the plan does not open: every port is open to everyone"
            yield Problem(units.host, Subject.FIREWALL, what)


def _agents(plan: Plan, look: Look, silent: set[str]) -> Iterator[Problem]:
    for status in look.hosts:
        if status.error and status.host not in silent:
            yield Problem(status.host, Subject.AGENT, status.error)
        for severity, what in status.findings():
            if severity == "error":
                yield Problem(status.host, Subject.CARDS, what)
        for group, model in model_states(plan, status):
            if model["phase"] != "ready":
                reason = f": {model['reason']}" if model.get("reason") else ""
                what = f"{model['name']} on {group} is not ready: {model['phase']}{reason}"
                yield Problem(status.host, Subject.MODEL, what, group=group)


def _gateways(plan: Plan, look: Look, silent: set[str]) -> Iterator[Problem]:
    states = [(group, model) for status in look.hosts for group, model in model_states(plan, status)]
    unready = {(group, model["name"]) for group, model in states if model["phase"] != "ready"}
    for gateway in look.gateways:
        if gateway.error:
            if gateway.host not in silent:
                yield Problem(gateway.host, Subject.GATEWAY, gateway.error)
            continue
        assert gateway.now is not None
        if gateway.now["recent"] is None:
            yield Problem(gateway.host, Subject.LEDGER, "the ledger does not answer: nobody counts who uses what")
        known = {backend["name"]: backend for backend in gateway.now["backends"]}
        for backend in plan.gateway.backends:
            if backend.name not in known:
                yield Problem(gateway.host, Subject.SERVER, f"HAProxy does not know {backend.model}: deploy")
                continue
            servers = known[backend.name]["servers"]
            served = any(server["status"].startswith("UP") for server in servers)
            for server in servers:
                status = server["status"]
                # Who drains a group while another serves its models does so on purpose; the doctor warns of it.
                meant = served and status.startswith("DRAIN")
                if status.startswith("UP") or meant or (server["name"], backend.model) in unready:
                    continue
                what = f"{server['name']} gets no requests for {backend.model}: {server['reason'] or status}"
                yield Problem(gateway.host, Subject.SERVER, what, group=server["name"])
    for view in look.clients:
        if view.error:
            if view.host not in silent:
                yield Problem(view.host, Subject.GATEWAY, view.error)
            continue
        yield from (Problem(view.host, Subject.CLIENTS, what) for what in view.problems)
        if view.keys_differ:
            yield Problem(view.host, Subject.KEYS, view.keys_differ)


def _chat(plan: Plan, look: Look, silent: set[str]) -> Iterator[Problem]:
    chat = look.chat
    if chat is None or plan.chat is None:
        return
    if chat.now is None:
        if chat.host not in silent:
            yield Problem(chat.host, Subject.CHAT, f"the chat cannot be asked: {chat.error}")
        return
    state = chat_status.state(chat.now)
    if state != "runs":
        yield Problem(chat.host, Subject.CHAT, f"the chat does not serve: {state}")
        return
    yield from (Problem(view.host, Subject.CHAT, view.chat) for view in look.clients if view.chat)
    for reason in chat_status.unready_bots(plan.chat, chat):
        yield Problem(chat.host, Subject.BOT, reason)
