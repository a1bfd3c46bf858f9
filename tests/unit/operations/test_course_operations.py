"""How a deploy brings course material and makes the bots: what is foretold, and what reaches the host."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.fake_host import Fake

from flexi.configs.courses import courses_config
from flexi.courses import load_courses
from flexi.facts.chat import CourseBots, CourseStore
from flexi.operations import courses
from flexi.plan import build_plan
from flexi.plan.model.chat import ChatPlan
from flexi.site import load_site

SITE = """
site: {name: uni}
ssh: {user: admin}
hosts:
  server-a:
    address: 192.0.2.11
    gpus: {model: A40, count: 1}
    groups: {a: {gpus: all, models: ["llama3:8b", "phi3:3.8b", nomic-embed-text]}}
gateway: {host: server-a, name: flexi.example.edu}
chat: {host: server-a, name: chat.example.edu, models: ["llama3:8b"], courses: courses}
"""


@pytest.fixture
def chat(tmp_path: Path) -> ChatPlan:
    material = tmp_path / "courses" / "heaps" / "material"
    material.mkdir(parents=True)
    (material / "one.md").write_text("text one")
    (material / "two.md").write_text("text two")
    course = "id: heaps\ntitle: Heaps\nmodel: phi3:3.8b\naccess: {accounts: [Ada@example.edu], groups: [b, a]}\n"
    (material.parent / "course.yaml").write_text(course)
    (tmp_path / "uni.yaml").write_text(SITE)
    chat = build_plan(load_site(tmp_path / "uni.yaml")).chat
    assert chat is not None
    return chat


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def wanted(chat: ChatPlan) -> dict[str, Any]:
    return courses_config(chat, courses.digests(chat.courses))


def test_what_the_chats_host_is_told(chat: ChatPlan) -> None:
    config = wanted(chat)
    access = {"everyone": False, "groups": ["a", "b"], "accounts": ["ada@example.edu"]}
    everyone = {"everyone": True, "groups": [], "accounts": []}
    assert config["index"] == "nomic-embed-text:latest"
    # The model behind the bot is for the bot's users alone, and the page does not list it.
    assert config["models"] == {
        "llama3:8b": {"access": everyone, "hidden": False},
        "phi3:3.8b": {"access": access, "hidden": True},
    }
    course = config["courses"]["heaps"]
    assert course["access"] == access
    assert course["files"]["one.md"] == {"sha256": digest("text one"), "kind": "text/markdown"}
    assert course["bot"]["params"]["function_calling"] == "legacy"
    assert "num_ctx" not in course["bot"]["params"]
    assert course["bot"]["params"]["system"].startswith("Du bist der Lernassistent des Kurses „Heaps“.")


def test_a_course_whose_model_no_group_has(tmp_path: Path, chat: ChatPlan) -> None:
    path = tmp_path / "courses" / "heaps" / "course.yaml"
    path.write_text(path.read_text().replace("phi3:3.8b", "phi4:14b"))
    with pytest.raises(Exception, match=r"courses/heaps/course\.yaml:3: model: 'phi4:14b' is in no group"):
        load_site(tmp_path / "uni.yaml")
    assert load_courses(tmp_path / "courses", "courses")


def store(*names: str, free_kib: int = 10**6) -> dict[str, object]:
    return {"find /var/lib/flexi-courses": [f"free {free_kib}", *(f"file {name}" for name in names)]}


def test_only_what_is_missing_is_brought_and_what_nobody_has_goes(
    chat: ChatPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    brought: list[str] = []

    def bring(state: object, host: object, items: Any, home: str) -> bool:
        brought.extend(item.sha256 for item in items)
        return True

    monkeypatch.setattr("flexi.operations.courses.push_files", bring)
    there = store(digest("text one"), "0" * 64, ".arrived")
    predicted, commands = Fake(there).run(courses.upload_material, courses=chat.courses)
    assert predicted
    assert brought == [digest("text two")]
    assert [command for command in commands if "xargs -r rm" in command]
    both = store(digest("text one"), digest("text two"))
    assert Fake(both).run(courses.upload_material, courses=chat.courses)[0] is False


def test_a_full_disk_is_said_before_anything_is_sent(chat: ChatPlan, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Exception, match="No hosts remaining"):
        Fake(store(free_kib=0)).run(courses.upload_material, courses=chat.courses)
    assert "/var/lib/flexi-courses needs 16 bytes and has 0 bytes free" in caplog.text


def found(chat: ChatPlan) -> dict[str, Any]:
    """What the chat's host says where all is as wanted, but for Ada, who has no account yet."""
    config = wanted(chat)
    access = {"everyone": False, "groups": ["a", "b"], "accounts": []}
    course = config["courses"]["heaps"]
    files = [
        {"name": name, "sha256": file["sha256"], "index": config["index"]} for name, file in course["files"].items()
    ]
    knowledge = {"title": "Heaps", "access": access}
    heaps = {"title": "Heaps", "bot": course["bot"], "access": access, "knowledge": knowledge, "files": files}
    config["models"]["phi3:3.8b"]["access"] = access
    return {"models": config["models"], "courses": {"heaps": heaps}, "absent": ["ada@example.edu"]}


def test_the_chat_is_asked_and_left_alone_where_it_has_all(chat: ChatPlan) -> None:
    says = {"courses --url http://127.0.0.1:8095 state": ["Running as unit: run-1.service", json.dumps(found(chat))]}
    assert Fake(says).run(courses.converge, chat=chat)[0] is False


def test_another_embedding_model_is_announced_with_what_it_costs(
    chat: ChatPlan, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("flexi.operations.courses._converge", lambda state, host, command: True)
    there = found(chat)
    says = {"courses --url http://127.0.0.1:8095 state": [json.dumps(there)]}
    other = chat.model_copy(update={"embedding_model": "bge-m3:latest"})
    assert Fake(says).run(courses.converge, chat=other)[0] is True
    words = "2 files are embedded anew, by bge-m3:latest; a course's bot is away until all of its files are: heaps"
    assert caplog.text.count(words) == 1
    caplog.clear()
    there["courses"]["heaps"]["files"][0]["sha256"] = "0" * 64
    assert Fake({next(iter(says)): [json.dumps(there)]}).run(courses.converge, chat=chat)[0] is True
    assert "embedded anew" not in caplog.text


@pytest.mark.parametrize("says", [[], ['{"problem": "away"}']])
def test_a_chat_that_cannot_be_asked_is_converged(
    chat: ChatPlan, says: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flexi.operations.courses._converge", lambda state, host, command: True)
    fact = {"courses --url http://127.0.0.1:8095 state": says}
    assert Fake(fact).run(courses.converge, chat=chat)[0] is True


def test_facts_take_no_other_line_for_an_answer() -> None:
    assert CourseBots().process(["{", "[]", '{"models": {}}', "x"]) is None
    truth = CourseStore().process(["free 2", "file x", f"file {'a' * 64}", "junk"])
    assert (truth.files, truth.free_bytes) == (frozenset({"a" * 64}), 2048)


STEP = '{"step": "index one.md", "done": 0, "of": 1}'
WAITS = '{"problem": "heaps: one.md: holds no text", "waits": true}'
LASTS = '{"problem": "heaps: somebody made a model", "waits": false}'
DONE = '{"done": 1}'


@pytest.mark.parametrize(
    ("lines", "succeeds", "words"),
    [
        ([STEP, DONE], True, []),
        ([STEP, WAITS, DONE], True, ["heaps: one.md: holds no text; flexi-courses.timer tries it again"]),
        ([STEP, WAITS], True, ["heaps: one.md: holds no text; flexi-courses.timer tries it again"]),
        ([WAITS, LASTS, DONE], False, ["heaps: one.md", "heaps: somebody made a model"]),
        ([STEP], False, ["the run broke off: no reason was given"]),
    ],
)
def test_what_the_timer_will_do_fails_no_deploy(
    lines: list[str], succeeds: bool, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "said").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr("flexi.operations.courses.remote.ssh_command", lambda *_: ["sh"])
    said: list[str] = []
    here: Any = SimpleNamespace(
        data=SimpleNamespace(flexi_host=SimpleNamespace(ssh=None)), log_styled=lambda text, **_: said.append(text)
    )
    assert courses._converge(here, here, f"cat {tmp_path}/said") is succeeds
    assert len(said) == len(words)
    assert all(part in text for part, text in zip(words, said, strict=True))
