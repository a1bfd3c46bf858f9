"""The gateway as its clients meet it, asked on the gateway's own host: no model has to answer for it.

The health checks ask more (`tests/health/test_gateway.py`); this is what `status` and the doctor ask each time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from flexi.configs.gateway import FOLLOW_KEYS, HEALTH_HEADER, KEYS_MAP, curl_here, keys_map
from flexi.plan.model.site import HostPlan, Plan
from flexi.ssh import remote

_SEPARATOR = "--flexi--"
_ASK = "curl -sS -m 10 -w '\\n%{http_code}'"


@dataclass(frozen=True)
class ClientView:
    """What clients of one gateway meet: `problems` in words, or `error` where it could not be asked."""

    host: str
    error: str | None = None
    problems: tuple[str, ...] = ()
    keys_differ: str | None = None
    """Why keys are not those of the site; None where they are."""
    chat: str | None = None
    """Why the chat's page does not answer by its name; None where it does, or where the site has no chat."""


def read_all(plan: Plan) -> list[ClientView]:
    """Ask all gateways of the site at once."""
    gateways = [host for host in plan.hosts if "gateway" in host.roles]
    return list(remote.for_each(gateways, lambda host: read(plan, host)).values())


def read(plan: Plan, host: HostPlan) -> ClientView:
    answer = remote.run(host, remote.ROOT_SHELL, timeout_s=60, stdin=script(plan))
    if not answer.reached:
        return ClientView(host.name, f"does not answer over SSH: {_last(answer.stderr)}")
    if answer.stdout.count(_SEPARATOR) < 4:
        return ClientView(host.name, f"the gateway cannot be asked: {_last(answer.stderr)}")
    return parse(plan, host.name, answer.stdout)


def script(plan: Plan) -> str:
    """Write the commands for a shell of root's on a gateway. The key of the health checks stays in its file there."""
    gateway = plan.gateway
    key = f"-H @{HEALTH_HEADER}"
    asks = [
        f"{_ASK} {key} {curl_here(gateway, '/api/tags')}",
        f"sha256sum <{KEYS_MAP}",
        f"{FOLLOW_KEYS} --check && echo known",
        f"{_ASK} {curl_here(gateway, '/api/config', plan.chat)}" if plan.chat else "true",
    ]
    return "".join(f"{ask} 2>&1; echo; echo {_SEPARATOR}\n" for ask in asks)


def parse(plan: Plan, host: str, text: str) -> ClientView:
    lists, digest, known, chat = (part.strip() for part in text.split(_SEPARATOR)[:4])
    return ClientView(
        host,
        None,
        tuple(_problems(plan, lists)),
        _keys(plan, digest, known),
        None if plan.chat is None else _chat(chat),
    )


def _problems(plan: Plan, lists: str) -> Iterator[str]:
    body, _, status = lists.rpartition("\n")
    wanted = {backend.model for backend in plan.gateway.backends}
    if status != "200":
        yield f"it does not list the models: {_said(lists)}"
    else:
        try:
            listed = {str(model["name"]) for model in json.loads(body)["models"]}
        except (ValueError, KeyError, TypeError):
            yield "its list of models cannot be read"
        else:
            if wanted - listed:
                yield f"it does not list {', '.join(sorted(wanted - listed))}"
            if listed - wanted:
                yield f"it lists {', '.join(sorted(listed - wanted))}, which the site does not have: deploy"


def _keys(plan: Plan, digest: str, known: str) -> str | None:
    wanted = hashlib.sha256(keys_map(plan.gateway.consumers).encode()).hexdigest()
    if digest.partition(" ")[0] != wanted:
        return (
            "it has other keys than the site's keys file: whoever got a new key is refused, a revoked one still works"
        )
    return None if known.endswith("known") else f"HAProxy does not know the keys that were written: {_said(known)}"


def _chat(answer: str) -> str | None:
    return None if answer.rpartition("\n")[2] == "200" else f"the chat does not answer by its name: {_said(answer)}"


def _said(answer: str) -> str:
    """curl's last words or the status, and the beginning of the body, in one line."""
    body, _, status = answer.rpartition("\n")
    if status.isdigit() and status != "000":
        return f"status {status}" + (f", {' '.join(body.split())[:120]}" if body.strip() else "")
    return " ".join(answer.replace("000", "").split())[:200] or "no answer"


def _last(words: str) -> str:
    return (words.splitlines() or ["no answer"])[-1]
