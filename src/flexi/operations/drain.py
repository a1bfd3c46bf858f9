"""Drain of instances at the gateway before they stop, and their release once they serve again.

The switch is a file that flexi-agent answers HAProxy's agent-check with. The agent also says when HAProxy has
acknowledged it, so nothing here waits for a time that is only likely to be enough.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pyinfra import host, logger
from pyinfra.api import FunctionCommand, QuoteString, StringCommand, operation
from pyinfra.api.host import Host
from pyinfra.api.operation import OperationMeta
from pyinfra.api.state import State

from flexi.facts.driver import NvidiaDriver
from flexi.facts.gpus import InstanceGpus, NvidiaGpus
from flexi.facts.ollama import DRAIN_SWITCHES, ActiveInstances, DrainSwitches
from flexi.operations.host_failure import report_failure
from flexi.operations.prediction import predicted
from flexi.operations.rollout import end_turn
from flexi.plan.model.ollama import InstancePlan
from flexi_host.common.names import full_name

REASON_PREFIX = "flexi: "
"""Begins the reasons of switches that flexi set and may take away; an admin's own stay."""
DRAIN_REASON = f"{REASON_PREFIX}being changed"
STATUS_FILE = "/run/flexi-agent/status.json"
POLL_S = 0.5
STATUS_MAX_AGE_S = 20
"""An agent whose status is older answers nobody."""
FAULT_TIMEOUT_S = 180
"""A fault that lasts longer than this needs a person; the agent's first attempts are over by then."""
READY_TIMEOUT_S = 3600
"""Enough for 80 GB from a slow disk, several models one after the other."""

Commands = Generator[StringCommand | FunctionCommand, None, None]


@dataclass(frozen=True)
class Interruption:
    """Instances that an operation stops when it changes something, by group; each is drained first."""

    groups: tuple[str, ...]
    timeout_s: int
    """Longest drain in seconds."""


def running_instances(interruption: Interruption | None) -> Commands:
    """Drain running instances at the gateway and wait until open responses have finished.

    Yields nothing where none of them runs. After the time-out the rest is cut off, with a warning.
    """
    running = host.get_fact(ActiveInstances) if interruption else frozenset()
    groups = [group for group in interruption.groups if group in running] if interruption else []
    if not groups or not interruption:
        return
    switches = " ".join(shlex.quote(f"{DRAIN_SWITCHES}/{group}") for group in groups)
    script = f'mkdir -p {DRAIN_SWITCHES}; for f in {switches}; do [ -e "$f" ] || echo "{DRAIN_REASON}" >"$f"; done'
    yield StringCommand("sh", "-c", QuoteString(script))
    yield FunctionCommand(_wait_until_idle, (groups, interruption.timeout_s), {})


@dataclass(frozen=True)
class InstanceState:
    """State of one instance when it was polled."""

    acknowledged: bool
    """HAProxy has had the agent's answer with the present drain switch."""
    drained: bool
    open: int
    """Number of the gateway's connections: one for each response that is being written."""
    phases: dict[str, tuple[str, str]]
    """Phase and reason of each model, in the agent's words."""
    resident: frozenset[str]
    """Models in memory, in the instance's own words."""
    silent: bool = False
    """The agent answers nobody, so the gateway cannot acknowledge anything."""

    @property
    def idle(self) -> bool:
        """No request comes any more and none runs; `acknowledged` alone may be from before the switch was seen."""
        return (self.silent or (self.acknowledged and self.drained)) and self.open == 0

    def waits_for(self, models: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Return models that are neither served nor being downloaded, with phase and reason."""
        waiting = {}
        for model in models:
            phase, reason = self.phases.get(full_name(model), ("unknown", "not known to the agent"))
            if phase == "ready" and full_name(model) not in self.resident:
                phase, reason = "loading", ""
            if phase not in ("ready", "downloading"):
                waiting[model] = (phase, reason)
        return waiting


UNKNOWN_INSTANCE = InstanceState(acknowledged=False, drained=False, open=0, phases={}, resident=frozenset())
"""State of an instance that could not be polled."""

_POLL_INSTANCE = """
port=$(sed -n 's/^OLLAMA_HOST=.*:\\([0-9][0-9]*\\)$/\\1/p' /etc/ollama/{group}.env)
open=$(ss -Htn state established "( sport = :$port )" | awk '$3 !~ /127[.]0[.]0[.]1/' | wc -l)
echo "{group} $open $(curl -s -m 3 "http://127.0.0.1:$port/api/ps" | tr -d '\\n')"
"""


def poll_command(groups: Sequence[str]) -> str:
    """Return shell text that prints the agent's status on one line, the time, and a line for each instance."""
    lines = "".join(_POLL_INSTANCE.format(group=group) for group in groups)
    return f"cat {STATUS_FILE} 2>/dev/null | tr -d '\\n'; echo; date +%s{lines}"


def parse_poll(output: Sequence[str]) -> dict[str, InstanceState]:
    """Parse what `poll_command` printed; returns states by group, none for a host that could not be asked.

    An agent that is silent acknowledges nothing: nothing is waited for then.
    """
    if len(output) < 2:
        return {}
    status = _json(output[0])
    fresh = bool(status) and abs(int(output[1]) - float(status.get("time", 0))) <= STATUS_MAX_AGE_S
    entries = {entry["group"]: entry for entry in status.get("instances", ())} if fresh else {}
    states = {}
    for line in output[2:]:
        group, connections, listing = [*line.split(" ", 2), "", ""][:3]
        entry = entries.get(group, {})
        drain = entry.get("drain") or {"reason": None, "told": True}
        states[group] = InstanceState(
            acknowledged=bool(drain["told"]),
            drained=drain["reason"] is not None,
            open=int(connections or 0),
            phases={full_name(m["name"]): (m["phase"], m.get("reason") or "") for m in entry.get("models", ())},
            resident=frozenset(full_name(str(m.get("name", ""))) for m in _json(listing).get("models") or ()),
            silent=not entry,
        )
    return states


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _poll(on: Host, groups: Sequence[str]) -> dict[str, InstanceState]:
    _, output = on.run_shell_command(
        StringCommand("sh", "-c", QuoteString(poll_command(groups))), print_output=False, _sudo=True, _timeout=30
    )
    return parse_poll(output.stdout_lines)


def _wait_until_idle(state: State, host: Host, groups: list[str], timeout_s: int) -> bool:
    """Wait until the groups are idle. A response keeps its connection to its last token: one poll without is enough."""
    deadline = time.monotonic() + timeout_s
    busy = set(groups)
    while busy:
        for group, instance_state in _poll(host, sorted(busy)).items():
            if instance_state.idle:
                busy.discard(group)
        if busy and time.monotonic() > deadline:
            host.log_styled(
                f"{', '.join(sorted(busy))}: answers still run after {timeout_s} s (maintenance.drain_timeout), and "
                "are cut off",
                fg="yellow",
                log_func=logger.warning,
            )
            break
        if busy:
            time.sleep(POLL_S)
    return True


@operation()
def release_when_ready(
    instances: Sequence[InstancePlan], gpu_count: int, driver: int | None, after: Sequence[OperationMeta]
) -> Commands:
    """Release what was drained once it serves: the driver of branch `driver`, `gpu_count` GPUs, each group's own,
    and every model in memory. A host that is not right stays drained, fails, and ends the turns of the others.

    `after` are the operations that drain, so that a dry run can predict the release.
    """
    switches = host.get_fact(DrainSwitches)
    drained_by_flexi = [group for group, reason in switches.items() if reason.startswith(REASON_PREFIX)]
    if not host.state.is_executing:
        running: frozenset[str] = host.get_fact(ActiveInstances)
        if drained_by_flexi or (running and predicted(after)):
            yield StringCommand("true")
        else:
            host.noop("nothing is drained")
        return
    if not drained_by_flexi:
        end_turn(host)
        host.noop("nothing is drained")
        return
    present = [instance for instance in instances if instance.group in drained_by_flexi]
    if driver is not None and present:
        yield FunctionCommand(_check_gpus, (present, gpu_count, driver), {})
        yield FunctionCommand(_wait_until_ready, (present,), {})
    paths = " ".join(shlex.quote(f"{DRAIN_SWITCHES}/{group}") for group in drained_by_flexi)
    yield StringCommand("sh", "-c", QuoteString(f"rm -f {paths}"))
    yield FunctionCommand(_wait_until_acknowledged, ([instance.group for instance in present],), {})


def _check_gpus(state: State, host: Host, instances: list[InstancePlan], gpu_count: int, driver: int) -> bool:
    driver_state = host.get_fact(NvidiaDriver)
    if driver_state.running_major != driver or driver_state.mismatch:
        words = driver_state.smi_error or "no error from nvidia-smi"
        return report_failure(
            state, host, f"the running driver is {driver_state.running or 'none'}, wanted {driver}.x ({words})"
        )
    cards = host.get_fact(NvidiaGpus)
    seen = {gpu.uuid for gpu in cards if gpu.fault is None}
    broken = [f"{gpu.called}: {gpu.fault}" for gpu in cards if gpu.fault]
    if broken:
        return report_failure(state, host, f"not usable: {'; '.join(broken)}: stays drained")
    if len(seen) != gpu_count:
        return report_failure(state, host, f"nvidia-smi shows {len(seen)} of {gpu_count} GPUs: stays drained")
    for instance in instances:
        wanted = host.get_fact(InstanceGpus, path=instance.environment_file)
        missing = {uuid for uuid in wanted if uuid not in seen}
        if missing:
            words = f"group {instance.group} misses {', '.join(sorted(missing))}: stays drained"
            return report_failure(state, host, words)
    return True


def _wait_until_ready(state: State, host: Host, instances: list[InstancePlan]) -> bool:
    begin = time.monotonic()
    faulty_since: float | None = None
    while True:
        states = _poll(host, [instance.group for instance in instances])
        waiting = {
            f"{instance.group} {model}": why
            for instance in instances
            for model, why in states.get(instance.group, UNKNOWN_INSTANCE)
            .waits_for(m.name for m in instance.models)
            .items()
        }
        if not waiting and len(states) == len(instances):
            return True
        now = time.monotonic()
        only_faults = all(phase in ("fault", "unknown") for phase, _ in waiting.values())
        faulty_since = (faulty_since or now) if only_faults else None
        if now - begin > READY_TIMEOUT_S or (faulty_since is not None and now - faulty_since > FAULT_TIMEOUT_S):
            words = "; ".join(f"{what}: {phase} {reason}".strip() for what, (phase, reason) in waiting.items())
            return report_failure(state, host, f"does not serve again and stays drained: {words}")
        time.sleep(POLL_S)


def _wait_until_acknowledged(state: State, host: Host, groups: list[str]) -> bool:
    """Wait until the gateway has acknowledged that this host is back: only then is the next drained."""
    deadline = time.monotonic() + STATUS_MAX_AGE_S
    while groups and time.monotonic() < deadline:
        states = _poll(host, groups)
        if all(
            one.acknowledged and not one.drained for one in (states.get(group, UNKNOWN_INSTANCE) for group in groups)
        ):
            break
        time.sleep(POLL_S)
    end_turn(host)
    return True
