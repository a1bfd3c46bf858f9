"""The programs as systemd runs them: ready, state files, answers, and an end at once on SIGTERM."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.agent_fakes import UUIDS, fake_ollama, smi_line, until

from flexi.configs.agent import agent_config, catalogue_config
from flexi.inventory import pyinfra_hosts
from flexi.paths import INVENTORY
from flexi_host.agent.config import AgentConfig
from flexi_host.catalogue.config import CatalogueConfig

LAB = INVENTORY / "lab.py"


class Program:
    """A started program and the words it says to systemd."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(directory / "notify"))
        self.socket.settimeout(10)
        self.output = directory / "output"
        environment = {
            **os.environ,
            "NOTIFY_SOCKET": str(directory / "notify"),
            "WATCHDOG_USEC": "2000000",  # the socket takes some ten words that nobody reads
            "PATH": f"{directory}:{os.environ['PATH']}",
        }
        with self.output.open("w") as output:
            command = [sys.executable, "-m", "flexi_host", *arguments]
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)

    def said(self) -> str:
        return self.socket.recv(1000).decode()

    def end(self) -> int:
        self.process.terminate()
        return self.process.wait(5)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    programs: list[Program] = []

    def run(*arguments: str) -> Program:
        programs.append(Program(tmp_path, *arguments))
        return programs[-1]

    yield run
    for program in programs:
        program.process.kill()
        program.process.wait(5)
        program.socket.close()


def write_host(directory: Path, url: str, check_port: int = 0) -> Path:
    """Everything that a GPU host has: nvidia-smi, an environment file, a configuration."""
    smi = directory / "nvidia-smi"
    smi.write_text("#!/bin/sh\n" + "".join(f"echo '{smi_line(i, uuid)}'\n" for i, uuid in enumerate(UUIDS)))
    smi.chmod(0o755)
    (directory / "a.env").write_text(f"CUDA_VISIBLE_DEVICES={','.join(UUIDS)}\n")
    (directory / "state").mkdir()
    config = {
        "host": "server-a",
        "check_port": check_port,
        "interval_s": 15,
        "state_dir": str(directory / "state"),
        "drain_dir": str(directory),
        "instances": [
            {
                "group": "a",
                "url": url,
                "env_file": str(directory / "a.env"),
                "store": str(directory / "models"),
                "models": [{"name": "llama3:8b", "context": 8192}],
            }
        ],
    }
    path = directory / "agent.json"
    path.write_text(json.dumps(config))
    return path


def test_the_agent_brings_a_host_up_and_ends_at_once(start: Any, tmp_path: Path) -> None:
    with fake_ollama() as ollama:
        agent = start("run", "--config", str(write_host(tmp_path, ollama.url)))
        assert agent.said() == "READY=1"
        assert agent.said() == "WATCHDOG=1"
        status = tmp_path / "state" / "status.json"

        def phase() -> str:
            models = json.loads(status.read_text())["instances"][0]["models"] if status.exists() else []
            return models[0]["phase"] if models else ""

        until(lambda: phase() == "ready", f"ready: {agent.output.read_text()}", 10)
        found = re.search(r"port (\d+)", agent.output.read_text())
        assert found
        with socket.create_connection(("127.0.0.1", int(found.group(1))), timeout=5) as sock:
            sock.sendall(b"a llama3:8b\n")
            assert sock.recv(100) == b"up ready\n"
        assert status.stat().st_mode & 0o777 == 0o644
        sample = 'flexi_model_ready{group="a",model="llama3:8b"} 1'
        metrics = status.parent / "metrics.prom"
        until(lambda: metrics.exists() and sample in metrics.read_text(), "the metric says so")
        (tmp_path / "a").write_text("flexi: restart\n")
        until(
            lambda: (
                json.loads(status.read_text())["instances"][0]["drain"] == {"reason": "flexi: restart", "told": False}
            ),
            "the drain stands in the file within a second",
            1.0,
        )
        assert agent.end() == 0
    lines = agent.output.read_text().splitlines()
    assert "a llama3:8b: loading -> ready" in lines
    assert len(lines) < 10, "a line for each change, and no more"


def test_after_a_boot_the_agent_is_ready_once_the_gateway_has_heard_that_nothing_is_loaded(
    start: Any, tmp_path: Path
) -> None:
    """Instances start after it; a gateway that still believes in what it heard before would send them requests."""
    with fake_ollama() as ollama:
        ollama.kill()
        agent = start("run", "--config", str(write_host(tmp_path, ollama.url)))
        found = until(lambda: re.search(r"port (\d+)", agent.output.read_text()), "it listens", 10)
        agent.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            agent.said()
        agent.socket.settimeout(5)
        with socket.create_connection(("127.0.0.1", int(found.group(1))), timeout=5) as sock:
            sock.sendall(b"a llama3:8b\n")
            assert sock.recv(200).startswith(b"down ready #starting")
        assert agent.said() == "READY=1"
        assert agent.end() == 0


def test_a_port_that_is_taken_is_said_in_one_line(start: Any, tmp_path: Path) -> None:
    with fake_ollama("llama3:8b") as ollama:
        ollama.make_resident("llama3:8b")
        agent = start("run", "--config", str(write_host(tmp_path, ollama.url, check_port=ollama.port)))
        assert agent.process.wait(15) == 1
        assert agent.output.read_text().splitlines()[-1] == (f"flexi_host: port {ollama.port}: Address already in use")


def test_the_catalogue_serves_and_ends_at_once(start: Any, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with fake_ollama("llama3:8b") as ollama:
        config = {
            "port": port,
            "instances": [{"group": "a", "url": ollama.url}],
            "models": ["llama3:8b"],
            "aliases": {},
        }
        (tmp_path / "catalogue.json").write_text(json.dumps(config))
        program = start("catalogue", "--config", str(tmp_path / "catalogue.json"))
        assert program.said() == "READY=1"
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/v1/models")
        assert json.loads(connection.getresponse().read())["data"][0]["id"] == "llama3:8b"
        connection.request("GET", "/api/version")
        assert json.loads(connection.getresponse().read()) == {"version": "0.24.0"}
        connection.close()
        assert program.end() == 0
    assert program.output.read_text() == ""


def test_what_the_plan_says_is_what_the_agents_read() -> None:
    hosts = dict(pyinfra_hosts(str(LAB)))
    plan = hosts["server-a"]["flexi_plan"]
    for host in plan.hosts:
        if host.agent is None:
            with pytest.raises(ValueError, match="has no instances"):
                agent_config(host)
            continue
        config = AgentConfig.from_json(json.loads(json.dumps(agent_config(host))))
        assert [instance.group for instance in config.instances] == [i.group for i in host.ollama.instances]
        for instance, planned in zip(config.instances, host.ollama.instances, strict=True):
            assert instance.url == f"http://127.0.0.1:{planned.port}"
            assert str(instance.env_file) == planned.environment_file
            assert str(instance.store) == planned.store
            assert [vars(model) for model in instance.models] == [
                {key: getattr(model, key) for key in ("name", "source", "insecure", "context", "embedding")}
                for model in planned.models
            ]
    catalogue = CatalogueConfig.from_json(json.loads(json.dumps(catalogue_config(plan))))
    assert {source.url for source in catalogue.instances} == {
        f"http://{server.address}:{server.port}" for backend in plan.gateway.backends for server in backend.servers
    }
    assert {model.name for instance in plan.instances for model in instance.models} <= set(catalogue.models)
