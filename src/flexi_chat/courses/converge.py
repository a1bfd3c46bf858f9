"""From what there is of course bots to what is wanted, step by step; a run that is cut off goes on where it was.

- Who may no longer use a bot is kept out before anything that takes time.
- A changed file stays as it was until the new one is read and embedded: a failure leaves the old text, not a hole.
- A bot appears when all its material is there, and keeps answering while some of it changes. Where another embedding
  model has indexed it, nothing of it is found any more: the bot is away until all is indexed anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flexi_chat.courses import note as courses_note
from flexi_chat.courses.note import Readiness
from flexi_chat.courses.state import BOT, MARK, CourseRows, FileRow, State, as_found, read_state, unlinked_files
from flexi_chat.courses.wanted import Step, course_steps, difference, embedded_anew
from flexi_chat.webui.client import Webui, WebuiError
from flexi_chat.webui.files import delete_file

Json = Mapping[str, Any]
PATIENCE = 3
"""Files in a row that the embedding model gave no answer for, before the rest is left for another time."""
AWAY = "the embedding model did not answer"


class _GivingUpError(Exception):
    """The embedding model is away."""


@dataclass
class Converge:
    """One run. `store` holds the material, each file under its SHA-256; `say` is told each step before it is made."""

    webui: Webui
    account: str
    wanted: Json
    store: Path
    say: Callable[[Step, int, int], None]
    note: Callable[[Mapping[str, Readiness]], None] = lambda ready: None
    """Told at first, and whenever a course's readiness changes."""
    problems: list[str] = field(default_factory=list)
    lasting: list[str] = field(default_factory=list)
    """Those of them that no other run does away with: somebody has to change something first."""
    _state: State = field(init=False)
    _ready: dict[str, Readiness] = field(init=False, default_factory=dict)
    _left: dict[tuple[str, str, str, str], FileRow] = field(init=False, default_factory=dict)
    _away: int = 0
    _away_in_a_row: int = 0
    _done: int = 0
    _all: int = 0

    def run(self) -> int:
        """The number of steps made. What could not be done is in `problems`; WebuiError where the chat is away."""
        self._state = read_state(self.webui, self.account, self.wanted)
        self._rest()
        found = as_found(self._state, self.wanted)
        steps = difference(self.wanted, found)
        self._all = len(steps)
        self._ready = courses_note.of(self.wanted, found, steps)
        self.note(self._ready)
        unlinked = unlinked_files(self.webui, self._state)
        if not steps and not unlinked:
            return 0
        self._left = {(file.course, file.name, file.sha256, file.index): file for file in unlinked if file.indexed}
        self._groups()
        for step in steps:
            if step.what in ("show a model", "hide a model", "remove the course", "change who may use it"):
                self._try(step)
        try:
            for name in self.wanted["courses"]:
                self._course(name)
        except _GivingUpError:
            self.problems.append(f"the rest waits for another run: {AWAY}")
        self._tidy(unlinked)
        self.webui.get("/api/models", refresh="true")  # A worker knows the bots that it last listed.
        return self._done

    def _rest(self) -> None:
        """Take the bots away that would answer without their material."""
        for name in embedded_anew(self.wanted, as_found(self._state, self.wanted)):
            rows = self._state.courses[name]
            if rows.bot is not None and _active(rows.bot):
                self.webui.post(f"/api/v1/models/model/toggle?id={rows.bot['id']}")
                rows.bot = {**rows.bot, "is_active": False}

    def _try(self, step: Step) -> bool:
        """Make a step; False, and a problem more, where the chat refuses."""
        self.say(step, self._done, self._all)
        try:
            self._make(step)
        except WebuiError as error:
            self.problems.append(f"{step}: {error}")
            if error.status == -1:
                self.lasting.append(self.problems[-1])
            if error.status == 0:
                raise
            self._away += AWAY in error.words
            self._away_in_a_row = self._away_in_a_row + 1 if AWAY in error.words else 0
            if self._away_in_a_row == PATIENCE:
                raise _GivingUpError from None
            return False
        self._away_in_a_row = 0
        self._done += 1
        if step.course in self._ready:
            self._ready[step.course].files -= step.indexes
            self._ready[step.course].bot |= step.what in ("make the course", "change the bot")
            self.note(self._ready)
        return True

    def _make(self, step: Step) -> None:
        course = step.course or ""
        match step.what:
            case "show a model":
                self._show(step.subject, self.wanted["models"][step.subject])
            case "hide a model":
                self.webui.post("/api/v1/models/model/delete", {"id": step.subject})
            case "remove the course":
                self._remove(self._state.courses[course])
            case "change who may use it":
                self._share(self._state.courses[course], self.wanted["courses"][course])
            case "index" | "index anew":
                self._bring(course, step.subject)
            case "take out":
                self._take_out(course, step.subject)
            case "make the course" | "change the bot":
                self._bot(course)

    def _groups(self) -> None:
        """Groups that are named and not there: a directory that knows them puts people into them at sign-in."""
        parts = (*self.wanted["courses"].values(), *self.wanted["models"].values())
        for name in sorted({group for part in parts for group in part["access"]["groups"]}):
            if not self._state.group_ids(name):
                made = self.webui.post("/api/v1/groups/create", {"name": name, "description": "Course (flexi)"})
                self._state.groups[made["id"]] = name

    def _grants(self, access: Json) -> list[dict[str, str]]:
        who = [("user", "*")] if access["everyone"] else []
        who += [("group", group) for name in access["groups"] for group in self._state.group_ids(name)]
        who += [("user", account) for mail in access["accounts"] for account in self._state.account_ids(mail)]
        return [{"principal_type": kind, "principal_id": name, "permission": "read"} for kind, name in who]

    def _show(self, name: str, wanted: Json) -> None:
        """Without a row of its own a model is the admins' alone (utils/access_control: has_base_model_access)."""
        row = self._state.models.get(name)
        form = {
            "id": name,
            "base_model_id": None,
            "name": row["name"] if row else name,
            "params": row["params"] if row else {},
            "meta": {**(row["meta"] if row else {}), "hidden": wanted["hidden"]},
            "access_grants": self._grants(wanted["access"]),
            "is_active": True,
        }
        self.webui.post("/api/v1/models/model/update" if row else "/api/v1/models/create", form)

    def _share(self, rows: CourseRows, wanted: Json) -> None:
        grants = self._grants(wanted["access"])
        if rows.bot is not None:
            self.webui.post("/api/v1/models/model/access/update", {"id": rows.bot["id"], "access_grants": grants})
        if rows.knowledge is not None:
            path = f"/api/v1/knowledge/{rows.knowledge['id']}/access/update"
            self.webui.post(path, {"access_grants": grants})

    def _remove(self, rows: CourseRows) -> None:
        if rows.bot is not None:
            self.webui.post("/api/v1/models/model/delete", {"id": rows.bot["id"]})
        for knowledge in (rows.knowledge, *rows.more_knowledge):
            if knowledge is not None:
                self._remove_knowledge(knowledge["id"])

    def _remove_knowledge(self, knowledge: str) -> None:
        # With its files and their vectors; deleting it alone would leave them.
        self.webui.post(f"/api/v1/knowledge/{knowledge}/reset")
        self.webui.delete(f"/api/v1/knowledge/{knowledge}/delete")

    def _course(self, name: str) -> None:
        wanted = self.wanted["courses"][name]
        rows = self._state.courses.get(name)
        if name in self._state.taken:
            self.problems.append(f"{name}: somebody made a model {BOT}{name} on the page: rename that or the course")
            self.lasting.append(self.problems[-1])
            return
        found = as_found(self._state, self.wanted)["courses"].get(name)
        steps = course_steps(name, wanted, found, self.wanted["index"], set())
        steps = [step for step in steps if step.what != "change who may use it"]
        if not steps:
            return
        if rows is None:
            rows = self._state.courses.setdefault(name, CourseRows())
        for more in rows.more_knowledge:
            self._remove_knowledge(more["id"])
        rows.more_knowledge = []
        if rows.knowledge is None:
            form = {
                "name": wanted["title"],
                "description": MARK + name,
                "access_grants": self._grants(wanted["access"]),
            }
            rows.knowledge = self.webui.post("/api/v1/knowledge/create", form)
        self._forget_another_models_index(name, rows)
        whole, away = True, self._away
        for step in steps:
            if step.what in ("index", "index anew", "take out"):
                whole = self._try(step) and whole
        bots = [step for step in steps if step.what in ("make the course", "change the bot")]
        # One that was away comes back with what can be indexed, as it would have stayed with it.
        stays = rows.bot is not None and (_active(rows.bot) or self._away == away)
        if bots and (whole or stays):
            self._try(bots[0])
        elif bots:
            self.problems.append(f"{name}: the bot waits until all its material is indexed")

    def _forget_another_models_index(self, course: str, rows: CourseRows) -> None:
        """A knowledge takes vectors of one length, and questions are embedded by the model that is wanted now: what
        another one indexed finds nothing any more, and is in the way."""
        assert rows.knowledge is not None
        if any(file.course == course and file.index != self.wanted["index"] for file in rows.files):
            self.webui.post(f"/api/v1/knowledge/{rows.knowledge['id']}/reset")
            rows.files = []

    def _bring(self, course: str, name: str) -> None:
        rows = self._state.courses[course]
        assert rows.knowledge is not None
        wanted, index = self.wanted["courses"][course]["files"][name], self.wanted["index"]
        left = self._left.pop((course, name, wanted["sha256"], index), None)
        if left is not None:
            # Its vectors may have been half way into the knowledge.
            body = {"collection_name": rows.knowledge["id"], "file_id": left.id}
            self.webui.post("/api/v1/retrieval/delete", body)
        new = left or self._upload(course, name, wanted, index)
        files = self.wanted["courses"][course]["files"]
        for file in rows.files:
            if file.text_hash == new.text_hash and not self._is_stale(file, files, index):
                delete_file(self.webui, new.id)
                raise WebuiError(400, f"has the same text as {file.name}: remove one of the two")
        stale = [file for file in rows.files if self._is_stale(file, files, index)]
        old = [file for file in stale if file.name == name]
        # The chat takes no text twice: what has the same one makes room first, and comes back if that was for nothing.
        same_text = [file for file in stale if file.text_hash == new.text_hash]
        for file in same_text:
            self._unlink(rows, file, delete=False)
        try:
            self._link(rows, new)
        except WebuiError as error:
            delete_file(self.webui, new.id)
            for file in same_text:
                self._put_back(rows, file)
            raise WebuiError(error.status, in_words(error.words)) from None
        for file in same_text:
            delete_file(self.webui, file.id)
        for file in old:
            if file not in same_text:
                self._unlink(rows, file)

    def _upload(self, course: str, name: str, wanted: Json, index: str) -> FileRow:
        try:
            content = (self.store / wanted["sha256"]).read_bytes()
        except OSError as error:
            raise WebuiError(-1, f"its copy on this host cannot be read ({error.strerror}): deploy again") from None
        if hashlib.sha256(content).hexdigest() != wanted["sha256"]:
            raise WebuiError(-1, "its copy on this host is damaged: deploy again")
        metadata = {"course": course, "path": name, "index": index, "file_hash": wanted["sha256"]}
        made = self.webui.upload(shown_name(name), wanted["kind"], content, metadata)
        row = self.webui.get(f"/api/v1/files/{made['id']}")
        data = row.get("data") or {}
        file = FileRow(row["id"], course, name, wanted["sha256"], index, row.get("hash"), True)
        if data.get("status") != "completed":
            delete_file(self.webui, file.id)
            raise WebuiError(400, in_words(str(data.get("error") or f"its state is {data.get('status')}")))
        return file

    def _is_stale(self, file: FileRow, files: Json, index: str) -> bool:
        return files.get(file.name, {}).get("sha256") != file.sha256 or file.index != index

    def _take_out(self, course: str, name: str) -> None:
        rows = self._state.courses[course]
        files, index = self.wanted["courses"][course]["files"], self.wanted["index"]
        named = [file for file in rows.files if file.name == name]
        good = [file for file in named if not self._is_stale(file, files, index)]
        for file in named:
            if file not in good[:1]:
                self._unlink(rows, file)

    def _link(self, rows: CourseRows, file: FileRow) -> None:
        assert rows.knowledge is not None
        self.webui.post(f"/api/v1/knowledge/{rows.knowledge['id']}/file/add", {"file_id": file.id})
        rows.files.append(file)

    def _unlink(self, rows: CourseRows, file: FileRow, delete: bool = True) -> None:
        assert rows.knowledge is not None
        path = f"/api/v1/knowledge/{rows.knowledge['id']}/file/remove?delete_file={str(delete).lower()}"
        self.webui.post(path, {"file_id": file.id})
        rows.files.remove(file)

    def _put_back(self, rows: CourseRows, file: FileRow) -> None:
        try:
            self._link(rows, file)
        except WebuiError as error:
            self.problems.append(f"{file.course}: {file.name} is missing until the next run: {in_words(error.words)}")

    def _bot(self, course: str) -> None:
        rows, wanted = self._state.courses[course], self.wanted["courses"][course]
        assert rows.knowledge is not None
        if rows.knowledge["name"] != wanted["title"]:
            # Without grants in the form they stay as they are.
            form = {"name": wanted["title"], "description": MARK + course}
            self.webui.post(f"/api/v1/knowledge/{rows.knowledge['id']}/update", form)
        knowledge = {"type": "collection", "id": rows.knowledge["id"], "name": wanted["title"]}
        form = {
            "id": BOT + course,
            "name": wanted["title"],
            "base_model_id": wanted["bot"]["base_model_id"],
            "params": wanted["bot"]["params"],
            "meta": {**wanted["bot"]["meta"], "knowledge": [knowledge]},
            "access_grants": self._grants(wanted["access"]),
            "is_active": True,
        }
        self.webui.post("/api/v1/models/create" if rows.bot is None else "/api/v1/models/model/update", form)

    def _tidy(self, unlinked: list[FileRow]) -> None:
        """What an earlier run uploaded and nobody wants any more."""
        used = {file.id for rows in self._state.courses.values() for file in rows.files}
        for file in unlinked:
            if file.id not in used:
                delete_file(self.webui, file.id)


def _active(bot: Json) -> bool:
    return bool(bot.get("is_active", True))


def shown_name(name: str) -> str:
    """How a source is called below an answer: the chat takes what stands behind the last slash."""
    return name.replace("/", " › ")


def in_words(error: str) -> str:
    """Open WebUI's reason why a file was not indexed, for people."""
    if "content provided is empty" in error:
        return "holds no text that can be read: a scan needs text recognition first"
    if "Embedding generation failed" in error or "Ollama embed error" in error or "Cannot connect" in error:
        return f"{AWAY} ({error})"
    return error
