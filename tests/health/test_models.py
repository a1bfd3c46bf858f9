"""Models: where they should be, wholly on their GPUs, for ever, and closed to everyone but the gateway."""

from __future__ import annotations

import json
import re
import socket

import pytest
from subjects import Hosts, Resident

from flexi.plan.model.ollama import InstancePlan
from flexi.plan.model.site import Plan
from flexi.ssh import remote

FOR_EVER_YEAR = 2100
"""keep_alive -1 makes Ollama show a time 292 years ahead; any year beyond this one means for ever."""


def test_resident(resident: Resident, hosts: Hosts) -> None:
    """{resident} is loaded, wholly on its GPUs, and stays"""
    instance, model = resident.instance, resident.model
    answer = hosts[instance.host].run(f"curl -fsS -m 10 http://127.0.0.1:{instance.port}/api/ps")
    assert answer.rc == 0, f"{instance.unit} does not answer: {answer.stderr.strip()}{why(hosts, instance)}"
    loaded = {entry["name"].lower(): entry for entry in json.loads(answer.stdout)["models"] or []}
    assert model.name.lower() in loaded, f"not loaded{why(hosts, instance, model.name)}"
    entry = loaded[model.name.lower()]
    on_gpu = entry["size_vram"] / entry["size"]
    assert on_gpu == 1, f"{1 - on_gpu:.0%} of it is on the CPU{why(hosts, instance, model.name)}"
    year = int(entry["expires_at"][:4])
    assert year > FOR_EVER_YEAR, f"will be unloaded at {entry['expires_at']}"
    assert entry["context_length"] == model.context, (
        f"loaded with a context of {entry['context_length']} tokens, the plan says {model.context}"
    )


def test_agent(instance: InstancePlan, hosts: Hosts) -> None:
    """group {instance} is ready by the agent's word"""
    target = hosts[instance.host]
    status = target.run("cat /run/flexi-agent/status.json")
    assert status.rc == 0, "the agent has written no status: systemctl status flexi-agent"
    for entry in json.loads(status.stdout)["instances"]:
        if entry["group"] == instance.group:
            assert entry["phase"] == "ready", f"{entry['phase']}: {entry['reason']}"
            return
    pytest.fail("the agent does not know this group: deploy again", pytrace=False)


def test_version(instance: InstancePlan, plan: Plan, hosts: Hosts) -> None:
    """group {instance} runs the planned Ollama"""
    ollama = plan.host(instance.host).ollama
    assert ollama is not None
    answer = hosts[instance.host].run(f"curl -fsS -m 10 http://127.0.0.1:{instance.port}/api/version")
    assert answer.rc == 0, f"{instance.unit} does not answer: {answer.stderr.strip()}"
    version = json.loads(answer.stdout)["version"]
    assert version == ollama.version, f"Ollama {version} runs, the site wants {ollama.version}: deploy again"


def test_closed(instance: InstancePlan, plan: Plan, hosts: Hosts) -> None:
    """group {instance} cannot be reached past the gateway"""
    host = plan.host(instance.host)
    answer = hosts[plan.gateway.host].run(connect(host.ssh.address, instance.port))
    assert answer.rc == 0, f"the gateway cannot reach {host.ssh.address}:{instance.port}"
    chain = hosts[instance.host].run("nft list chain inet flexi input").stdout
    rules = open_rules(chain, instance.port)
    assert not rules, f"the firewall opens port {instance.port} to everyone: {'; '.join(rules)}"
    open_from, asked = [], []
    address = remote.direct_address(host.ssh)
    if address:
        asked.append("this machine")
        if is_open(address, instance.port):
            open_from.append("this machine")
    for other in plan.hosts:
        if other.name in (instance.host, *plan.gateway.hosts) or hosts.trouble(other.name):
            continue
        asked.append(other.name)
        if hosts[other.name].run(connect(host.ssh.address, instance.port)).rc == 0:
            open_from.append(other.name)
    assert not open_from, f"port {instance.port} is open from {', '.join(open_from)}: it must be for the gateway alone"
    if not asked:
        pytest.skip("nobody to try it from: no third host, and SSH goes through a jump host; the firewall's rules fit")


def open_rules(chain: str, port: int) -> list[str]:
    """Rules of an nftables chain that accept TCP to `port` from everyone."""
    rules = [line.strip() for line in chain.splitlines() if "accept" in line and "saddr" not in line]
    return [rule for rule in rules if re.search(rf"tcp dport (\{{[^}}]*\b)?{port}\b", rule)]


def is_open(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return False
    return True


def connect(address: str, port: int) -> str:
    return f"curl -s -o /dev/null -m 3 http://{address}:{port}/"


def why(hosts: Hosts, instance: InstancePlan, model: str | None = None) -> str:
    """The agent's reason, for the person who reads the failed check."""
    status = hosts[instance.host].run("cat /run/flexi-agent/status.json")
    if status.rc != 0:
        return ""
    for entry in json.loads(status.stdout)["instances"]:
        if entry["group"] != instance.group:
            continue
        for known in entry["models"]:
            if model and known["name"] == model and known.get("reason"):
                return f" ({known['phase']}: {known['reason']})"
        if entry.get("reason"):
            return f" ({entry['phase']}: {entry['reason']})"
    return ""


def test_no_cpu_fallback(instance: InstancePlan, hosts: Hosts) -> None:
    """group {instance} found its GPUs when it started"""
    log = (
        hosts[instance.host]
        .run(
            f"journalctl -u {instance.unit} _SYSTEMD_INVOCATION_ID="
            f"$(systemctl show -p InvocationID --value {instance.unit}) -o cat --no-pager -g 'inference compute'"
        )
        .stdout
    )
    found = re.findall(r"library=(\w+)", log)
    if not found:
        pytest.skip("its journal no longer reaches back to its start; that its models are on GPUs is checked for each")
    wrong = [library for library in found if library.upper() != "CUDA"]
    assert not wrong, f"{instance.unit} computes on {', '.join(wrong)}; restart it once its GPUs are visible"
    assert len(found) == len(instance.gpus), f"{instance.unit} found {len(found)} of {len(instance.gpus)} GPUs"
