"""What the contract tests talk to: a real Ollama, if FLEXI_OLLAMA_URL names one, or else the simulated one, in the
versions before and after its runners became llama-server.

Against a real server:

    FLEXI_OLLAMA_URL=http://127.0.0.1:11434 FLEXI_OLLAMA_MODEL=llama3.2:1b FLEXI_OLLAMA_EMBEDDING_MODEL=all-minilm \
        .venv/bin/pytest tests/contract

FLEXI_OLLAMA_MODEL must be a model that writes and has no tool or thinking ability where a test says so; both models
must be there already. FLEXI_OLLAMA_TOOL_MODEL names one that calls tools; without it the tests of tools are skipped.
Tests that pull need the server to reach this machine's loopback.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from functools import cache
from urllib.parse import urlsplit

import httpx
import pytest

from flexi.catalog import CATALOGUE
from flexi.lab.ollama_sim import catalogue, registry, testing

REAL_URL = os.environ.get("FLEXI_OLLAMA_URL", "")
TOOL_MODEL = "mistral:7b"
SIMULATED = {"0.24.0": "535.309.01", "0.32.15": "580.173.02"}
"""Version, and a driver that it computes on."""


@pytest.fixture(scope="session", autouse=True)
def authorities() -> Iterator[None]:
    """The authorities that a client of HTTPS trusts, read once: each client reads them again, and none needs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", cache(ssl.create_default_context))
        yield


@pytest.fixture(scope="session")
def models_registry() -> Iterator[registry.Registry]:
    names = ("llama3:8b", TOOL_MODEL, "nomic-embed-text:latest", "phi3:3.8b")
    server = registry.serve("127.0.0.1", 0, {name: catalogue.spec_of(name, CATALOGUE[name]) for name in names})
    yield server
    server.close()


@pytest.fixture(scope="session", params=["real"] if REAL_URL else list(SIMULATED))
def ollama_url(
    request: pytest.FixtureRequest, models_registry: registry.Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Base URL of the server under test."""
    if REAL_URL:
        yield REAL_URL.rstrip("/")
        return
    driver = SIMULATED[request.param]
    machine = testing.Machine(tmp_path_factory.mktemp("machine"), [("NVIDIA A40", 46068)], driver)
    variables = {"OLLAMA_CONTEXT_LENGTH": "4096", "OLLAMA_NUM_PARALLEL": "2"}
    server = testing.start_server(machine, variables, request.param)
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for name in ("llama3:8b", TOOL_MODEL, "nomic-embed-text:latest"):
            source = f"127.0.0.1:{models_registry.port}/library/{name}"
            pulled = client.post("/api/pull", json={"model": source, "insecure": True, "stream": False})
            assert pulled.json() == {"status": "success"}, pulled.text
            assert client.post("/api/copy", json={"source": source, "destination": name}).status_code == 200
            client.request("DELETE", "/api/delete", json={"model": source})
    yield server.url
    server.close()


@pytest.fixture
def http(ollama_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=ollama_url, timeout=120) as client:
        yield client


@pytest.fixture
def llama_server(http: httpx.Client) -> bool:
    """Whether the server is of version 0.30 or later."""
    major, minor = http.get("/api/version").json()["version"].split(".")[:2]
    return (int(major), int(minor)) >= (0, 30)


@pytest.fixture(scope="session")
def model() -> str:
    """A model that writes."""
    return os.environ.get("FLEXI_OLLAMA_MODEL", "llama3.2:1b" if REAL_URL else "llama3:8b")


@pytest.fixture(scope="session")
def embedding_model() -> str:
    """A model that only embeds."""
    return os.environ.get("FLEXI_OLLAMA_EMBEDDING_MODEL", "nomic-embed-text")


@pytest.fixture(scope="session")
def tool_model() -> str:
    """A model that calls tools."""
    if REAL_URL and "FLEXI_OLLAMA_TOOL_MODEL" not in os.environ:
        pytest.skip("FLEXI_OLLAMA_TOOL_MODEL names no model that calls tools")
    return os.environ.get("FLEXI_OLLAMA_TOOL_MODEL", TOOL_MODEL)


@pytest.fixture
def source(ollama_url: str, models_registry: registry.Registry) -> Iterator[str]:
    """Full name of a model in the registry, which the server has not got (any more)."""
    if urlsplit(ollama_url).hostname not in ("127.0.0.1", "localhost"):
        pytest.skip("the server cannot reach a registry on this machine")
    name = f"127.0.0.1:{models_registry.port}/library/phi3:3.8b"
    httpx.request("DELETE", f"{ollama_url}/api/delete", json={"model": name})
    yield name
    models_registry.faults = registry.Faults()
    httpx.request("DELETE", f"{ollama_url}/api/delete", json={"model": name})
