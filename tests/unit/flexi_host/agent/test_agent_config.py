"""The agent's configuration: from the plan and back, and every mistake in it named."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import flexi_host
from flexi_host.agent.config import AgentConfig
from flexi_host.catalogue.config import CatalogueConfig
from flexi_host.common.fields import ConfigError
from flexi_host.common.names import full_name, namespace
from flexi_host.common.timestamps import is_for_ever, parse_time, unix_seconds

MODEL = {"name": "llama3:8b", "source": "llama3:8b", "insecure": False, "context": 8192, "embedding": False}
GOOD: dict[str, Any] = {
    "host": "server-a",
    "check_port": 11433,
    "interval_s": 15,
    "instances": [
        {
            "group": "a",
            "url": "http://127.0.0.1:11434",
            "env_file": "/etc/ollama/a.env",
            "store": "/var/lib/ollama/a/models",
            "models": [MODEL],
        },
    ],
}


def test_a_good_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "agent.json"
    path.write_text(json.dumps(GOOD))
    config = AgentConfig.load(path)
    assert (config.host, config.check_port, config.state_dir) == ("server-a", 11433, Path("/run/flexi-agent"))
    assert config.instances[0].models[0].name == "llama3:8b"


def changed(path: str, value: Any) -> dict[str, Any]:
    """GOOD with `value` at a dotted `path`."""
    copy: dict[str, Any] = json.loads(json.dumps(GOOD))
    place: Any = copy
    *parents, last = path.split(".")
    for key in parents:
        place = place[int(key)] if key.isdigit() else place[key]
    place[int(last) if last.isdigit() else last] = value
    return copy


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (changed("host", ""), 'agent.host: expected a text that is not empty, found ""'),
        (changed("check_port", "11433"), 'agent.check_port: expected a whole number from 0 to 65535, found "11433"'),
        (changed("check_port", True), "agent.check_port: expected a whole number"),
        (changed("interval_s", 600), "agent.interval_s: expected a whole number from 1 to 60, found 600"),
        (changed("instances", {}), "agent.instances: expected a list, found {}"),
        (changed("instances.0.url", "127.0.0.1"), "agent.instances[0].url: expected a URL that starts with http://"),
        (changed("instances.0.group", "a b"), "agent.instances[0].group: 'a b' holds blanks"),
        (changed("instances.0.group", "../x"), "holds blanks, slashes"),
        (changed("instances.0.models.0", 7), "agent.instances[0].models[0]: expected an object, found 7"),
        (changed("instances.0.models.0.context", 0), "models[0].context: expected a whole number"),
        (changed("instances.0.models.0.embeding", True), "models[0].embeding: unknown key"),
        (changed("instances.0.models", [MODEL, MODEL]), "name 'llama3:8b' appears twice"),
        (changed("instances", GOOD["instances"] * 2), "group 'a' appears twice"),
        ({key: value for key, value in GOOD.items() if key != "host"}, "agent.host: missing"),
    ],
)
def test_a_mistake_is_named_with_its_field_and_value(value: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AgentConfig.from_json(value)
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "\xff\xfe"])
@pytest.mark.parametrize("program", ["run", "catalogue", "guard"])
def test_a_broken_file_ends_with_one_line_and_status_2(tmp_path: Path, text: str, program: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="latin-1")
    ended = start(program, "--config", str(path))
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"flexi_host: {path}: ")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("config", [AgentConfig, CatalogueConfig])
def test_a_mistake_is_named_with_its_file(tmp_path: Path, config: type[AgentConfig] | type[CatalogueConfig]) -> None:
    path = tmp_path / "config.json"
    path.write_text("{}")
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).count(str(path)) == 1
    assert str(caught.value).endswith(": missing")


def test_a_missing_file_ends_with_one_line_and_status_2(tmp_path: Path) -> None:
    ended = start("run", "--config", str(tmp_path / "none.json"))
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "No such file" in ended.stderr


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flexi_host", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)


def test_the_catalogues_mistakes_are_named_too() -> None:
    instances = [{"group": "a", "url": "http://10.0.0.1:11434"}]
    good = {"port": 11432, "instances": instances, "models": ["m"], "aliases": {"x": "m"}}
    assert CatalogueConfig.from_json(good).instances[0].url == "http://10.0.0.1:11434"
    with pytest.raises(ConfigError, match=r"catalogue\.aliases\.x: expected a text"):
        CatalogueConfig.from_json({**good, "aliases": {"x": None}})
    with pytest.raises(ConfigError, match=r"catalogue\.aliases: expected an object"):
        CatalogueConfig.from_json({**good, "aliases": ["x"]})
    with pytest.raises(ConfigError, match=r"catalogue\.models\[0\]: expected a text"):
        CatalogueConfig.from_json({**good, "models": [7]})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:10Z", 10),
        ("1970-01-01T02:00:10.999999999+02:00", 10),
        ("1970-01-01T00:00:10.5-00:00", 10),
        ("0001-01-01T00:00:00Z", -62135596800),
        ("2318-12-06T10:11:12.123456789Z", 11011111872),
        ("yesterday", 0),
        ("2026-13-01T00:00:00Z", 0),
        (None, 0),
    ],
)
def test_gos_time_stamps(text: object, seconds: int) -> None:
    assert unix_seconds(text) == seconds


def test_for_ever_is_after_2100_and_what_cannot_be_read_is_left_alone() -> None:
    assert is_for_ever("2318-12-06T10:11:12.123456789+02:00")
    assert not is_for_ever("2026-12-06T10:11:12Z")
    assert not is_for_ever("0001-01-01T00:00:00Z")
    assert is_for_ever("?")
    assert parse_time("2026-12-06T10:11:12.123456789Z") is not None


def test_names() -> None:
    assert full_name("Mistral") == "mistral:latest"
    # types/model/name.go: registry.ollama.ai and library are what a name leaves out; one part before it is a namespace.
    assert full_name("library/Mistral") == full_name("registry.ollama.ai/Library/mistral:latest") == "mistral:latest"
    assert full_name("registry.ollama.ai/me/mistral") == "me/mistral:latest"
    assert full_name("registry.ollama.ai/mistral") == "registry.ollama.ai/mistral:latest"
    assert full_name("other.org/library/mistral:1") == "other.org/library/mistral:1"
    assert full_name("10.0.0.1:5000/library/llama3") == "10.0.0.1:5000/library/llama3:latest"
    assert (namespace("llama3:8b"), namespace("hub.example/me/llama3:8b"), namespace("me/x")) == ("library", "me", "me")


ON_HOSTS = {*sys.stdlib_module_names, "flexi_host"}


def test_the_package_runs_on_a_bare_python_3_10() -> None:
    for path in sorted(Path(flexi_host.__file__).parent.rglob("*.py")):
        tree = ast.parse(path.read_text(), path.name, feature_version=(3, 10))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                assert (node.module or "").split(".")[0] in ON_HOSTS, f"{path.name}: {node.module}"
            elif isinstance(node, ast.Import):
                for name in node.names:
                    assert name.name.split(".")[0] in ON_HOSTS, f"{path.name}: {name.name}"
