"""Course bots from what there is to what is wanted, on a chat in memory; test_81_courses.py has a real one."""

from __future__ import annotations

import base64
import contextlib
import copy
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.fake_webui import ADMIN, FakeWebui

from flexi_chat.courses import note as courses_note
from flexi_chat.courses.converge import Converge
from flexi_chat.courses.note import Readiness
from flexi_chat.courses.state import as_found, read_state
from flexi_chat.courses.wanted import difference
from flexi_chat.webui.client import Webui, WebuiError, token
from flexi_chat.webui.files import delete_file

NOBODY: dict[str, Any] = {"everyone": False, "groups": [], "accounts": []}
EVERYONE = {**NOBODY, "everyone": True}
STUDENTS = {**NOBODY, "groups": ["students"]}


class Chat:
    """A chat, and the courses that it should have."""

    def __init__(self, store: Path) -> None:
        self.webui = FakeWebui()
        self.store = store
        self.wanted: dict[str, Any] = {
            "index": "nomic",
            "models": {"llama3:8b": {"access": EVERYONE, "hidden": False}},
            "courses": {},
        }

    def course(self, name: str, files: Mapping[str, str], access: Mapping[str, Any] = STUDENTS) -> None:
        bot = {"base_model_id": "llama3:8b", "params": {"system": "x"}, "meta": {"description": "Hi"}}
        self.wanted["courses"][name] = {"title": f"Course {name}", "bot": bot, "access": dict(access), "files": {}}
        for file, text in files.items():
            digest = hashlib.sha256(text.encode()).hexdigest()
            (self.store / digest).write_text(text, encoding="utf-8")
            self.wanted["courses"][name]["files"][file] = {"sha256": digest, "kind": "text/markdown"}

    def converge(self) -> Converge:
        run = Converge(self.webui, ADMIN, self.wanted, self.store, lambda *step: None)  # type: ignore[arg-type]
        run.run()
        return run

    def steps(self) -> list[str]:
        state = read_state(self.webui, ADMIN, self.wanted)  # type: ignore[arg-type]
        return [str(step) for step in difference(self.wanted, as_found(state, self.wanted))]

    def check(self) -> None:
        """All is as wanted, and nothing else is there: no file without its course, no piece without its file."""
        assert self.steps() == []
        files = [file for course in self.wanted["courses"].values() for file in course["files"]]
        assert sorted(row["meta"]["data"]["path"] for row in self.webui.files.values()) == sorted(files)
        assert {file for _, file in self.webui.links} == set(self.webui.files)
        pieces = {*self.webui.links, *((f"file-{file}", file) for file in self.webui.files)}
        assert sorted((where, file) for where, file, _ in self.webui.vectors) == sorted(pieces)


@pytest.fixture
def chat(tmp_path: Path) -> Chat:
    chat = Chat(tmp_path)
    chat.course("a", {"one.md": "text one", "Kapitel 1/zwei.md": "text two"})
    chat.course("b", {"one.md": "text one"}, EVERYONE)
    return chat


def test_from_nothing_and_again(chat: Chat) -> None:
    chat.converge()
    chat.check()
    assert chat.webui.models["course-a"]["meta"]["knowledge"][0]["type"] == "collection"
    assert sorted(row["filename"] for row in chat.webui.files.values()) == ["Kapitel 1 › zwei.md", "one.md", "one.md"]
    asked = len(chat.webui.asked)
    chat.converge()
    assert all(words.startswith("GET") for words in chat.webui.asked[asked:])


def test_one_changed_file_is_one_upload(chat: Chat) -> None:
    chat.converge()
    before, chat.webui.embedded = set(chat.webui.files), []
    chat.course("a", {"one.md": "text one, changed", "Kapitel 1/zwei.md": "text two"})
    assert chat.steps() == ["a: index anew one.md"]
    chat.converge()
    chat.check()
    assert set(chat.webui.embedded) == {"text one, changed"}
    assert len(before & set(chat.webui.files)) == 2


CHANGES = {
    "renamed": {"uno.md": "text one", "Kapitel 1/zwei.md": "text two"},
    "exchanged": {"one.md": "text two", "Kapitel 1/zwei.md": "text one"},
    "same text, other bytes": {"one.md": "text one\n", "Kapitel 1/zwei.md": "text two"},
    "one less": {"Kapitel 1/zwei.md": "text two"},
    "all others": {"three.md": "text three", "four.md": "text four"},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_that_is_cut_off_anywhere_is_finished_by_the_next(chat: Chat, change: str) -> None:
    chat.converge()
    chat.course("a", CHANGES[change])
    chat.course("new", {"new.md": "text new"})
    del chat.wanted["courses"]["b"]
    start, cut = copy.deepcopy(chat.webui), 0
    while True:
        chat.webui = copy.deepcopy(start)
        chat.webui.asked, chat.webui.limit = [], cut
        try:
            chat.converge()
            break
        except WebuiError:
            chat.webui.limit = None
            chat.converge()
            chat.check()
        cut += 1
    chat.webui.limit = None
    chat.check()
    assert cut > 15


def test_who_may_no_longer_is_out_before_anything_is_indexed(chat: Chat) -> None:
    chat.converge()
    chat.webui.asked = []
    chat.course("a", {"one.md": "another"}, {**NOBODY, "accounts": ["ada@example.edu"]})
    chat.converge()
    shared = chat.webui.asked.index("POST /api/v1/models/model/access/update")
    assert shared < chat.webui.asked.index("UPLOAD one.md")
    assert chat.webui.models["course-a"]["access_grants"] == []


def test_who_has_no_account_yet_gets_in_later(chat: Chat) -> None:
    chat.course("a", {"one.md": "text one"}, {**NOBODY, "accounts": ["ada@example.edu"]})
    chat.converge()
    chat.check()
    chat.webui.users["ada-id"] = "Ada@Example.edu"
    assert chat.steps() == ["a: change who may use it"]
    chat.converge()
    grant = {"principal_type": "user", "principal_id": "ada-id", "permission": "read"}
    assert chat.webui.models["course-a"]["access_grants"] == [grant]
    chat.check()


def test_without_the_embedding_model_old_material_stays_and_a_new_bot_waits(chat: Chat) -> None:
    chat.converge()
    before = dict(chat.webui.files)
    chat.course("a", {"one.md": "changed", "Kapitel 1/zwei.md": "text two"})
    chat.course("new", {f"{number}.md": f"text {number}" for number in range(9)})
    chat.webui.embedding = False
    problems = chat.converge().problems
    assert chat.webui.files == before
    assert "course-new" not in chat.webui.models
    assert len([words for words in chat.webui.asked if words.startswith("UPLOAD")]) == 3 + 3
    assert problems[-1] == "the rest waits for another run: the embedding model did not answer"
    chat.webui.embedding = True
    assert chat.converge().problems == []
    chat.check()


def test_what_makes_room_for_the_same_text_comes_back_where_that_is_refused(chat: Chat) -> None:
    chat.converge()
    before = sorted(chat.webui.links), sorted(chat.webui.vectors), dict(chat.webui.files)
    chat.course("a", CHANGES["same text, other bytes"])
    chat.webui.refuse = 1
    refused = chat.converge()
    assert (refused.problems, refused.lasting) == (["a: index anew one.md: no"], [])
    assert (sorted(chat.webui.links), sorted(chat.webui.vectors), dict(chat.webui.files)) == before
    chat.webui.refuse = 2
    first, second = chat.converge().problems
    assert (first, second) == ("a: one.md is missing until the next run: no", "a: index anew one.md: no")
    assert chat.converge().problems == []
    chat.check()


def test_a_file_goes_with_what_was_read_from_it(chat: Chat) -> None:
    """Open WebUI's own DELETE leaves that in Chroma."""
    file = chat.webui.upload("one.md", "text/markdown", b"text", {"file_hash": "x"})["id"]
    assert chat.webui.vectors
    delete_file(chat.webui, file)  # type: ignore[arg-type]
    assert chat.webui.vectors == []
    assert chat.webui.files == {}


def test_files_of_no_use_are_named_and_the_rest_goes_on(chat: Chat) -> None:
    chat.course("new", {"1.md": " ", "2.md": "\n", "3.md": "\t", "4.md": "text", "5.md": "text "})
    problems = chat.converge().problems
    empty = "holds no text that can be read: a scan needs text recognition first"
    assert problems[:3] == [f"new: index {number}.md: {empty}" for number in (1, 2, 3)]
    assert problems[3] == "new: index 5.md: has the same text as 4.md: remove one of the two"
    assert problems[4] == "new: the bot waits until all its material is indexed"
    assert [row["filename"] for row in chat.webui.files.values()].count("4.md") == 1
    assert len(chat.webui.files) == 4


@pytest.mark.parametrize(
    ("change", "step"),
    [
        (lambda bot: bot["params"].update(num_ctx=1), "a: change the bot"),
        (lambda bot: bot.update(name="Mine"), "a: change the bot"),
        (lambda bot: bot.update(is_active=False), "a: change the bot"),
        (lambda bot: bot["meta"].update(knowledge=[]), "a: change the bot"),
        (lambda bot: bot["access_grants"].append(grant("user", "*")), "a: change who may use it"),
        (lambda bot: bot["access_grants"].append({**grant("group", "g"), "permission": "write"}), "a: change who may"),
        (lambda bot: bot["meta"].update(profile_image_url="/static/x.png"), None),
    ],
)
def test_what_was_changed_on_the_page_is_put_right(chat: Chat, change: Any, step: str | None) -> None:
    chat.converge()
    chat.webui.models = copy.deepcopy(chat.webui.models)
    change(chat.webui.models["course-a"])
    assert [words[: len(step or words)] for words in chat.steps()] == ([step] if step else [])
    chat.converge()
    chat.check()


def grant(kind: str, who: str) -> dict[str, str]:
    return {"principal_type": kind, "principal_id": who, "permission": "read"}


def test_another_embedding_model_indexes_everything_anew(chat: Chat) -> None:
    chat.converge()
    chat.wanted["index"], chat.webui.length = "bge-m3", 1024
    assert [step.split(": ")[1].split(" ")[0:2] for step in chat.steps()] == [["index", "anew"]] * 3
    assert chat.converge().problems == []
    chat.check()


def test_bots_whose_material_another_model_indexed_are_away_until_it_is_there(chat: Chat) -> None:
    """Whoever asks one meanwhile would be answered as if the course had no material."""
    chat.converge()
    chat.wanted["index"], chat.webui.length = "bge-m3", 1024
    active: list[bool] = []
    upload = chat.webui.upload

    def watched(name: str, kind: str, content: bytes, metadata: Mapping[str, str]) -> Any:
        active.append(chat.webui.models[f"course-{metadata['course']}"]["is_active"])
        return upload(name, kind, content, metadata)

    chat.webui.upload = watched  # type: ignore[method-assign]
    chat.webui.embedding = False
    chat.converge()
    assert chat.webui.models["course-a"]["is_active"] is False
    chat.webui.embedding = True
    chat.webui.limit = len(chat.webui.asked) + 20
    with pytest.raises(WebuiError):
        chat.converge()
    chat.webui.limit = None
    assert chat.converge().problems == []
    assert len(active) >= 3 + 3
    assert not any(active)
    assert [chat.webui.models[f"course-{name}"]["is_active"] for name in "ab"] == [True, True]
    chat.check()


def test_a_file_of_no_use_does_not_keep_a_bot_away_that_was_there(chat: Chat) -> None:
    chat.converge()
    chat.course("b", {"one.md": "text one", "scan.md": " "}, EVERYONE)
    chat.wanted["index"], chat.webui.length = "bge-m3", 1024
    (problem,) = chat.converge().problems
    assert "b: index scan.md: holds no text" in problem
    assert chat.webui.models["course-b"]["is_active"] is True


def test_a_changed_file_takes_no_bot_away(chat: Chat) -> None:
    chat.converge()
    chat.course("b", {"one.md": "text one, changed"}, EVERYONE)
    chat.webui.asked.clear()
    chat.converge()
    assert not [words for words in chat.webui.asked if "toggle" in words]


def test_a_model_that_somebody_made_is_not_taken(chat: Chat) -> None:
    mine = {"id": "course-a", "base_model_id": "x", "user_id": "ada-id", "name": "Mine", "meta": {}, "params": {}}
    chat.webui.models["course-a"] = mine
    taken = chat.converge()
    problems = taken.problems
    assert taken.lasting == problems
    assert problems == ["a: somebody made a model course-a on the page: rename that or the course"]
    assert chat.webui.models["course-a"] is mine


def test_a_damaged_copy_is_not_indexed(chat: Chat) -> None:
    (chat.store / chat.wanted["courses"]["a"]["files"]["one.md"]["sha256"]).write_text("other")
    damaged = chat.converge()
    assert damaged.lasting == [problem for problem in damaged.problems if "damaged" in problem]
    assert damaged.problems[0] == "a: index one.md: its copy on this host is damaged: deploy again"


def test_a_session_is_signed_and_ends() -> None:
    """RFC 7519 and 7515: three parts of base64url without padding, HMAC-SHA-256 over the first two."""
    header, body, signature = token("secret", "some-id", "stamp", now=1_700_000_000).split(".")
    digest = hmac.new(b"secret", f"{header}.{body}".encode(), hashlib.sha256).digest()
    assert base64.urlsafe_b64decode(signature + "=") == digest
    assert json.loads(base64.urlsafe_b64decode(header + "===")) == {"alg": "HS256", "typ": "JWT"}
    claims = json.loads(base64.urlsafe_b64decode(body + "==="))
    assert (claims["id"], claims["session_stamp"], claims["typ"]) == ("some-id", "stamp", "session")
    assert claims["iat"] < claims["exp"] <= claims["iat"] + 86400


def test_an_address_where_nobody_listens_is_words() -> None:
    with pytest.raises(WebuiError, match="Open WebUI does not answer") as away:
        Webui("http://127.0.0.1:1", "x", timeout_s=1).get("/api/v1/models/all")
    assert away.value.status == 0
    assert json.dumps(away.value.words)


def test_readiness_is_noted_while_it_changes(chat: Chat, tmp_path: Path) -> None:
    def noted(limit: int | None = None) -> list[dict[str, tuple[bool, int]]]:
        found: list[dict[str, tuple[bool, int]]] = []

        def note(ready: Mapping[str, Readiness]) -> None:
            found.append({name: (one.bot, one.files) for name, one in ready.items()})
            courses_note.write(tmp_path, ready)

        chat.webui.limit = None if limit is None else len(chat.webui.asked) + limit
        with contextlib.suppress(WebuiError):
            Converge(chat.webui, ADMIN, chat.wanted, chat.store, lambda *_: None, note).run()  # type: ignore[arg-type]
        chat.webui.limit = None
        return found

    first = noted()
    assert first[0] == {"a": (False, 2), "b": (False, 1)}
    assert first[-1] == {"a": (True, 0), "b": (True, 0)}
    assert {"a": (False, 1), "b": (False, 1)} in first
    assert noted() == [{"a": (True, 0), "b": (True, 0)}]
    chat.course("a", {"one.md": "text one, changed", "Kapitel 1/zwei.md": "text two"})
    assert noted()[0] == {"a": (True, 1), "b": (True, 0)}
    chat.course("c", {"three.md": "text three"})
    noted(limit=8)  # cut off: what was noted last stays
    kept = json.loads((tmp_path / courses_note.NAME).read_text())
    assert kept["courses"]["c"] == {"bot": False, "files": 1}
    assert abs(kept["at"] - time.time()) < 60


def test_what_was_uploaded_for_nothing_goes(chat: Chat) -> None:
    chat.converge()
    chat.course("a", {"one.md": "text one", "Kapitel 1/zwei.md": "never finished"})
    chat.webui.asked, chat.webui.limit = [], 0
    while len(chat.webui.files) < 4:
        chat.webui.asked, chat.webui.limit = [], chat.webui.limit + 1
        with pytest.raises(WebuiError):
            chat.converge()
    chat.webui.limit = None
    chat.course("a", {"one.md": "text one", "Kapitel 1/zwei.md": "something else"})
    chat.converge()
    chat.check()


def test_of_two_indexes_of_one_course_one_stays(chat: Chat) -> None:
    chat.converge()
    (knowledge,) = [row for row in chat.webui.knowledge.values() if row["description"] == "flexi: course a"]
    chat.webui.knowledge["second"] = {**knowledge, "id": "second"}
    assert chat.steps() == ["a: change the bot"]
    chat.converge()
    assert set(chat.webui.knowledge) == {row["id"] for row in chat.webui.knowledge.values()} - {"second"}
    chat.check()
