"""Ten thousand requests that no honest client sends: none may pass, evict, crash, or get a 5xx of ours."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest
from fuzz import bodies, broken
from fuzz.wire import Attempt, Response, UnreadableError, exchange
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from lab_site import Figure, Site, flexi

BATCH = 25
AT_ONCE = 8
CLASS = "fuzzer"
ALLOWED = {bodies.ALLOWED, bodies.OTHER_ALLOWED, bodies.EMBEDDING, f"{bodies.EMBEDDING}:latest"}
INFERENCE = re.compile(
    r"/(api/(generate|chat|embed|embeddings|show)|v1/(chat/completions|completions|embeddings|responses|messages))"
)
OPEN = "/api/show"
"""For everyone, of every model: `anonymous` of the lab's site."""
FROM_INSTANCE = re.compile(r'option ".*" must be of|invalid format: |unable to (load|process)|input length exceeds')
"""Errors with which Ollama itself answers 500: api/types.go FromMap, llm/server.go, server/routes.go."""
HIDDEN = (b"10.87.0.", b"server-a", b"server-b", b"127.0.0.1", b".sock", b"Traceback", b"<html")
LOADS = "loading model|loaded runners|panic while answering"
CRASHES = "Traceback|exited with code|segfault|core dumped|Failed with result"


@pytest.fixture(scope="module")
def key(site: Site) -> Iterator[str]:
    """A key of a class that may use two models and change nothing."""
    made = flexi("keys", "add", str(site.file), "fuzzer", "--class", CLASS, "--json")
    assert made.status == 0, made.text
    yield json.loads(made.stdout)["key"]
    assert flexi("keys", "revoke", str(site.file), "fuzzer").status == 0


@pytest.fixture(scope="module", autouse=True)
def nothing_broke(site: Site) -> Iterator[None]:
    """The same models in the same places, the same processes, and nothing of crashes in any journal."""
    before, since = state_of(site), cursors(site)
    yield
    assert state_of(site) == before
    for host, cursor in since.items():
        journal = f"sudo journalctl -q --no-pager -o cat --after-cursor='{cursor}'"
        seen = site.ssh(host, f"{journal} | grep -E '{CRASHES}|{LOADS}' | head -20").stdout
        assert seen == "", f"{host}: {seen}"
    assert site.answers(bodies.ALLOWED)


def state_of(site: Site) -> dict[str, Any]:
    """What runs and what is loaded, as the machines themselves say it."""
    state: dict[str, Any] = {}
    for instance in site.plan.instances:
        for what, fields in (("ps", ("name", "digest", "size_vram", "context_length")), ("tags", ("name", "digest"))):
            answer = site.ssh(instance.host, f"curl -sS http://127.0.0.1:{instance.port}/api/{what}").stdout
            models = json.loads(answer)["models"]
            state[f"{instance.group} {what}"] = sorted(tuple(model[field] for field in fields) for model in models)
            if what == "ps":
                assert all(int(model["expires_at"][:4]) > 2100 for model in models), "a model will be unloaded"
        unit = f"ollama@{instance.group}"
        state[unit] = site.ssh(instance.host, f"systemctl show -p MainPID,NRestarts {unit}").stdout
    for unit in ("haproxy", "flexi-guard", "flexi-catalogue", "flexi-ledger"):
        state[unit] = site.ssh("gateway", f"systemctl show -p MainPID,NRestarts {unit}").stdout
    return state


def cursors(site: Site) -> dict[str, str]:
    command = "sudo journalctl -q -n 1 -o json --output-fields=__CURSOR"
    return {
        host: json.loads(site.ssh(host, command).stdout)["__CURSOR"] for host in ("gateway", "server-a", "server-b")
    }


def judge(attempt: Attempt, responses: list[Response]) -> None:
    """AssertionError where a request got what it must not get."""
    if attempt.sound:
        assert len(responses) == 1, f"{len(responses)} responses"
    for response in responses:
        own = response.status == 501 and not attempt.sound  # RFC 9112, 6.1: a transfer coding that is not understood
        from_instance = response.status == 500 and FROM_INSTANCE.search(message_of(attempt.path, response))
        assert response.status < 500 or own or from_instance, f"{response.status}: {response.body[:300]!r}"
        if attempt.sound and response.status >= 400:
            assert message_of(attempt.path, response)
            assert not [word for word in HIDDEN if word in response.body], response.body[:300]
        if response.status == 200 and INFERENCE.match(attempt.path):
            assert attempt.authorized or attempt.path == OPEN, "without a key"
            assert attempt.path == OPEN or models_in(response.body) <= ALLOWED, response.body[:300]
    answered = [response for response in responses if response.status == 200]
    assert len(answered) <= 1, "an answer that nobody asked for"


def message_of(path: str, response: Response) -> str:
    """The sentence of an error, in the dialect of the path."""
    error = json.loads(response.body)["error"]
    if path.startswith("/v1/"):
        assert error["type"]
        error = error["message"]
    assert isinstance(error, str)
    return error


def models_in(body: bytes) -> set[str]:
    """Which models an answer says that it is from."""
    names = set()
    for line in body.split(b"\n"):
        text = line.removeprefix(b"data: ")
        if text.startswith(b"{"):
            names.update(re.findall(rb'"model":\s?"([^"]*)"', text[:2000]))
    return {name.decode() for name in names}


def storm(site: Site, requests: st.SearchStrategy[Attempt], batches: int) -> Counter[int]:
    """Send BATCH × `batches` of them, some at once, and judge each; how often which status came."""
    address = (urlsplit(site.url).hostname or "", urlsplit(site.url).port or 80)
    statuses: Counter[int] = Counter()

    def send(attempt: Attempt) -> list[Response] | Exception:
        try:
            return exchange(address, attempt)
        except (OSError, UnreadableError, ValueError) as error:
            return error

    with ThreadPoolExecutor(AT_ONCE) as pool:

        @settings(
            max_examples=batches,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            verbosity=Verbosity.quiet,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(requests, min_size=BATCH, max_size=BATCH))
        def batch(attempts: list[Attempt]) -> None:
            for attempt, outcome in zip(attempts, pool.map(send, attempts), strict=True):
                shown = f"{attempt.raw[:2000]!r}"
                assert not isinstance(outcome, Exception), f"{type(outcome).__name__}: {outcome}\n{shown}"
                statuses.update(response.status for response in outcome)
                try:
                    judge(attempt, outcome)
                except (AssertionError, ValueError, KeyError, TypeError) as error:
                    raise AssertionError(f"{error}\n{shown}") from error

        batch()
    return statuses


@pytest.mark.parametrize(("make", "batches"), [(bodies.attempts, 340), (broken.attempts, 80)], ids=["bodies", "broken"])
def test_nothing_gets_through(
    site: Site, key: str, figure: Figure, make: Callable[[str], st.SearchStrategy[Attempt]], batches: int
) -> None:
    statuses = storm(site, make(key), batches)
    counts = ", ".join(f"{count} of {status}" for status, count in sorted(statuses.items()))
    figure(f"{BATCH * batches} hostile requests: {counts}")
    # The storm was one: much was refused, and what was right was answered.
    assert statuses[400] > BATCH * batches / 20
    assert statuses[200] > BATCH * batches / 20
