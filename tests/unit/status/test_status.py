"""What people and programs are shown of the agents' words, and the wait at the end of a deploy."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flexi.plan import build_plan
from flexi.plan.model.site import Plan
from flexi.site import load_site
from flexi.ssh import remote
from flexi.ssh.remote import Answer
from flexi.status import instances
from flexi.status.instances import HostStatus, Look

SITE = """
site: {name: uni}
ssh: {user: admin}
hosts:
  server-a:
    address: 192.0.2.11
    gpus: {model: A40, count: 1}
    groups: {a: {gpus: all, models: ["llama3:8b"]}}
  server-b:
    address: 192.0.2.12
    gpus: {model: A40, count: 1}
    groups: {b: {gpus: all, models: ["mistral:7b"]}}
gateway: {host: server-a, name: flexi.example.edu}
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """llama3:8b in group a on server-a, mistral:7b in group b on server-b."""
    path = tmp_path / "uni.yaml"
    path.write_text(SITE)
    return build_plan(load_site(path))


def model(phase: str, **more: object) -> dict[str, Any]:
    return {"name": "llama3:8b", "phase": phase, "reason": None, "completed": None, "total": None, **more}


MOVING = {"name": "mistral:7b", "phase": "downloading", "reason": None, "completed": 1, "total": 2}


def host(*models: dict[str, Any], error: str | None = None) -> HostStatus:
    return HostStatus("server-a", error, {"instances": [{"group": "a", "models": list(models)}]})


def shown(plan: Plan, *statuses: HostStatus) -> str:
    console = Console(file=io.StringIO(), width=160, no_color=True)
    instances.show(plan, Look(list(statuses), [], None), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_download_is_a_bar(plan: Plan) -> None:
    text = shown(plan, host(model("downloading", completed=25, total=100)))
    assert "█████░░░░░░░░░░░░░░░  25%" in text


def test_a_download_that_overran_its_size_stays_within_its_bar(plan: Plan) -> None:
    assert "100%" in shown(plan, host(model("downloading", completed=120, total=100)))


def test_a_fault_is_said_in_words(plan: Plan) -> None:
    text = shown(plan, host(model("fault", reason="GPU 3 [gpu-ab] is not visible")))
    assert "fault: GPU 3 [gpu-ab] is not visible" in text  # brackets are not markup


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(255, "", "ssh: connect to host x port 22: Connection refused"), "Connection refused"),
        (Answer(255, "", ""), "no answer"),
        (Answer(1, "", "cat: no such file"), "has written no status"),
        (Answer(0, "rubbish\n5\n", ""), "cannot be read"),
        (Answer(0, "", ""), "cannot be read"),
        (Answer(0, '{"time": 1000, "instances": []}\n1100\n', ""), "silent for 100 s"),
    ],
)
def test_a_host_that_says_nothing_useful(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, answer: Answer, words: str
) -> None:
    monkeypatch.setattr(remote, "run", lambda *_, **__: answer)
    error = instances.read(plan.hosts[0]).error
    assert error is not None
    assert words in error


def test_a_fresh_status_is_taken(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    text = json.dumps({"time": 1000.5, "instances": []}) + "\n1003\n"
    monkeypatch.setattr(remote, "run", lambda *_, **__: Answer(0, text, ""))
    assert instances.read(plan.hosts[0]).error is None


def test_only_what_is_planned_and_known_is_ready(plan: Plan) -> None:
    """An agent that has not looked yet knows of no instance: that is not readiness."""
    empty = HostStatus("server-a", None, {"instances": []})
    assert not instances.all_ready(plan, [empty])
    assert instances.all_ready(plan, [host(model("ready"))])
    assert not instances.all_ready(plan, [host({**model("ready"), "name": "gemma:7b"})])
    assert not instances.all_ready(plan, [host(model("ready"), error="silent")])


def test_a_model_that_the_agent_does_not_know_is_shown(plan: Plan) -> None:
    empty = HostStatus("server-a", None, {"instances": []})
    row = next(line for line in shown(plan, empty).splitlines() if "llama3:8b" in line)
    assert "not known to the agent" in row
    report: Any = instances.as_json(plan, Look([empty], [], None), True, ())
    assert report["ready"] is False
    assert report["hosts"][0]["not_known"] == [{"group": "a", "model": "llama3:8b"}]


def test_a_limit_asks_only_its_hosts(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "run", lambda *_, **__: Answer(1, "", ""))
    assert [entry.host for entry in instances.read_all(plan)] == ["server-a", "server-b"]
    assert [entry.host for entry in instances.read_all(plan, ["server-b"])] == ["server-b"]


class Time:
    """A clock that goes on by `step` seconds with every pause."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def clock(self) -> float:
        return self.now

    def pause(self, _: float) -> None:
        self.now += self.step


def wait(
    plan: Plan, states: Iterator[list[HostStatus]], step: float, timeout_s: float, *, terminal: bool = False
) -> tuple[instances.WaitResult, str]:
    """Wait through `states`, one each `step` seconds: the result, and what was printed."""
    time, file = Time(step), io.StringIO()
    console = Console(file=file, width=160, force_terminal=terminal, color_system=None)
    result = instances.wait_until_ready(plan, console, timeout_s, lambda _: next(states), time.clock, time.pause)
    return result, file.getvalue()


def test_the_wait_ends_when_all_is_ready(plan: Plan) -> None:
    states = [[host(model("downloading", completed=1, total=2))], [host(model("loading"))]]
    result, text = wait(plan, itertools.chain(states, itertools.repeat([host(model("ready"))])), 1, 60)
    assert result.ready
    assert [line.rsplit(": ", 1)[1] for line in text.splitlines()] == ["downloading", "loading", "ready"]


def test_a_word_from_before_the_restart_does_not_end_the_wait(plan: Plan) -> None:
    """The agent's file still says ready in the first seconds after an instance was restarted."""
    ready, loading = [host(model("ready"))], [host(model("loading"))]
    states = itertools.chain([ready] * 3, [loading] * 4, itertools.repeat(ready))
    result, _ = wait(plan, states, 1, 60)
    assert result.ready
    assert result.seconds == 7 + instances.SETTLE_S


def test_the_wait_gives_up_with_its_open_points(plan: Plan) -> None:
    states = [host(model("fault", reason="no room")), HostStatus("server-b", "does not answer", None)]
    result, text = wait(plan, itertools.repeat(states), 30, 60)
    assert not result.ready
    assert result.open_points == ("server-a/a llama3:8b: fault: no room", "server-b: does not answer")
    assert text.splitlines() == list(result.open_points)


def test_the_wait_stops_when_only_lasting_faults_are_left(plan: Plan) -> None:
    """The agent loads a faulty model again and again: that alone must not keep the wait going."""
    fault, again = host(model("fault", reason="no room")), host(model("loading"))
    silent = HostStatus("server-b", "does not answer", None)
    result, _ = wait(plan, itertools.cycle([[fault, silent], [again, silent]]), 50, 6 * 3600)
    assert not result.ready
    assert result.seconds == 200


def test_the_wait_goes_on_while_anything_moves(plan: Plan) -> None:
    fault = host(model("fault", reason="no room"))
    moving = HostStatus("server-b", None, {"instances": [{"group": "b", "models": [MOVING]}]})
    result, _ = wait(plan, itertools.repeat([fault, moving]), 50, 1000)
    assert result.seconds > 1000


def test_a_download_between_two_faults_starts_the_count_anew(plan: Plan) -> None:
    fault, download = [host(model("fault"))], [host(model("downloading"))]
    states = itertools.chain([fault, fault, fault, download], itertools.repeat(fault))
    result, _ = wait(plan, states, 50, 6 * 3600)
    assert result.seconds == 400


def test_a_terminal_is_told_the_reason_beside_the_bar(plan: Plan) -> None:
    states = [host(model("fault", reason="GPU 3 [gpu-ab] is not visible " + "x" * 100))]
    _, text = wait(plan, itertools.repeat(states), 100, 60, terminal=True)
    assert "fault: GPU 3 [gpu-ab] is not visible xx" in text
    assert "x…" in text
