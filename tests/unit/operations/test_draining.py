"""Turns, drains and returns: who is touched when, and what is waited for."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pyinfra import host
from pyinfra.api import Config, Inventory, State, operation
from pyinfra.api.connect import connect_all
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.operation import add_op
from pyinfra.api.operations import run_ops

from flexi.operations import drain, restart, rollout
from flexi.operations.drain import Interruption
from flexi.plan.model.ollama import InstancePlan, ModelOnInstance

MODEL = ModelOnInstance(
    name="llama3:8b",
    source="llama3:8b",
    insecure=False,
    weights_bytes=1,
    kv_cache_bytes=1,
    context=1,
    embedding=False,
    tokens_per_second=None,
)
INSTANCE = InstancePlan(
    group="a",
    host="h",
    port=11434,
    gpus=(0,),
    vram_bytes=1,
    environment=(),
    home="/h",
    store="/h/m",
    parallel=1,
    models=(MODEL,),
)


def state_of(*hosts: tuple[str, dict[str, object]]) -> State:
    fake = {"fake_delay": 0, "fake_delay_jitter": 0}
    data = [(f"@fake/{name}", {**fake, "fake_responses": responses}) for name, responses in hosts]
    state = State(Inventory((data, {})), Config())
    connect_all(state)
    return state


def agent(
    phase: str = "ready", drained: bool = False, told: bool = True, open_: int = 0, resident: str = "llama3:8b"
) -> list[str]:
    """What the host prints for a look: status, clock, and one instance."""
    reason = "flexi: being changed" if drained else None
    model = {"name": "llama3:8b", "phase": phase, "reason": "because"}
    entry = {"group": "a", "drain": {"reason": reason, "told": told}, "models": [model]}
    listing = json.dumps({"models": [{"name": resident}] if resident else []})
    return [json.dumps({"time": 1000.0, "instances": [entry]}), "1000", f"a {open_} {listing}"]


def test_a_look_says_what_is_waited_for() -> None:
    look = drain.parse_poll(agent(phase="loading", drained=True, told=False, open_=2))["a"]
    assert (look.acknowledged, look.drained, look.open) == (False, True, 2)
    assert look.waits_for(["llama3:8b"]) == {"llama3:8b": ("loading", "because")}


@pytest.mark.parametrize(
    ("phase", "resident", "waits"),
    [("ready", "llama3:8b", False), ("ready", "", True), ("downloading", "", False), ("fault", "llama3:8b", True)],
)
def test_ready_is_what_the_agent_and_the_instance_both_say(phase: str, resident: str, waits: bool) -> None:
    """The agent's word may be older than the restart; a download is nothing that a turn waits for."""
    assert bool(drain.parse_poll(agent(phase=phase, resident=resident))["a"].waits_for(["LLAMA3:8b"])) is waits


def test_an_agent_that_is_silent_keeps_nobody_waiting_for_its_word() -> None:
    for output in (["", "1000", "a 1 "], ['{"time": 900, "instances": []}', "1000", "a 1 "]):
        look = drain.parse_poll(output)["a"]
        assert look.acknowledged
        assert look.open == 1
        assert not look.idle
        assert drain.parse_poll([*output[:2], "a 0 "])["a"].idle


def commands_of(state: State, name: str) -> list[str]:
    host = state.inventory.get_host(f"@fake/{name}")
    assert host is not None
    return [str(command) for command in host.connector.executed_commands]


def restart_of_a(state: State, **more: Any) -> Any:
    arguments = {"service": "ollama@a.service", "watch": ("/etc/x",), "command": "systemctl restart ollama@a.service"}
    return add_op(state, restart.on_change, interrupts=Interruption(("a",), 60), **arguments, **more)


def test_an_instance_is_stopped_only_once_the_gateway_knows_and_the_last_answer_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = [agent(), agent(told=False, drained=True), agent(drained=True, open_=2), agent(drained=True)]
    told: list[int] = []
    state = state_of(("h", {"systemctl list-units": ["ollama@a.service"], "sha256sum": ["new", "old"]}))
    monkeypatch.setattr(time, "sleep", lambda _: told.append(1))

    def look(*_: object) -> Any:
        # The first one is from before the switch was noticed.
        return {"a": drain.parse_poll(looks[min(len(told), 3)])["a"]}

    monkeypatch.setattr("flexi.operations.drain._poll", look)
    restart_of_a(state)
    run_ops(state)
    assert len(told) == 3
    commands = commands_of(state, "h")
    order = [next(i for i, c in enumerate(commands) if text in c) for text in ("drain.d/a", "systemctl restart")]
    assert order == sorted(order)


def test_what_does_not_run_is_not_drained() -> None:
    state = state_of(("h", {"systemctl list-units": [], "sha256sum": ["new", "old"]}))
    restart_of_a(state)
    run_ops(state)
    assert not any("drain.d" in command for command in commands_of(state, "h"))


def test_answers_that_never_end_are_cut_off_in_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter(range(0, 10_000, 20))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr("flexi.operations.drain._poll", lambda *_: drain.parse_poll(agent(drained=True, open_=1)))
    state = state_of(("h", {"systemctl list-units": ["ollama@a.service"], "sha256sum": ["new", "old"]}))
    restart_of_a(state)
    run_ops(state)
    assert "answers still run after 60 s" in caplog.text
    assert any("systemctl restart" in command for command in commands_of(state, "h"))


def test_a_dry_run_foresees_the_restart_from_what_will_be_written() -> None:
    state = state_of(("h", {"sha256sum": ["same", "same"], "systemctl list-units": []}))
    host = state.inventory.get_host("@fake/h")
    assert host is not None
    changes = add_op(state, restart.on_change, service="other", watch=("/etc/y",), command="true")[host]
    changes._maybe_is_change = True
    assert restart_of_a(state, after=[changes])[host].will_change
    changes._maybe_is_change = False
    assert not restart_of_a(state, after=[changes])[host].will_change


SMI = ["smi_fields=index,uuid,name", "smi_status=0", "smi=0, GPU-0, A40"]
GPUS = {
    "running=": ["running=Module  535.309.01  x", "boot_id=b", *SMI],
    "the_cards": SMI,
    "CUDA_VISIBLE_DEVICES": ["GPU-0"],
    'head -n1 "$f"': ["a flexi: being changed", "z by the admin"],
}


def give_back(state: State, gpu_count: int = 1) -> Any:
    return add_op(state, drain.release_when_ready, instances=[INSTANCE], gpu_count=gpu_count, driver=535, after=[])


def test_what_flexi_drained_comes_back_and_an_admins_own_switch_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flexi.operations.drain._poll", lambda *_: drain.parse_poll(agent()))
    state = state_of(("h", GPUS))
    give_back(state)
    run_ops(state)
    assert [command for command in commands_of(state, "h") if "rm -f" in command] == [
        "sh -c 'rm -f /etc/flexi/drain.d/a'"
    ]


@pytest.mark.parametrize(
    ("facts", "gpu_count", "words"),
    [
        ({"running=": ["running=Module  580.159.03  x", "boot_id=b", *SMI]}, 1, "wanted 535.x"),
        ({}, 2, "nvidia-smi shows 1 of 2 GPUs"),
        ({"CUDA_VISIBLE_DEVICES": ["GPU-9"]}, 1, "group a misses GPU-9"),
    ],
    ids=["another driver", "a card fewer", "another card"],
)
def test_a_host_that_is_not_right_stays_drained_and_fails(
    facts: dict[str, object], gpu_count: int, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    state = state_of(("h", {**GPUS, **facts}))
    give_back(state, gpu_count)
    with pytest.raises(PyinfraError):
        run_ops(state)
    assert words in caplog.text
    assert not any("rm -f" in command for command in commands_of(state, "h"))


def test_a_host_that_does_not_answer_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that breaks or a command that takes too long: the look is empty, and says nothing about anybody."""
    slept: list[int] = []
    answers = [[], agent(told=False, drained=True), [], [], agent(drained=True)]
    monkeypatch.setattr(time, "sleep", lambda _: slept.append(1))
    monkeypatch.setattr("flexi.operations.drain._poll", lambda *_: drain.parse_poll(answers[min(len(slept), 4)]))
    state = state_of(("h", {"systemctl list-units": ["ollama@a.service"], "sha256sum": ["new", "old"]}))
    restart_of_a(state)
    run_ops(state)
    assert len(slept) == 4, "drained"
    slept.clear()
    # In memory again at the second look; that the gateway knows is seen at the fifth.
    answers = [[], agent(drained=True), [], [], agent()]
    looked: list[int] = []

    def look(*_: object) -> Any:
        looked.append(1)
        return drain.parse_poll(answers[min(len(looked) - 1, 4)])

    monkeypatch.setattr("flexi.operations.drain._poll", look)
    state = state_of(("h", GPUS))
    give_back(state)
    run_ops(state)
    assert len(looked) == 5, "given back"


def test_a_model_that_does_not_come_back_keeps_its_host_drained(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter(range(0, 100_000, 30))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr("flexi.operations.drain._poll", lambda *_: drain.parse_poll(agent(phase="fault")))
    state = state_of(("h", GPUS))
    give_back(state)
    with pytest.raises(PyinfraError):
        run_ops(state)
    assert "a llama3:8b: fault because" in caplog.text


def test_a_host_whose_groups_are_all_up_changes_nothing() -> None:
    state = state_of(("h", {**GPUS, 'head -n1 "$f"': ["z by the admin"]}))
    give_back(state)
    run_ops(state)
    assert not any("rm -f" in command for command in commands_of(state, "h"))


def begin(state: State, name: str, number: int, mine: int) -> None:
    host = state.inventory.get_host(f"@fake/{name}")
    add_op(state, rollout.wait_for_turn, number=number, own_turn=mine, host=host)


def test_the_next_host_is_not_touched_while_one_has_not_come_back(caplog: pytest.LogCaptureFixture) -> None:
    state = state_of(("a", {}), ("b", {}))
    begin(state, "a", 1, 1)
    begin(state, "b", 1, 2)
    begin(state, "b", 2, 2)
    run_ops(state)
    assert "not touched: @fake/a did not come back right" in caplog.text
    assert [host.name for host in state.failed_hosts] == ["@fake/b"]


def test_a_host_that_came_back_lets_the_next_one_go_on() -> None:
    state = state_of(("a", {}), ("b", {}))
    begin(state, "a", 1, 1)
    begin(state, "b", 1, 2)
    add_op(state, _ended, host=state.inventory.get_host("@fake/a"))
    begin(state, "b", 1, 2)
    begin(state, "b", 2, 2)
    run_ops(state)
    assert not state.failed_hosts


def test_hosts_that_serve_nobody_share_a_turn() -> None:
    state = state_of(("a", {}), ("b", {}))
    for name in ("a", "b"):
        begin(state, name, 0, 0)
    run_ops(state)
    assert not state.failed_hosts
    names = ["a", "b", "c"]
    assert [rollout.turn_number(name, names, serving=True) for name in names] == [1, 2, 3]
    assert rollout.turn_number("c", names, serving=False) == 0
    assert max(rollout.turn_numbers(names)) > 3, "what comes after the turns waits for the last one"


@operation()
def _ended() -> Iterator[str]:
    rollout.end_turn(host)
    yield from ()


def test_nothing_is_drained_for_an_operation_that_interrupts_nobody() -> None:
    assert list(drain.running_instances(None)) == []
