"""Taking instances out of the gateway before they stop, and bringing them back once they serve again.

The switch is a file that flexi-agent answers HAProxy's agent-check with. The agent also says when HAProxy has been
told, so nothing here waits for a time that ought to do.
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
from flexi.operations.foresight import announced
from flexi.operations.refusal import say
from flexi.operations.turns import end_turn
from flexi.plan.model.ollama import InstancePlan
from flexi_host.common.names import full_name

MARK = "flexi: "
"""Begins the reasons of switches that flexi set and may take away; an admin's own stay."""
REASON = f"{MARK}being changed"
STATUS_FILE = "/run/flexi-agent/status.json"
POLL_S = 0.5
FRESH_S = 20
"""An agent whose status is older answers nobody."""
FAULT_S = 180
"""A fault that lasts longer than this needs a person; the agent's first attempts are over by then."""
READY_S = 3600
"""80 GB from a slow disk, several models one after the other."""

Commands = Generator[StringCommand | FunctionCommand, None, None]


@dataclass(frozen=True)
class Interruption:
    """What an operation stops when it changes something: instances by group, drained first for at most `timeout_s`."""

    groups: tuple[str, ...]
    timeout_s: int


def drain(interruption: Interruption | None) -> Commands:
    """Commands that take the instances which run out of the gateway and wait until their last answer has ended.

    Nothing where none of them runs. After the time-out the rest is cut off, and said so.
    """
    running = host.get_fact(ActiveInstances) if interruption else frozenset()
    groups = [group for group in interruption.groups if group in running] if interruption else []
    if not groups or not interruption:
        return
    switches = " ".join(shlex.quote(f"{DRAIN_SWITCHES}/{group}") for group in groups)
    script = f'mkdir -p {DRAIN_SWITCHES}; for f in {switches}; do [ -e "$f" ] || echo "{REASON}" >"$f"; done'
    yield StringCommand("sh", "-c", QuoteString(script))
    yield FunctionCommand(_wait_until_idle, (groups, interruption.timeout_s), {})


@dataclass(frozen=True)
class Look:
    """One instance at one moment."""

    told: bool
    """The gateway has had the agent's answer with the present drain switch."""
    drained: bool
    open: int
    """Connections of clients, which is the gateway: one for each answer that is being written."""
    phases: dict[str, tuple[str, str]]
    """Phase and reason of each model, in the agent's words."""
    resident: frozenset[str]
    """Models in memory, in the instance's own words."""
    silent: bool = False
    """The agent answers nobody, so the gateway cannot be told."""

    @property
    def left(self) -> bool:
        """Nothing comes any more and nothing runs. Told alone may be from before the switch was noticed."""
        return (self.silent or (self.told and self.drained)) and self.open == 0

    def waits_for(self, models: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Models that are neither served nor being downloaded, with phase and reason."""
        waiting = {}
        for model in models:
            phase, reason = self.phases.get(full_name(model), ("unknown", "not known to the agent"))
            if phase == "ready" and full_name(model) not in self.resident:
                phase, reason = "loading", ""
            if phase not in ("ready", "downloading"):
                waiting[model] = (phase, reason)
        return waiting


UNSEEN = Look(told=False, drained=False, open=0, phases={}, resident=frozenset())
"""Of an instance that could not be asked."""

_INSTANCE = """
port=$(sed -n 's/^OLLAMA_HOST=.*:\\([0-9][0-9]*\\)$/\\1/p' /etc/ollama/{group}.env)
open=$(ss -Htn state established "( sport = :$port )" | awk '$3 !~ /127[.]0[.]0[.]1/' | wc -l)
echo "{group} $open $(curl -s -m 3 "http://127.0.0.1:$port/api/ps" | tr -d '\\n')"
"""


def look_command(groups: Sequence[str]) -> str:
    """Shell text that prints the agent's status on one line, the time, and a line for each instance."""
    lines = "".join(_INSTANCE.format(group=group) for group in groups)
    return f"cat {STATUS_FILE} 2>/dev/null | tr -d '\\n'; echo; date +%s{lines}"


def read_looks(output: Sequence[str]) -> dict[str, Look]:
    """What `look_command` printed, by group. An agent that is silent has told nobody anything: nothing is waited for
    then. A host that could not be asked is in no look."""
    if len(output) < 2:
        return {}
    status = _json(output[0])
    fresh = bool(status) and abs(int(output[1]) - float(status.get("time", 0))) <= FRESH_S
    entries = {entry["group"]: entry for entry in status.get("instances", ())} if fresh else {}
    looks = {}
    for line in output[2:]:
        group, connections, listing = [*line.split(" ", 2), "", ""][:3]
        entry = entries.get(group, {})
        drain = entry.get("drain") or {"reason": None, "told": True}
        looks[group] = Look(
            told=bool(drain["told"]),
            drained=drain["reason"] is not None,
            open=int(connections or 0),
            phases={full_name(m["name"]): (m["phase"], m.get("reason") or "") for m in entry.get("models", ())},
            resident=frozenset(full_name(str(m.get("name", ""))) for m in _json(listing).get("models") or ()),
            silent=not entry,
        )
    return looks


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _look(on: Host, groups: Sequence[str]) -> dict[str, Look]:
    _, output = on.run_shell_command(
        StringCommand("sh", "-c", QuoteString(look_command(groups))), print_output=False, _sudo=True, _timeout=30
    )
    return read_looks(output.stdout_lines)


def _wait_until_idle(state: State, host: Host, groups: list[str], timeout_s: int) -> bool:
    """A connection of an answer stays from its first look to its last token; one look without any is enough."""
    deadline = time.monotonic() + timeout_s
    busy = set(groups)
    while busy:
        for group, look in _look(host, sorted(busy)).items():
            if look.left:
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
def returned(
    instances: Sequence[InstancePlan], gpu_count: int, driver: int | None, after: Sequence[OperationMeta]
) -> Commands:
    """Bring back what was drained once it serves: the driver of branch `driver`, `gpu_count` GPUs, each group's own,
    and every model in memory. A host that is not right stays drained, fails, and ends the turns of the others.

    `after` are the operations that drain, for a dry run's sake.
    """
    switches = host.get_fact(DrainSwitches)
    ours = [group for group, reason in switches.items() if reason.startswith(MARK)]
    if not host.state.is_executing:
        running: frozenset[str] = host.get_fact(ActiveInstances)
        if ours or (running and announced(after)):
            yield StringCommand("true")
        else:
            host.noop("nothing is drained")
        return
    if not ours:
        end_turn(host)
        host.noop("nothing is drained")
        return
    present = [instance for instance in instances if instance.group in ours]
    if driver is not None and present:
        yield FunctionCommand(_check_gpus, (present, gpu_count, driver), {})
        yield FunctionCommand(_wait_until_ready, (present,), {})
    paths = " ".join(shlex.quote(f"{DRAIN_SWITCHES}/{group}") for group in ours)
    yield StringCommand("sh", "-c", QuoteString(f"rm -f {paths}"))
    yield FunctionCommand(_wait_until_told, ([instance.group for instance in present],), {})


def _check_gpus(state: State, host: Host, instances: list[InstancePlan], gpu_count: int, driver: int) -> bool:
    truth = host.get_fact(NvidiaDriver)
    if truth.running_major != driver or truth.mismatch:
        words = truth.smi_error or "no error from nvidia-smi"
        return say(state, host, f"the running driver is {truth.running or 'none'}, wanted {driver}.x ({words})")
    cards = host.get_fact(NvidiaGpus)
    seen = {gpu.uuid for gpu in cards if gpu.fault is None}
    broken = [f"{gpu.called}: {gpu.fault}" for gpu in cards if gpu.fault]
    if broken:
        return say(state, host, f"not usable: {'; '.join(broken)}: stays drained")
    if len(seen) != gpu_count:
        return say(state, host, f"nvidia-smi shows {len(seen)} of {gpu_count} GPUs: stays drained")
    for instance in instances:
        wanted = host.get_fact(InstanceGpus, path=instance.environment_file)
        missing = {uuid for uuid in wanted if uuid not in seen}
        if missing:
            words = f"group {instance.group} misses {', '.join(sorted(missing))}: stays drained"
            return say(state, host, words)
    return True


def _wait_until_ready(state: State, host: Host, instances: list[InstancePlan]) -> bool:
    begin = time.monotonic()
    faulty_since: float | None = None
    while True:
        looks = _look(host, [instance.group for instance in instances])
        waiting = {
            f"{instance.group} {model}": why
            for instance in instances
            for model, why in looks.get(instance.group, UNSEEN).waits_for(m.name for m in instance.models).items()
        }
        if not waiting and len(looks) == len(instances):
            return True
        now = time.monotonic()
        only_faults = all(phase in ("fault", "unknown") for phase, _ in waiting.values())
        faulty_since = (faulty_since or now) if only_faults else None
        if now - begin > READY_S or (faulty_since is not None and now - faulty_since > FAULT_S):
            words = "; ".join(f"{what}: {phase} {reason}".strip() for what, (phase, reason) in waiting.items())
            return say(state, host, f"does not serve again and stays drained: {words}")
        time.sleep(POLL_S)


def _wait_until_told(state: State, host: Host, groups: list[str]) -> bool:
    """The next host is only drained when the gateway knows that this one is back."""
    deadline = time.monotonic() + FRESH_S
    while groups and time.monotonic() < deadline:
        looks = _look(host, groups)
        if all(look.told and not look.drained for look in (looks.get(group, UNSEEN) for group in groups)):
            break
        time.sleep(POLL_S)
    end_turn(host)
    return True
