"""The chat's own program for accounts, on its host (`flexi_chat.accounts`)."""

from __future__ import annotations

import json
from typing import Any

from flexi.components.chat_programs import chat_program
from flexi.errors import FlexiError, InputError
from flexi.plan.model.chat import ChatPlan
from flexi.plan.model.site import Plan
from flexi.ssh import remote

_TIMEOUT_S = 120.0


def chat_of(plan: Plan) -> ChatPlan:
    """InputError where the site has no chat."""
    if plan.chat is None:
        raise InputError(f"the site {plan.site} has no chat: add `chat:` to its file")
    return plan.chat


def ask(plan: Plan, *arguments: str) -> dict[str, Any]:
    """What the program says. FlexiError where it cannot, or cannot be reached."""
    chat = chat_of(plan)
    host = next(host for host in plan.hosts if host.name == chat.host)
    answer = remote.run(host, command(chat, "accounts", *arguments), _TIMEOUT_S)
    if not answer.reached:
        raise FlexiError(f"{host.name} {answer.unreachable}")
    try:
        said: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        why = (answer.stderr.splitlines() or ["it says nothing"])[-1]
        raise FlexiError(f"the chat's program on {host.name} failed: {why} (is the chat deployed?)") from None
    if "problem" in said:
        raise FlexiError(said["problem"])
    return said


def command(chat: ChatPlan, module: str, *arguments: str) -> str:
    """The shell command that runs a module of `flexi_chat` for this chat."""
    return f"sudo -n {chat_program(module, '--url', chat.inside_url, *arguments)}"
