"""The official clients, unchanged, through the gateway: one list of scenarios for all of them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from clients.environments import CLIENTS, Client, command
from clients.scenarios import JUDGES, task
from lab_site import Site

MODELS = {
    "chat": "llama3:8b",
    "slow": "mixtral:8x22b",
    "tools": "mistral:7b",
    "images": "llava:13b",
    "embeddings": "nomic-embed-text",
}
OPENAI = tuple(client.name for client in CLIENTS if client.name.startswith("openai"))
ONLY = {
    "responses": (*OPENAI, "curl"),
    "messages": ("curl",),
    "bounded": (*(name for name in OPENAI if "Python" in name), "ChatOpenAI (LangChain)"),
}
"""OpenAI's and Anthropic's own APIs, and who speaks them."""
LANGCHAIN_LACKS = ("list", "show")
PAIRS = [
    pytest.param(client, scenario, id=f"{client.name}, {scenario}")
    for client in CLIENTS
    for scenario in JUDGES
    if client.name in ONLY.get(scenario, (client.name,))
    and not (client.lock == "langchain" and scenario in LANGCHAIN_LACKS)
]
Results = Callable[[Client], dict[str, Any]]
AT_ONCE = 4
TIMEOUT_S = 180


@pytest.fixture(scope="session")
def asked(site: Site) -> dict[str, Any]:
    """The task: the same for all clients."""
    served = {backend.model for backend in site.plan.gateway.backends}
    slow = next(b for b in site.plan.gateway.backends if b.model == MODELS["slow"])
    assert [server.max_connections for server in slow.servers] == [1]
    return task(site.url, MODELS) | {"served": sorted(served)}


@pytest.fixture(scope="session")
def results(site: Site, asked: dict[str, Any]) -> Iterator[Results]:
    """What a client saw, by scenario. Each client runs once, some of them at the same time."""
    given = json.dumps(asked | {"key": site.key})

    def act(client: Client) -> dict[str, Any]:
        argv = command(client)
        done = subprocess.run(argv, input=given, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        return {line["scenario"]: line for line in lines}

    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = {client: pool.submit(act, client) for client in CLIENTS}
        yield lambda client: futures[client].result()


@pytest.mark.parametrize(("client", "scenario"), PAIRS)
def test_official_client(results: Results, asked: dict[str, Any], client: Client, scenario: str) -> None:
    line = results(client)[scenario]
    assert "failed" not in line, line["failed"][:3000]
    JUDGES[scenario](line["saw"], asked)
