"""`flexi usage`: the sums of all gateways, for people, spreadsheets and programs."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flexi.errors import FlexiError, InputError
from flexi.plan import build_plan
from flexi.plan.model.site import HostPlan, Plan
from flexi.site import load_site
from flexi.ssh import remote
from flexi.ssh.remote import Answer
from flexi.usage import report as usage
from flexi_host.ledger.sums import FIGURES

NOW = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)
SITE = """
site: {name: uni}
ssh: {user: admin}
hosts:
  server-a:
    address: 192.0.2.11
    gpus: {model: A40, count: 1}
    groups: {a: {gpus: all, models: ["llama3:8b"]}}
gateway: {host: server-a, name: flexi.example.edu}
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    path = tmp_path / "uni.yaml"
    path.write_text(SITE)
    return build_plan(load_site(path))


def row(**more: Any) -> dict[str, Any]:
    return dict.fromkeys(FIGURES, 0) | more


def answering(monkeypatch: pytest.MonkeyPatch, *answers: Answer) -> list[str]:
    """Each gateway gives its own answer; the commands that were asked."""
    commands: list[str] = []
    left = list(answers)

    def run(host: HostPlan, command: str, **_: object) -> Answer:
        commands.append(command)
        return left.pop(0)

    monkeypatch.setattr(remote, "run", run)
    return commands


def rows(*found: dict[str, Any]) -> Answer:
    return Answer(0, json.dumps({"schema": 1, "rows": found}), "")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("7d", datetime(2026, 11, 16, 14, 30, tzinfo=UTC)),
        ("12h", datetime(2026, 11, 23, 2, 30, tzinfo=UTC)),
        ("4w", datetime(2026, 10, 26, 14, 30, tzinfo=UTC)),
        ("2026-11-01", datetime(2026, 11, 1, tzinfo=UTC)),
    ],
)
def test_since_is_how_long_ago_or_a_date(text: str, moment: datetime) -> None:
    assert usage.moment(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "7", "yesterday", "-7d", "7 d", "2026-13-01", "99999d", "1.5h"])
def test_what_is_no_time_is_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(InputError, match="7d or 12h"):
        usage.moment(text, NOW)


def test_gateways_are_added_up_and_the_busiest_comes_first(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two gateways share the requests of one site."""
    standby = plan.hosts[0].model_copy(update={"name": "standby"})
    two = plan.model_copy(update={"hosts": (*plan.hosts, standby)})
    first = rows(row(consumer="chat", requests=5, answer_tokens=7), row(consumer="moodle", requests=1))
    second = rows(row(consumer="moodle", requests=6, answer_tokens=3), row(consumer=None, requests=2, refused=2))
    commands = answering(monkeypatch, first, second)
    found = usage.read(two, NOW, ["consumer"])
    assert [(r["consumer"], r["requests"], r["answer_tokens"]) for r in found.rows] == [
        ("moodle", 7, 3),
        ("chat", 5, 7),
        (None, 2, 0),
    ]
    assert f"http://127.0.0.1:8406/usage?since={int(NOW.timestamp())}&by=consumer" in commands[0]


def test_before_1970_is_the_beginning(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = answering(monkeypatch, rows())
    usage.read(plan, usage.moment("9999w", NOW), ["model"])
    assert "since=0&" in commands[0]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(255, "", "ssh: connect to host x port 22: Connection refused"), "Connection refused"),
        (Answer(7, "", "curl: (7) Failed to connect"), "systemctl status flexi-ledger"),
        (Answer(0, "rubbish", ""), "no JSON"),
    ],
)
def test_half_a_sum_is_none(plan: Plan, monkeypatch: pytest.MonkeyPatch, answer: Answer, words: str) -> None:
    answering(monkeypatch, answer)
    with pytest.raises(FlexiError, match=words):
        usage.read(plan, NOW, ["consumer"])


FOUND = usage.Usage(
    NOW,
    ("consumer", "day"),
    (
        row(consumer="moodle", day=1795392000, requests=1200, refused=3, timed=4, queue_ms=6000, first_byte_ms=400),
        row(consumer=None, day=1795392000, requests=1, refused=1),
    ),
)


def test_a_spreadsheet_gets_names_and_figures() -> None:
    file = io.StringIO()
    usage.write_csv(FOUND, file)
    read = list(csv.DictReader(io.StringIO(file.getvalue())))
    assert list(read[0]) == ["consumer", "day", *FIGURES]
    assert (read[0]["consumer"], read[0]["day"], read[0]["requests"]) == ("moodle", "2026-11-23", "1200")
    assert read[1]["consumer"] == ""


def test_a_program_gets_what_there_is() -> None:
    report: Any = usage.as_json(FOUND, "uni")
    assert (report["schema"], report["site"], report["by"]) == (1, "uni", ["consumer", "day"])
    assert report["since"] == "2026-11-23T14:30:00+00:00"
    assert report["rows"][0]["queue_ms"] == 6000
    assert report["rows"][1]["consumer"] is None


def test_people_see_means() -> None:
    console = Console(file=io.StringIO(), width=160, no_color=True)
    usage.show(FOUND, console)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[1].split() == ["moodle", "2026-11-23", "1,200", "3", "0", "0", "0", "1.5", "s", "100", "ms", "0", "ms"]
    assert lines[2].split() == ["-", "2026-11-23", "1", "1", "0", "0", "0", "-", "-", "-"]


def test_nobody_is_said_in_words() -> None:
    console = Console(file=io.StringIO(), width=160, no_color=True)
    usage.show(usage.Usage(NOW, ("consumer",), ()), console)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "nobody has asked for anything since 2026-11-23 14:30 UTC\n"
