"""The health checks against hosts that answer what a test says: each must go red on its own fault."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from flexi.paths import INVENTORY, ROOT
from flexi.plan import build_plan
from flexi.plan.model.site import Plan
from flexi.site import load_site
from flexi.ssh import remote

Skipped = pytest.skip.Exception


@dataclass(frozen=True)
class Result:
    stdout: str = ""
    rc: int = 0
    stderr: str = ""


class FakeHost:
    """Answers the first command that contains one of the given words; to anything else it fails."""

    def __init__(self, answers: Mapping[str, Result | str]) -> None:
        self._answers = answers

    def run(self, command: str) -> Result:
        for words, answer in self._answers.items():
            if words in command:
                return answer if isinstance(answer, Result) else Result(answer)
        return Result(rc=1, stderr="no such thing")


class FakeHosts(dict[str, FakeHost]):
    def trouble(self, _: str) -> str:
        return ""


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> Callable[[str], Any]:
    """`checks("test_hosts")` is that module of tests/health."""
    for marker in ("hosts(role)", "two_gateways"):
        pytestconfig.addinivalue_line("markers", f"{marker}: as in tests/health/conftest.py")
    monkeypatch.syspath_prepend(ROOT / "tests/health")
    return importlib.import_module


@pytest.fixture(scope="module")
def lab() -> Plan:
    return build_plan(load_site(INVENTORY / "lab.yaml"))


def show(*units: tuple[str, str, str]) -> str:
    """What `systemctl show -p Id,ActiveState,UnitFileState` prints."""
    return "\n\n".join(f"Id={name}\nActiveState={active}\nUnitFileState={boot}" for name, active, boot in units) + "\n"


def test_a_unit_that_is_not_installed_is_named(checks: Callable[[str], Any], lab: Plan) -> None:
    hosts = checks("test_hosts")
    gateway = lab.host("gateway")
    fine = [(name, "active", "enabled") for name in hosts.units(gateway)]
    hosts.test_units(gateway, FakeHost({"systemctl show": show(*fine)}))
    missing = [
        ("haproxy.service", "inactive", "") if name == "haproxy.service" else (name, a, b) for name, a, b in fine
    ]
    with pytest.raises(AssertionError, match=r"^haproxy\.service is inactive, not installed"):
        hosts.test_units(gateway, FakeHost({"systemctl show": show(*missing)}))
    with pytest.raises(AssertionError, match=r"haproxy\.service is unknown"):
        hosts.test_units(gateway, FakeHost({}))


def test_a_unit_that_does_not_come_back_is_named(checks: Callable[[str], Any], lab: Plan) -> None:
    hosts = checks("test_hosts")
    gateway = lab.host("gateway")
    states = [(name, "active", "disabled" if "haproxy" in name else "static") for name in hosts.units(gateway)]
    with pytest.raises(AssertionError, match=r"^haproxy\.service is active, disabled"):
        hosts.test_units(gateway, FakeHost({"systemctl show": show(*states)}))


@pytest.mark.parametrize("daemon", ["systemd-timesyncd", "chrony", "chronyd", "ntpsec", "ntp", "openntpd"])
def test_any_time_daemon_will_do(checks: Callable[[str], Any], daemon: str) -> None:
    hosts = checks("test_hosts")
    off = ("systemd-timesyncd.service", "inactive", "")
    hosts.test_time_daemon(FakeHost({f" {daemon}.service": show(off, (f"{daemon}.service", "active", "enabled"))}))
    with pytest.raises(AssertionError, match="none of"):
        hosts.test_time_daemon(FakeHost({f" {daemon}.service": show(off, (f"{daemon}.service", "active", "disabled"))}))


def listing(*rows: str, fields: str = "index,uuid,name,memory.total", status: int = 0) -> str:
    """What `the_cards` of truth/smi.sh prints."""
    return "".join(
        f"{line}\n" for line in (f"smi_fields={fields}", f"smi_status={status}", *(f"smi={r}" for r in rows))
    )


def test_persistence_mode_is_wanted_on_every_gpu(checks: Callable[[str], Any]) -> None:
    gpus = checks("test_gpus")

    def modes(*modes: str, status: int = 0) -> FakeHost:
        rows = [f"{index}, GPU-{index}, {mode}" for index, mode in enumerate(modes)]
        return FakeHost({"persistence_mode": listing(*rows, fields="index,uuid,persistence_mode", status=status)})

    gpus.test_persistence(modes("Enabled", "Enabled"))
    gpus.test_persistence(modes("Enabled", "Enabled", status=14))
    with pytest.raises(AssertionError, match="off on GPU 1, 2:"):
        gpus.test_persistence(modes("Enabled", "Disabled", "Disabled"))
    with pytest.raises(AssertionError, match="nvidia-smi fails"):
        gpus.test_persistence(modes(status=9))
    with pytest.raises(AssertionError, match="not installed"):
        gpus.test_persistence(FakeHost({}))


def test_a_warning_fails_no_check_of_the_gpus(checks: Callable[[str], Any], lab: Plan) -> None:
    gpus, plan = checks("test_gpus"), lab.host("server-b")
    rows = [f"{index}, GPU-{index}, NVIDIA A40, 46068" for index in range(2)]
    warning = "WARNING: infoROM is corrupted at gpu 0000:01:00.0"
    version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.309.01  Thu\n"
    target = FakeHost({"cat /proc": version, "the_cards": listing(*rows, warning, status=14), "grep": "X=GPU-0,GPU-1"})
    gpus.test_driver(plan, target)
    gpus.test_gpu_count(plan, target)
    gpus.test_gpu_model(plan, target)
    gpus.test_group_gpus(lab.instances[-1], FakeHosts({"server-b": target}))


def test_a_gpu_that_requires_a_reset_and_another_gpu_fail(checks: Callable[[str], Any], lab: Plan) -> None:
    gpus, plan = checks("test_gpus"), lab.host("server-b")
    rows = ["0, GPU-0, NVIDIA A40, 46068", "1, GPU-1, NVIDIA A40, [GPU requires reset]"]
    target = FakeHost({"the_cards": listing(*rows), "grep": "X=GPU-0,GPU-1"})
    for check in (
        lambda: gpus.test_gpu_count(plan, target),
        lambda: gpus.test_group_gpus(lab.instances[-1], FakeHosts({"server-b": target})),
    ):
        with pytest.raises(AssertionError, match=r"GPU 1 \(GPU-1\) is not usable: GPU requires reset"):
            check()
    other = FakeHost({"the_cards": listing(rows[0], "1, GPU-1, NVIDIA H200, 143771")})
    with pytest.raises(AssertionError, match=r"GPU 1 \(GPU-1\) is a NVIDIA H200 .*site file says A40.*lab.yaml:\d+"):
        gpus.test_gpu_model(plan, other)


def test_every_instance_runs_the_planned_version(checks: Callable[[str], Any], lab: Plan) -> None:
    models = checks("test_models")
    instance = lab.instances[0]
    ollama = lab.host(instance.host).ollama
    assert ollama is not None

    def hosts(version: str) -> FakeHosts:
        return FakeHosts({instance.host: FakeHost({f":{instance.port}/api/version": json.dumps({"version": version})})})

    models.test_version(instance, lab, hosts(ollama.version))
    with pytest.raises(AssertionError, match=r"Ollama 0\.3\.9 runs"):
        models.test_version(instance, lab, hosts("0.3.9"))


CHAIN = """table inet flexi {
  chain input {
    type filter hook input priority filter; policy drop;
    iif "lo" accept
    tcp dport 22 accept comment "SSH"
    ip saddr { 10.87.0.10 } tcp dport 11434 accept comment "Ollama"
    RULE
  }
}
"""


def closed(lab: Plan, rule: str = "", reachable_from: str = "") -> FakeHosts:
    """Hosts of the lab; port 11434 of server-a answers the gateway and `reachable_from`."""
    curl = {"curl": Result(), "nft": CHAIN.replace("RULE", rule)}
    shut = {"curl": Result(rc=28), "nft": CHAIN.replace("RULE", rule)}
    open_to = (lab.gateway.host, reachable_from)
    return FakeHosts({host.name: FakeHost(curl if host.name in open_to else shut) for host in lab.hosts})


@pytest.fixture
def behind_a_jump_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "direct_address", lambda _: None)


@pytest.mark.usefixtures("behind_a_jump_host")
def test_an_instance_that_others_can_reach(checks: Callable[[str], Any], lab: Plan) -> None:
    models = checks("test_models")
    models.test_closed(lab.instances[0], lab, closed(lab))
    with pytest.raises(AssertionError, match="open from server-b"):
        models.test_closed(lab.instances[0], lab, closed(lab, reachable_from="server-b"))


@pytest.mark.usefixtures("behind_a_jump_host")
@pytest.mark.parametrize(
    "rule", ["tcp dport 11434 accept", "tcp dport { 80, 11434 } accept", 'tcp dport 11434 counter accept comment "x"']
)
def test_a_firewall_rule_without_a_source(checks: Callable[[str], Any], lab: Plan, rule: str) -> None:
    with pytest.raises(AssertionError, match="to everyone"):
        checks("test_models").test_closed(lab.instances[0], lab, closed(lab, rule))


@pytest.mark.usefixtures("behind_a_jump_host")
def test_with_nobody_to_try_it_a_port_is_not_called_closed(checks: Callable[[str], Any], lab: Plan) -> None:
    alone = lab.model_copy(update={"hosts": tuple(host for host in lab.hosts if host.name != "server-b")})
    with pytest.raises(Skipped, match="nobody to try it from"):
        checks("test_models").test_closed(lab.instances[0], alone, closed(alone))


def test_the_log_of_the_start_is_evidence_or_there_is_none(checks: Callable[[str], Any], lab: Plan) -> None:
    models = checks("test_models")
    instance = lab.instances[0]

    def hosts(*libraries: str) -> FakeHosts:
        lines = [f'msg="inference compute" id=0 library={library} compute=8.6' for library in libraries]
        return FakeHosts({instance.host: FakeHost({"journalctl": "\n".join(lines)})})

    models.test_no_cpu_fallback(instance, hosts(*["CUDA"] * len(instance.gpus)))
    with pytest.raises(Skipped, match="journal"):
        models.test_no_cpu_fallback(instance, hosts())
    with pytest.raises(AssertionError, match="computes on cpu"):
        models.test_no_cpu_fallback(instance, hosts("cpu"))
    with pytest.raises(AssertionError, match="found 1 of"):
        models.test_no_cpu_fallback(instance, hosts("CUDA"))


@pytest.mark.parametrize(("share", "fine"), [(0.05, False), (0.1, False), (0.2, True), (5.0, True)])
def test_the_rate_tells_a_cpu_from_a_gpu(checks: Callable[[str], Any], lab: Plan, share: float, fine: bool) -> None:
    gateway = checks("test_gateway")
    backend = next(backend for backend in lab.gateway.backends if backend.model == "llama3:8b")
    rate = 82.0 * share
    answer = json.dumps({"eval_count": 8, "eval_duration": round(8 / rate * 1e9)})
    hosts = FakeHosts({lab.gateway.host: FakeHost({"/api/generate": f"{answer}\n200"})})
    route = checks("subjects").Route(lab.gateway.host, backend)
    if fine:
        gateway.test_tokens_flow(route, lab, hosts)
    else:
        with pytest.raises(AssertionError, match="look for the CPU"):
            gateway.test_tokens_flow(route, lab, hosts)


def test_the_chats_secrets_stay_on_its_host(checks: Callable[[str], Any], lab: Plan) -> None:
    """The command that reads the chat's environment, run on a process that has a secret beside its settings."""
    here = lab.host("gateway").chat
    assert here is not None
    said: list[str] = []
    environment = {**dict(here.environment), "PATH": os.environ["PATH"], "WEBUI_SECRET_KEY": "canary"}

    class Chat:
        def file(self, path: str) -> SimpleNamespace:
            return SimpleNamespace(linked_to=f"/opt/flexi/chat/{here.release}")

        def check_output(self, command: str) -> str:
            with subprocess.Popen(["sleep", "60"], env=environment) as process:
                found = "$(systemctl show -p MainPID --value flexi-chat.service)"
                assert found in command
                done = subprocess.run(
                    ["sh", "-c", command.replace(found, str(process.pid))],
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                process.kill()
            said.append(done.stdout)
            return done.stdout

    checks("test_chat").test_release("chat", lab, {"gateway": Chat()})
    assert "canary" not in said[0]
    environment["WEBUI_NAME"] = "another"
    with pytest.raises(AssertionError, match="other settings than the site's: WEBUI_NAME"):
        checks("test_chat").test_release("chat", lab, {"gateway": Chat()})
