"""Many hostile requests at once, and how the machines are afterwards."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from fuzz.wire import Response, UnreadableError
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from lab_site import Site, flexi

BATCH = 25
AT_ONCE = 8
CLASS = "fuzzer"
LOADS = "loading model|loaded runners|panic while answering"
CRASHES = "Traceback|exited with code|segfault|core dumped|Failed with result"

T = TypeVar("T")


@contextmanager
def fuzzers_key(file: Path) -> Iterator[str]:
    """A key of a class that may use two models and change nothing."""
    made = flexi("keys", "add", str(file), "fuzzer", "--class", CLASS, "--json")
    assert made.status == 0, made.text
    try:
        yield json.loads(made.stdout)["key"]
    finally:
        assert flexi("keys", "revoke", str(file), "fuzzer").status == 0


@contextmanager
def nothing_breaks(site: Site) -> Iterator[None]:
    """The same models in the same places, the same processes, and nothing of crashes in any journal."""
    before, since = _state_of(site), _cursors(site)
    yield
    assert _state_of(site) == before
    for host, cursor in since.items():
        journal = f"sudo journalctl -q --no-pager -o cat --after-cursor='{cursor}'"
        seen = site.ssh(host, f"{journal} | grep -E '{CRASHES}|{LOADS}' | head -20").stdout
        assert seen == "", f"{host}: {seen}"


def storm(
    requests: st.SearchStrategy[T],
    batches: int,
    send: Callable[[T], list[Response]],
    judge: Callable[[T, list[Response]], None],
) -> Counter[int]:
    """Send BATCH × `batches` of them, some at once, and judge each; how often which status came."""
    statuses: Counter[int] = Counter()

    def sent(attempt: T) -> list[Response] | Exception:
        try:
            return send(attempt)
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
        def batch(attempts: list[T]) -> None:
            for attempt, outcome in zip(attempts, pool.map(sent, attempts), strict=True):
                try:
                    assert not isinstance(outcome, Exception), f"{type(outcome).__name__}: {outcome}"
                    statuses.update(response.status for response in outcome)
                    judge(attempt, outcome)
                except (AssertionError, ValueError, KeyError, TypeError) as error:
                    raise AssertionError(f"{error}\n{str(outcome)[:1000]}\n{str(attempt)[:3000]}") from error

        batch()
    return statuses


def _state_of(site: Site) -> dict[str, Any]:
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


def _cursors(site: Site) -> dict[str, str]:
    command = "sudo journalctl -q -n 1 -o json --output-fields=__CURSOR"
    return {
        host: json.loads(site.ssh(host, command).stdout)["__CURSOR"] for host in ("gateway", "server-a", "server-b")
    }
