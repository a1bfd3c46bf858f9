"""Surplus in stores: deleted once all that the site wants elsewhere serves there."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass

from pyinfra import host, logger
from pyinfra.api import QuoteString, StringCommand, operation

from flexi.facts.ollama import GROUP_NAME, OLLAMA_HOMES, GroupStore, OllamaStores
from flexi.operations import deletion
from flexi.plan.model.ollama import InstancePlan
from flexi.plan.model.site import HostPlan, Plan
from flexi.status.instances import READ_COMMAND, HostStatus, understood
from flexi_host.common.names import full_name

LOADING_TIMEOUT_S = 300.0
"""Longest wait in seconds for models that load elsewhere; after it the next deploy removes the surplus."""
POLL_S = 2.0


@dataclass(frozen=True)
class Surplus:
    """A model that a store has and the plan does not give to its group; a whole store where the group is gone."""

    group: str
    models: tuple[str, ...]
    port: int | None
    """Port of the group's instance; None for the store of a group that the plan does not have on this host."""

    @property
    def words(self) -> str:
        return f"{self.models[0]} of group {self.group}" if self.port else f"{OLLAMA_HOMES}/{self.group}"

    @property
    def command(self) -> StringCommand:
        if self.port is None:
            if not GROUP_NAME.match(self.group):
                raise ValueError(f"{self.group!r} is no name of a group")
            # Its unit was stopped earlier in the same deploy. If it runs after all, somebody uses what is there.
            unit, home = f"ollama@{self.group}.service", f"{OLLAMA_HOMES}/{self.group}"
            running = f"! systemctl is-active -q {unit} || {{ echo '{unit} still runs: {home} stays' >&2; exit 1; }}"
            return StringCommand("sh", "-c", QuoteString(f"{running}\n{deletion.shell_script([home])}"))
        url = f"http://127.0.0.1:{self.port}/api/delete"
        body = json.dumps({"model": self.models[0]})
        return StringCommand(
            *("curl", "-fsS", "--noproxy", "'*'", "-X", "DELETE", "-H", QuoteString("Content-Type: application/json")),
            *("-d", QuoteString(body), url),
        )


def surplus(host_plan: HostPlan, stores: Iterable[GroupStore]) -> list[Surplus]:
    """Return what the stores of a host have beyond the plan."""
    instances = {i.group: i for i in host_plan.ollama.instances} if host_plan.ollama else {}
    found = []
    for stored in stores:
        instance = instances.get(stored.group)
        if instance is None:
            found.append(Surplus(stored.group, stored.models, None))
            continue
        # A mirror's long name is there until the agent has renamed it.
        wanted = {full_name(name) for model in instance.models for name in (model.name, model.source)}
        found += [Surplus(stored.group, (name,), instance.port) for name in stored.models if name not in wanted]
    return found


Statuses = Mapping[str, HostStatus | None]
"""Status of the agents by host; None for a host of this run that is polled later."""


@dataclass(frozen=True)
class Obstacle:
    """Reason why something stays for now."""

    words: str
    passing: bool = False
    """It is being loaded: worth a little patience."""


def obstacle(item: Surplus, host_plan: HostPlan, plan: Plan, statuses: Statuses) -> Obstacle | None:
    """Return why `item` must stay: no instance serves a model of it yet, or its own cannot be asked."""
    if item.port is not None:
        own = _phase(statuses, host_plan.name, item.group, None)
        if own != "ready":
            return Obstacle(f"group {item.group} is {own}", passing=own == "starting")
    for model in item.models:
        for instance in _instances_of(plan, model):
            if instance.host not in statuses:
                return Obstacle(f"{model} belongs to {instance.host}/{instance.group}, which is not part of this run")
            phase = _phase(statuses, instance.host, instance.group, model)
            if phase != "ready":
                words = f"{model} is {phase} on {instance.host}/{instance.group}"
                return Obstacle(words, passing=phase in ("starting", "loading"))
    return None


def _instances_of(plan: Plan, model: str) -> list[InstancePlan]:
    return [i for i in plan.instances if any(full_name(planned.name) == model for planned in i.models)]


def _phase(statuses: Statuses, name: str, group: str, model: str | None) -> str:
    """Return the phase of a model, or of the instance; `ready` where the host is yet to be asked."""
    if name not in statuses:
        return "not part of this run"
    status = statuses[name]
    if status is None:
        return "ready"
    if status.error is not None or status.status is None:
        return f"unknown ({status.error})"
    for instance in status.status["instances"]:
        if instance["group"] == group:
            if model is None:
                return str(instance["phase"])
            for known in instance["models"]:
                if full_name(known["name"]) == model:
                    return str(known["phase"])
    return "unknown to the agent"


@operation()
def remove_surplus(host_plan: HostPlan, plan: Plan) -> Generator[StringCommand, None, None]:
    """Delete models that the site does not want where they are, and stores of groups that are gone. A model that the
    plan has elsewhere stays until it is ready at all of its places; one that it has nowhere goes. What stays is said.

    Decided when it runs: the models that it waits for are loaded in the same deploy. A dry run takes that as given.
    """
    stores = host.get_fact(OllamaStores)
    found = surplus(host_plan, stores)
    if not found:
        host.noop("the stores hold what the site wants")
        return
    if not host.state.is_executing:
        run = dict.fromkeys(_hosts_in_run())
        kept = [item for item in found if obstacle(item, host_plan, plan, run) is not None]
        for item in found:
            if item not in kept:
                _log_removal(item, plan, "would be")
                yield item.command
        if len(kept) == len(found):
            host.noop("what is left over is still needed")
        return
    obstacles = _obstacles_after_waiting(found, host_plan, plan)
    for item in found:
        reason = obstacles[item]
        if reason is not None:
            host.log_styled(f"{item.words} stays: {reason.words}", fg="yellow", log_func=logger.info)
            continue
        _log_removal(item, plan, "is")
        yield item.command


def _log_removal(item: Surplus, plan: Plan, verb: str) -> None:
    unwanted = [model for model in item.models if not _instances_of(plan, model)]
    words = f" ({', '.join(unwanted)}: wanted nowhere any more)" if unwanted else ""
    host.log_styled(f"{item.words} {verb} removed{words}", log_func=logger.info)


def _obstacles_after_waiting(found: list[Surplus], plan_host: HostPlan, plan: Plan) -> dict[Surplus, Obstacle | None]:
    deadline = time.monotonic() + LOADING_TIMEOUT_S
    while True:
        statuses = {name: _poll(name) for name in _hosts_in_run()}
        obstacles = {item: obstacle(item, plan_host, plan, statuses) for item in found}
        if time.monotonic() >= deadline or not any(o is not None and o.passing for o in obstacles.values()):
            return obstacles
        time.sleep(POLL_S)


def _hosts_in_run() -> list[str]:
    """Return names of the hosts of this run that have not failed."""
    state = host.state
    return [other.name for other in state.inventory.get_active_hosts() if state.is_host_in_limit(other)]


def _poll(name: str) -> HostStatus:
    other = host.state.inventory.get_host(name)
    answered, output = other.run_shell_command(READ_COMMAND)
    if not answered:
        return HostStatus(name, "the agent has written no status", None)
    return understood(name, output.stdout)
