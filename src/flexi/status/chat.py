"""How the chat is at this moment, without a person in it: runs or not, how much it is used, which bots are ready."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from flexi.catalog.consumers import CHAT_CONSUMER
from flexi.components import chat as chat_files
from flexi.components.chat_programs import chat_program_as_root
from flexi.plan.model.chat import ChatPlan
from flexi.plan.model.site import Plan
from flexi.ssh import remote
from flexi.status.gateway import GatewayNow

BACKEND = "chat"
"""HAProxy's name for it (templates/gateway/haproxy/chat.cfg.j2)."""
STALE_S = 600
"""The timer of the course bots looks every 2 min."""
UNKNOWN = "-"
_SAID = ("unit", "answers", "release", "courses", "saved", "exchanged")
_EXCHANGED = "a restore is under way, or was cut off: `flexi restore` again undoes that first"


@dataclass(frozen=True)
class ChatNow:
    """The chat's own words, or why there are none."""

    host: str
    error: str | None
    now: dict[str, Any] | None


def read(plan: Plan) -> ChatNow | None:
    """What the chat's host says; None where the site has no chat."""
    chat = plan.chat
    if chat is None:
        return None
    words = (chat_files.UNIT, f"{chat.inside_url}/health", chat_files.CURRENT, chat_files.DATA, chat_files.SAVED)
    command = (
        f"[ -x {chat_files.CURRENT}/bin/python ] || {{ echo 'there is no chat yet: deploy it' >&2; exit 1; }}\n"
        f"exec {chat_program_as_root('gate.now', *words)}\n"
    )
    answer = remote.run(plan.host(chat.host), remote.ROOT_SHELL, stdin=command)
    if not answer.reached:
        return ChatNow(chat.host, answer.unreachable, None)
    if answer.status != 0:
        return ChatNow(chat.host, answer.last_words, None)
    try:
        found = json.loads(answer.stdout)
        now = ChatNow(chat.host, None, {key: found[key] for key in _SAID})
        # All that is shown of it is read once here, so that an answer of another release is an error and no traceback.
        state(now.now or {})
        unready_bots(chat, now)
        _seen(now)
        _time(found["saved"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError) as error:
        return ChatNow(chat.host, f"what it says cannot be read ({error!r}): another release? deploy", None)
    return now


def as_json(plan: Plan, chat: ChatNow | None, gateways: Sequence[GatewayNow]) -> dict[str, object] | None:
    if chat is None or plan.chat is None:
        return None
    return {
        "host": chat.host,
        "url": plan.chat.url,
        "error": chat.error,
        "state": state(chat.now) if chat.now else None,
        "release": chat.now["release"] if chat.now else None,
        "connections": _connections(gateways),
        "requests": _requests(gateways),
        "bots": [_bot(course, files, bot) for course, bot, files in _bots(plan.chat, chat)] if chat.now else None,
        "bots_seen": _seen(chat),
        "last_backup": _time(chat.now["saved"]) if chat.now else None,
    }


def _bot(course: str, files: int | None, bot: bool) -> dict[str, object]:
    return {"course": course, "ready": bot and files == 0, "files_left": files}


def state(now: dict[str, Any]) -> str:
    """`runs`, `does not answer`, or systemd's own word for a unit that is not active; `restore` while one exchanges."""
    if now["exchanged"]:
        return "restore"
    if now["unit"] != "active":
        return str(now["unit"])
    return "runs" if now["answers"] else "does not answer"


def _bots(plan: ChatPlan, chat: ChatNow) -> Iterator[tuple[str, bool, int | None]]:
    """Each course of the site: whether users have its bot, and the files that are not indexed; None: not known."""
    noted = ((chat.now or {}).get("courses") or {}).get("courses", {})
    for course in plan.courses:
        found = noted.get(course.id)
        yield (course.id, bool(found["bot"]), int(found["files"])) if found else (course.id, False, None)


def _seen(chat: ChatNow) -> str | None:
    return _time(((chat.now or {}).get("courses") or {}).get("at"))


def _time(seconds: int | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _connections(gateways: Sequence[GatewayNow]) -> int | None:
    """Of browsers, as HAProxy counts them: a page that is open holds one at least. None where no gateway says."""
    found = [
        server["requests"]
        for gateway in gateways
        if gateway.now
        for backend in gateway.now["backends"]
        if backend["name"] == BACKEND
        for server in backend["servers"]
    ]
    return sum(found) if found else None


def _requests(gateways: Sequence[GatewayNow]) -> int | None:
    """Those to models, which all come under the chat's one name. None where no gateway says."""
    said = [gateway.now["using"] for gateway in gateways if gateway.now]
    return sum(one["requests"] for using in said for one in using if one["consumer"] == CHAT_CONSUMER) if said else None


def view(plan: Plan, chat: ChatNow, gateways: Sequence[GatewayNow]) -> RenderableType:
    """A line for the chat, and one for each bot that is not ready."""
    assert plan.chat is not None
    if chat.now is None:
        return f"[bold red]chat on {escape(chat.host)}: {escape(chat.error or '')}[/]"
    bots = list(_bots(plan.chat, chat))
    waiting = [(course, bot, files) for course, bot, files in bots if not bot or files != 0]
    found = state(chat.now)
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for column in ("chat", "state", "release", "connections", "requests", "bots", "last backup"):
        table.add_column(column, overflow="fold")
    saved = chat.now["saved"]
    table.add_row(
        escape(plan.chat.name),
        f"[green]{found}[/]" if found == "runs" else f"[bold red]{escape(found)}[/]",
        escape(chat.now["release"] or UNKNOWN),
        _shown(_connections(gateways)),
        _shown(_requests(gateways)),
        f"{len(bots) - len(waiting)} of {len(bots)}" if bots else UNKNOWN,
        f"{datetime.fromtimestamp(saved):%Y-%m-%d %H:%M}" if saved else "none known",
    )
    seen = ((chat.now["courses"] or {}).get("at")) if bots else None
    exchanged = (f"[bold red]{_EXCHANGED}[/]",) if chat.now["exchanged"] else ()
    return Group(table, *exchanged, *(f"[yellow]{escape(_reason(*one))}[/]" for one in waiting), *_stale(seen))


def unready_bots(plan: ChatPlan, chat: ChatNow) -> list[str]:
    """Say of each course whose users miss its bot, or part of its material, what is missing."""
    return [_reason(course, bot, files) for course, bot, files in _bots(plan, chat) if not bot or files != 0]


def _reason(course: str, bot: bool, files: int | None) -> str:
    if files is None:
        return f"course {course}: nothing is known of its bot yet"
    left = f"{files} file{'' if files == 1 else 's'} of its material {'is' if files == 1 else 'are'} not indexed yet"
    if bot:
        return f"course {course}: {left}"
    return f"course {course}: it has no bot until then: {left}" if files else f"course {course}: it has no bot yet"


def _stale(seen: int | None) -> Iterator[str]:
    if seen is not None and (age := datetime.now(UTC).timestamp() - seen) > STALE_S:
        yield f"[yellow]nobody has looked at the bots for {age / 60:.0f} min (systemctl status flexi-courses.timer)[/]"


def _shown(number: int | None) -> str:
    return UNKNOWN if number is None else str(number)
