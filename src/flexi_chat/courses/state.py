"""What there is of course bots in Open WebUI: its rows, read over its API, also in the shape of what is wanted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flexi_chat.webui.client import Webui

Row = Mapping[str, Any]
BOT = "course-"
"""Begins the ids of our bots in the chat."""
MARK = "flexi: course "
"""Begins the description of our knowledge, followed by the course's id: names may change and need not be unique."""
_PAGE = 1000
_LOOKS = ("profile_image_url", "background_image_url", "voice", "voice_avatar", "i18n")
"""What of a bot may be set on the page, and stays: its picture and voice."""


@dataclass(frozen=True)
class FileRow:
    """A file of ours in the chat. `name` is its path below the course's material."""

    id: str
    course: str
    name: str
    sha256: str
    """Of its bytes."""
    index: str
    """What it is embedded with."""
    text_hash: str | None
    """Open WebUI's own, of the text: no two files of a knowledge may have the same."""
    indexed: bool
    """Whether it was read and embedded to its end."""


@dataclass
class CourseRows:
    """What there is of one course; an interrupted run leaves a part of it."""

    bot: Row | None = None
    knowledge: Row | None = None
    more_knowledge: list[Row] = field(default_factory=list)
    """What two runs at once would have made; not ours to keep."""
    files: list[FileRow] = field(default_factory=list)
    """Those that belong to `knowledge`."""


@dataclass
class State:
    """Everything in the chat that concerns courses."""

    account: str
    """Id of the account that owns what is ours."""
    models: dict[str, Row] = field(default_factory=dict)
    """Rows of models that are no bots: what makes a model visible to users."""
    taken: dict[str, Row] = field(default_factory=dict)
    """Bots with names like ours that somebody else made."""
    courses: dict[str, CourseRows] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    """Id to name; names need not be unique."""
    accounts: dict[str, str] = field(default_factory=dict)
    """Id to mail address; read only where somebody is named."""

    def group_ids(self, name: str) -> list[str]:
        return [identity for identity, known in self.groups.items() if known == name]

    def account_ids(self, mail: str) -> list[str]:
        return [identity for identity, known in self.accounts.items() if known == mail]


def read_state(webui: Webui, account: str, wanted: Mapping[str, Any]) -> State:
    """Ask the chat. WebuiError where it does not answer."""
    state = State(account)
    for row in webui.get("/api/v1/models/all"):
        if row.get("base_model_id") is None:
            state.models[row["id"]] = row
        elif row["id"].startswith(BOT):
            if row["user_id"] == account:
                state.courses.setdefault(row["id"].removeprefix(BOT), CourseRows()).bot = row
            else:
                state.taken[row["id"].removeprefix(BOT)] = row
    for row in _knowledge(webui):
        if row["user_id"] != account or not (row.get("description") or "").startswith(MARK):
            continue
        rows = state.courses.setdefault(row["description"].removeprefix(MARK), CourseRows())
        if rows.knowledge is None:
            rows.knowledge = row
        else:
            rows.more_knowledge.append(row)
    for rows in state.courses.values():
        if rows.knowledge is not None:
            rows.files = [_file(row) for row in _files(webui, rows.knowledge["id"])]
    state.groups = {row["id"]: row["name"] for row in webui.get("/api/v1/groups/")}
    if any(_names_accounts(grants) for grants in _all_grants(state)) or any(_wanted_accounts(wanted)):
        users = webui.get("/api/v1/users/all")["users"]
        state.accounts = {row["id"]: row["email"].lower() for row in users}
    return state


def unlinked_files(webui: Webui, state: State) -> list[FileRow]:
    """Files that an interrupted run uploaded for a course, and that belong to no knowledge of ours."""
    linked = {file.id for rows in state.courses.values() for file in rows.files}
    found, skip = [], 0
    while True:
        page = webui.get("/api/v1/files/user/search", filename="*", limit=_PAGE, skip=skip)
        found += [_file(row) for row in page if _data(row).get("course")]
        if len(page) < _PAGE:
            return [file for file in found if file.id not in linked]
        skip += _PAGE


def as_found(state: State, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The state in the shape of courses_wanted.py."""
    known = set(state.accounts.values())
    return {
        "models": {
            name: {"access": _access(state, row), "hidden": bool((row.get("meta") or {}).get("hidden"))}
            for name, row in state.models.items()
        },
        "courses": {name: _course(state, rows) for name, rows in state.courses.items()},
        "absent": sorted(set(_wanted_accounts(wanted)) - known),
    }


def _course(state: State, rows: CourseRows) -> dict[str, Any]:
    knowledge = rows.knowledge
    return {
        "title": rows.bot["name"] if rows.bot else None,
        "bot": _bot(rows),
        "access": _access(state, rows.bot),
        "knowledge": {"title": knowledge["name"] if knowledge else None, "access": _access(state, knowledge)},
        "files": [{"name": file.name, "sha256": file.sha256, "index": file.index} for file in rows.files],
    }


def _bot(rows: CourseRows) -> dict[str, Any] | None:
    row = rows.bot
    if row is None or rows.knowledge is None or rows.more_knowledge or not row.get("is_active", True):
        return None
    meta = {key: value for key, value in row["meta"].items() if value is not None and key not in _LOOKS}
    knowledge = [(item.get("type"), item.get("id")) for item in meta.pop("knowledge", ()) if isinstance(item, dict)]
    if knowledge != [("collection", rows.knowledge["id"])]:
        return None
    return {"base_model_id": row["base_model_id"], "params": row["params"], "meta": meta}


def _access(state: State, row: Row | None) -> dict[str, Any] | None:
    if row is None:
        return None
    groups, accounts, everyone, other = set(), set(), False, []
    for grant in row.get("access_grants") or ():
        kind, who, what = grant["principal_type"], grant["principal_id"], grant["permission"]
        if what != "read":
            other.append(what)
        elif (kind, who) == ("user", "*"):
            everyone = True
        elif kind == "group" and who in state.groups:
            groups.add(state.groups[who])
        elif kind == "user" and who in state.accounts:
            accounts.add(state.accounts[who])
        else:
            other.append(kind)
    access = {"everyone": everyone, "groups": sorted(groups), "accounts": sorted(accounts)}
    return {**access, "other": sorted(other)} if other else access


def _all_grants(state: State) -> Iterator[Iterable[Row]]:
    for row in state.models.values():
        yield row.get("access_grants") or ()
    for rows in state.courses.values():
        for part in (rows.bot, rows.knowledge):
            yield (part or {}).get("access_grants") or ()


def _names_accounts(grants: Iterable[Row]) -> bool:
    return any(grant["principal_type"] == "user" and grant["principal_id"] != "*" for grant in grants)


def _wanted_accounts(wanted: Mapping[str, Any]) -> Iterator[str]:
    for part in (*wanted["courses"].values(), *wanted["models"].values()):
        yield from part["access"]["accounts"]


def _knowledge(webui: Webui) -> Iterator[Row]:
    page = 1
    while items := webui.get("/api/v1/knowledge/", page=page)["items"]:
        yield from items
        page += 1


def _files(webui: Webui, knowledge: str) -> Iterator[Row]:
    page, seen = 1, 0
    while True:
        answer = webui.get(f"/api/v1/knowledge/{knowledge}/files", limit=_PAGE, page=page)
        yield from answer["items"]
        seen += len(answer["items"])
        if not answer["items"] or seen >= answer["total"]:
            return
        page += 1


def _data(row: Row) -> Row:
    return (row.get("meta") or {}).get("data") or {}


def _file(row: Row) -> FileRow:
    data = _data(row)
    return FileRow(
        id=row["id"],
        course=data.get("course", ""),
        name=data.get("path") or row["filename"],
        sha256=(row.get("meta") or {}).get("file_hash") or "",
        index=data.get("index", ""),
        text_hash=row.get("hash"),
        indexed=(row.get("data") or {}).get("status") == "completed",
    )
