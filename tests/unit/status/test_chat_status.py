"""What `flexi status` says of the chat: whatever its host and the gateways answer, and where there is none."""

from __future__ import annotations

import http.server
import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flexi.paths import INVENTORY
from flexi.plan import build_plan
from flexi.plan.model.site import Plan
from flexi.site import load_site
from flexi.ssh import remote
from flexi.ssh.remote import Answer
from flexi.status import chat as chat_status
from flexi.status import instances
from flexi.status.chat import ChatNow
from flexi.status.gateway import GatewayNow
from flexi.status.instances import Look
from flexi_chat.backup.staging import UNFINISHED
from flexi_chat.courses import note
from flexi_chat.gate import now

RUNNING: dict[str, Any] = {
    "unit": "active",
    "answers": True,
    "release": "0.12.4",
    "courses": {"at": 0, "courses": {}},
    "saved": 1795402800,
    "exchanged": False,
}
SERVER = {"name": "chat", "status": "UP", "requests": 12, "queue": 0, "most": 0, "reason": None}


@pytest.fixture(scope="module")
def plan() -> Plan:
    """The lab's, with two course bots."""
    return build_plan(load_site(INVENTORY / "lab.yaml"))


def gateway(requests: int = 3, connections: int = 12) -> GatewayNow:
    using = [
        {"consumer": "flexi-chat", "model": "llama3:8b", "requests": requests},
        {"consumer": "moodle", "model": "llama3:8b", "requests": 5},
    ]
    backends = [{"name": "chat", "status": "UP", "queue": 0, "servers": [{**SERVER, "requests": connections}]}]
    return GatewayNow("gateway", None, {"backends": backends, "using": using, "recent": None})


def chat(plan: Plan, bot: bool = True, files: int = 0, age_s: float = 10, **more: object) -> ChatNow:
    assert plan.chat
    courses = {course.id: {"bot": True, "files": 0} for course in plan.chat.courses}
    courses[plan.chat.courses[0].id] = {"bot": bot, "files": files}
    noted = {"at": int(time.time() - age_s), "courses": courses}
    return ChatNow("gateway", None, {**RUNNING, "courses": noted, **more})


def shown(plan: Plan, found: ChatNow | None, *gateways: GatewayNow) -> str:
    console = Console(file=io.StringIO(), width=200, no_color=True)
    instances.show(plan, Look([], list(gateways), found), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_chat_that_runs(plan: Plan) -> None:
    text = shown(plan, chat(plan), gateway(), gateway(1, 30))
    (line,) = (line for line in text.splitlines() if plan.chat and plan.chat.name in line)
    words = line.split()
    assert words[1:5] == ["runs", "0.12.4", "42", "4"]
    assert "2 of 2" in line
    report: Any = instances.as_json(plan, Look([], [gateway()], chat(plan)), True, ())["chat"]
    assert (report["state"], report["release"], report["connections"], report["requests"]) == ("runs", "0.12.4", 12, 3)
    assert [(bot["ready"], bot["files_left"]) for bot in report["bots"]] == [(True, 0), (True, 0)]
    assert report["last_backup"] == "2026-11-23T03:00:00+00:00"


@pytest.mark.parametrize(
    ("more", "state"),
    [
        ({"unit": "inactive", "answers": False}, "inactive"),
        ({"unit": "failed", "answers": False}, "failed"),
        ({"unit": "activating", "answers": False}, "activating"),
        ({"answers": False}, "does not answer"),
        ({"unit": "inactive", "answers": False, "exchanged": True}, "restore"),
    ],
)
def test_a_chat_that_does_not_run(more: dict[str, object], state: str, plan: Plan) -> None:
    found = chat(plan, **more)
    report: Any = instances.as_json(plan, Look([], [], found), True, ())["chat"]
    assert (report["state"], report["connections"], report["requests"]) == (state, None, None)
    assert state in shown(plan, found)


@pytest.mark.parametrize(
    ("bot", "files", "words"),
    [
        (True, 3, "3 files of its material are not indexed yet"),
        (True, 1, "1 file of its material is not indexed yet"),
        (False, 2, "it has no bot until then: 2 files of its material are"),
        (False, 0, "it has no bot yet"),
    ],
)
def test_a_bot_that_is_not_ready_is_named(bot: bool, files: int, words: str, plan: Plan) -> None:
    assert plan.chat
    found = chat(plan, bot, files)
    text = shown(plan, found)
    assert "1 of 2" in text
    assert f"course {plan.chat.courses[0].id}: {words}" in text
    report: Any = instances.as_json(plan, Look([], [], found), True, ())["chat"]
    assert report["bots"][0] == {"course": plan.chat.courses[0].id, "ready": False, "files_left": files}


def test_bots_that_nobody_has_looked_at(plan: Plan) -> None:
    assert "nobody has looked at the bots for 20 min" in shown(plan, chat(plan, age_s=1200))
    text = shown(plan, ChatNow("gateway", None, {**RUNNING, "courses": None, "saved": None}))
    assert "0 of 2" in text
    assert text.count("nothing is known of its bot yet") == 2
    assert "none known" in text


def test_a_site_without_a_chat_says_nothing_of_one(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "run", lambda *_, **__: pytest.fail("a host was asked"))
    bare = plan.model_copy(update={"chat": None})
    assert chat_status.read(bare) is None
    assert instances.as_json(bare, Look([], [], None), True, ())["chat"] is None
    assert "release" not in shown(bare, None)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(255, "", "ssh: connect to host x port 22: Connection refused"), "does not answer over SSH"),
        (Answer(1, "", "there is no chat yet: deploy it"), "there is no chat yet: deploy it"),
        (Answer(0, "rubbish", ""), "cannot be read"),
        (Answer(0, "{}", ""), "cannot be read"),
    ],
)
def test_a_host_that_says_nothing_useful(
    answer: Answer, words: str, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "run", lambda *_, **__: answer)
    found = chat_status.read(plan)
    assert words in shown(plan, found)
    report: Any = instances.as_json(plan, Look([], [], found), True, ())["chat"]
    assert words in report["error"]
    assert report["state"] is None


class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 500)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Health)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("unit", "path", "answers"),
    [("active", "/health", True), ("active", "/broken", False), ("inactive", "/health", False)],
)
def test_what_the_host_says(
    unit: str, path: str, answers: bool, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f"#!/bin/sh\necho {unit}\n")
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "current").symlink_to("0.12.4-0a1b2c3d")
    (tmp_path / "saved").write_text("1795402800\n")
    note.write(tmp_path, {"heaps": note.Readiness(True, 2)})
    found = now.now("x.service", f"{url}{path}", tmp_path / "current", tmp_path, tmp_path / "saved")
    assert json.loads(json.dumps(found)) == found
    assert (found["unit"], found["answers"], found["release"]) == (unit, answers, "0.12.4")
    assert found["courses"]["courses"] == {"heaps": {"bot": True, "files": 2}}
    assert found["saved"] == 1795402800
    assert found["exchanged"] is False
    mark = tmp_path / ".flexi-restore-x" / UNFINISHED
    mark.parent.mkdir()
    mark.touch()
    assert now.now("x", url, tmp_path / "current", tmp_path / "data", tmp_path / "saved")["exchanged"] is True
    mark.unlink()
    (tmp_path / "saved").write_text("{")
    assert now.now("x.service", "http://127.0.0.1:1/", tmp_path, tmp_path / "none", tmp_path / "saved") == {
        "unit": unit,
        "answers": False,
        "release": None,
        "courses": None,
        "saved": None,
        "exchanged": False,
    }
