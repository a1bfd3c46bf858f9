"""What people and programs are shown of the agents' words, and the wait at the end of a deploy."""

from __future__ import annotations

import io
import itertools
import json
import time
from typing import Any

import pytest
from rich.console import Console

from flexi import remote, status
from flexi.paths import INVENTORY
from flexi.plan import build_plan
from flexi.plan.model import Plan
from flexi.remote import Answer
from flexi.site import load_site
from flexi.status import HostStatus


@pytest.fixture(scope="module")
def plan() -> Plan:
    return build_plan(load_site(INVENTORY / "lab.yaml"))


def model(phase: str, **more: object) -> dict[str, Any]:
    return {"name": "llama3:8b", "phase": phase, "reason": None, "completed": None, "total": None, **more}


def host(*models: dict[str, Any], error: str | None = None) -> HostStatus:
    return HostStatus("server-a", error, {"instances": [{"group": "a", "models": list(models)}]})


def shown(plan: Plan, *statuses: HostStatus) -> str:
    console = Console(file=io.StringIO(), width=160, no_color=True)
    status.show(plan, list(statuses), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_download_is_a_bar(plan: Plan) -> None:
    text = shown(plan, host(model("downloading", completed=25, total=100)))
    assert "█████░░░░░░░░░░░░░░░  25%" in text


def test_a_download_that_overran_its_size_stays_within_its_bar(plan: Plan) -> None:
    assert "100%" in shown(plan, host(model("downloading", completed=120, total=100)))


def test_a_fault_is_said_in_words(plan: Plan) -> None:
    text = shown(plan, host(model("fault", reason="GPU 3 [GPU-ab] is not visible")))
    assert "fault: GPU 3 [GPU-ab] is not visible" in text  # brackets are not markup


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
    error = status.read(plan.hosts[0]).error
    assert error is not None
    assert words in error


def test_a_fresh_status_is_taken(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    text = json.dumps({"time": 1000.5, "instances": []}) + "\n1003\n"
    monkeypatch.setattr(remote, "run", lambda *_, **__: Answer(0, text, ""))
    assert status.read(plan.hosts[0]).error is None


def test_the_wait_ends_when_all_is_ready(plan: Plan) -> None:
    seen = iter([[host(model("downloading", completed=1, total=2))], [host(model("loading"))], [host(model("ready"))]])
    console = Console(file=io.StringIO(), width=160)
    result = status.wait_until_ready(plan, console, 60, lambda _: next(seen), time.monotonic, lambda _: None)
    assert result.ready
    assert isinstance(console.file, io.StringIO)
    assert [line.rsplit(": ", 1)[1] for line in console.file.getvalue().splitlines()] == [
        "downloading",
        "loading",
        "ready",
    ]


def test_the_wait_gives_up_with_its_open_points(plan: Plan) -> None:
    clock = itertools.count(step=30)
    result = status.wait_until_ready(
        plan,
        Console(file=io.StringIO()),
        60,
        lambda _: [host(model("fault", reason="no room")), HostStatus("server-b", "does not answer", None)],
        lambda: float(next(clock)),
        lambda _: None,
    )
    assert not result.ready
    assert result.open_points == ("server-a/a llama3:8b: fault: no room", "server-b: does not answer")
