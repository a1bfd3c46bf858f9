"""What the gateway is doing at this moment: HAProxy's words understood, shown, and refreshed."""

from __future__ import annotations

import io
import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flexi.plan import build_plan
from flexi.plan.model.site import Plan
from flexi.site import load_site
from flexi.ssh import remote
from flexi.ssh.remote import Answer
from flexi.status import gateway as gateway_status
from flexi.status import instances
from flexi.status.gateway import GatewayNow
from flexi.status.instances import HostStatus, Look
from flexi_host.haproxy import admin_socket, now
from flexi_host.ledger.sums import FIGURES

STATISTICS = Path(__file__).with_name("haproxy_stat.csv").read_text()
"""From HAProxy 2.6.12 in the lab, the columns up to `addr`: one instance was up, another had been stopped."""
TABLE = """# table: using, type: string, size:10240, used:2
0x55a2a74f79b8: key=lab|llama3:8b use=1 exp=597937 conn_cur=3
0x55a2a74f7a00: key=moodle|phi3:3.8b use=1 exp=597000 conn_cur=1

"""
SITE = """
site: {name: uni}
ssh: {user: admin}
hosts:
  server-a:
    address: 192.0.2.11
    gpus: {model: A40, count: 1}
    groups: {a: {gpus: all, models: ["llama3:8b", "phi3:3.8b"]}}
gateway: {host: server-a, name: flexi.example.edu}
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    path = tmp_path / "uni.yaml"
    path.write_text(SITE)
    return build_plan(load_site(path))


def haproxy(command: str) -> str:
    return {"show stat": STATISTICS, "show table using data.conn_cur gt 0": TABLE}[command]


def test_haproxys_words_are_understood() -> None:
    found: Any = now.now(haproxy)
    phi, llama = found["backends"]
    assert phi["servers"] == [
        {"name": "a", "status": "UP", "requests": 0, "queue": 0, "most": 1, "reason": None},
    ]
    assert llama["name"] == "model_llama3_8b"
    assert llama["servers"][0]["status"] == "DOWN (agent)"
    # The agent's words, not the check's and not HAProxy's around them.
    assert llama["servers"][0]["reason"] == "starting: the instance is not running: connection refused"
    assert found["using"] == [
        {"consumer": "lab", "model": "llama3:8b", "requests": 3},
        {"consumer": "moodle", "model": "phi3:3.8b", "requests": 1},
    ]


def test_a_check_that_runs_is_no_fault() -> None:
    """HAProxy puts a star before the last status of a check that is under way (management guide, 9.1)."""
    running = STATISTICS.replace("L7OK", "* L7OK")
    found: Any = now.now(lambda command: running if command == "show stat" else TABLE)
    assert found["backends"][0]["servers"][0]["reason"] is None


def test_without_an_agents_word_the_check_says_why() -> None:
    said = STATISTICS.replace("L7STS", "L7OK").replace(
        ",via agent : down (starting: the instance is", ",via agent : up ("
    )
    found: Any = now.now(lambda command: said if command == "show stat" else "No such table.\n")
    assert found["backends"][1]["servers"][0]["reason"] == "Connection refused"
    assert found["using"] == []


def test_an_answer_in_pieces_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                assert connection.recv(100) == b"show stat\n"
                connection.sendall(b"one ")
                connection.sendall(b"two")

        thread = threading.Thread(target=serve)
        thread.start()
        assert admin_socket.ask(path, "show stat") == "one two"
        thread.join()


def gateway(**more: Any) -> GatewayNow:
    recent = {"seconds": 300, "rows": [recent_row(consumer="moodle", model="phi3:3.8b", requests=1234, failed=2)]}
    return GatewayNow("server-a", None, {**now.now(haproxy), "recent": recent, **more})


def recent_row(**more: Any) -> dict[str, Any]:
    return dict.fromkeys(FIGURES, 0) | {"class": "default"} | more


def shown(plan: Plan, *gateways: GatewayNow) -> list[str]:
    console = Console(file=io.StringIO(), width=120, no_color=True)
    console.print(gateway_status.view(plan, gateways))
    assert isinstance(console.file, io.StringIO)
    return [line.strip() for line in console.file.getvalue().splitlines()]


def test_people_see_queues_reasons_and_who_uses_what(plan: Plan) -> None:
    lines = shown(plan, gateway())
    llama = next(line for line in lines if line.startswith("llama3:8b"))
    # No place: its one server is down, and it is said why.
    assert llama.split(maxsplit=4) == [
        *("llama3:8b", "0", "0", "0"),
        "b: starting: the instance is not running: connection refused",
    ]
    assert ["phi3:3.8b", "0", "1", "0"] in [line.split() for line in lines]
    users = [line.split() for line in lines]
    assert ["lab", "llama3:8b", "3", "0", "0", "0", "0", "-", "-"] in users
    assert ["moodle", "phi3:3.8b", "1", "1,234", "0", "2", "0", "-", "-"] in users


def test_a_queue_counts_those_with_and_without_a_server(plan: Plan) -> None:
    """HAProxy queues at a server that was chosen, and at the back end where none was."""
    lines = STATISTICS.splitlines()
    waiting = "\n".join(
        line.replace("_8b,a,0,0,0,", "_8b,a,2,0,1,").replace("_8b,BACKEND,0,", "_8b,BACKEND,5,") for line in lines
    )
    found: Any = now.now(lambda command: waiting if command == "show stat" else TABLE)
    report: Any = gateway_status.as_json(plan, [gateway(backends=found["backends"])])
    phi = next(model for model in report[0]["models"] if model["model"] == "phi3:3.8b")
    assert (phi["in_work"], phi["waiting"]) == (1, 7)


def test_a_ledger_that_is_away_is_named_and_the_rest_is_shown(plan: Plan) -> None:
    lines = shown(plan, gateway(recent=None))
    assert any("systemctl status flexi-ledger" in line for line in lines)
    assert any(line.startswith("lab") for line in lines)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(255, "", "ssh: connect to host x port 22: Connection refused"), "Connection refused"),
        (Answer(1, "", "flexi_host: HAProxy does not answer on /run/haproxy/admin.sock: gone"), "HAProxy does not"),
        (Answer(0, "rubbish", ""), "cannot be read"),
        (Answer(0, "[]", ""), "cannot be read"),
        (Answer(0, '{"backends": []}', ""), "cannot be read"),
    ],
)
def test_a_gateway_that_says_nothing_useful(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, answer: Answer, words: str
) -> None:
    monkeypatch.setattr(remote, "run", lambda *_, **__: answer)
    [found] = gateway_status.read_all(plan)
    assert words in (found.error or "")
    assert any(words in line for line in shown(plan, found))
    report: Any = gateway_status.as_json(plan, [found])
    assert (report[0]["models"], report[0]["using"]) == ([], [])


def test_the_question_runs_as_root_and_is_no_argument(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def run(_: object, command: str, stdin: str = "", **__: object) -> Answer:
        asked.append((command, stdin))
        return Answer(0, json.dumps({"backends": [], "using": [], "recent": None}), "")

    monkeypatch.setattr(remote, "run", run)
    gateway_status.read_all(plan)
    assert asked == [(remote.ROOT_SHELL, gateway_status.COMMAND)]


def test_a_terminal_is_refreshed_until_ctrl_c(plan: Plan) -> None:
    def state(phase: str) -> HostStatus:
        models = [{"name": name, "phase": phase, "reason": None} for name in ("llama3:8b", "phi3:3.8b")]
        return HostStatus("server-a", None, {"instances": [{"group": "a", "models": models}]})

    def take(phase: str) -> tuple[Look, str, bool]:
        return Look([state(phase)], [gateway()], None), f"verdict: {phase}", phase == "ready"

    looks = iter(["loading", "loading", "ready"])
    pauses = iter([None, None, KeyboardInterrupt()])

    def pause(_: float) -> None:
        if stop := next(pauses):
            raise stop

    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    assert instances.watch(plan, console, lambda: take(next(looks)), pause)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert next(looks, None) is None
    # Live draws its last picture once more when it ends.
    assert text.count("Ctrl-C ends this") == 4
    assert text.index("loading") < text.rindex("loading") < text.rindex("ready")
    assert text.index("verdict: loading") < text.rindex("verdict: ready")
