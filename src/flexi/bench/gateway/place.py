"""The lab that the bench measures in: its site, and the servers that stand in for its instances."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flexi.errors import FlexiError
from flexi.keys.store import KeysStore
from flexi.lab import network
from flexi.lab.lifecycle import Lab
from flexi.paths import ROOT
from flexi.plan.model.ollama import InstancePlan
from flexi.plan.model.site import Plan
from flexi.site import load_site

CONSUMERS = 3
"""Each may have as many requests at once as a class allows at most."""
LISTS = ("/api/version", "/api/ps", "/api/tags")
PARALLEL = 64
_SMALL = "llama3:8b, mistral:7b, phi3:3.8b"


def site_text() -> str:
    """A site of the lab's machines with one card a group, and places for 2,048 streams."""
    groups = "\n".join(_group(f"a{card}", card, _SMALL) for card in range(8))
    return f"""\
site: {{name: bench}}
ssh: {{user: admin, config: ../ssh_config}}
mirrors:
  ollama: http://10.87.0.2/ollama
  models: http://10.87.0.2:5000
hosts:
  server-a:
    address: 10.87.0.11
    gpus: {{model: RTX A5000, count: 8}}
    groups:
{groups}
  server-b:
    address: 10.87.0.12
    gpus: {{model: A40, count: 2}}
    groups:
{_group("b0", 0, f"{_SMALL}, qwen3:8b")}
{_group("b1", 1, f"{_SMALL}, qwen3:8b")}
  gateway:
    address: 10.87.0.10
gateway:
  host: gateway
  name: flexi.bench.test
  classes: {{default: {{at_once: 1000}}}}
"""


def _group(name: str, card: int, models: str) -> str:
    settings = f"parallel: {PARALLEL}, context: 256, kv_cache: q8_0"
    return f"      {name}: {{gpus: [{card}], {settings}, models: [{models}]}}"


def write_site(lab: Lab) -> tuple[Path, list[str]]:
    """The site file in the lab's directory, with its inventory, and its consumers' keys."""
    path = lab.directory / "inventory" / "bench.yaml"
    path.write_text(site_text(), encoding="utf-8")
    path.with_suffix(".py").write_bytes((ROOT / "inventory" / "lab.py").read_bytes())
    path.with_suffix(".keys.json").unlink(missing_ok=True)
    with KeysStore(load_site(path)) as store:
        return path, [store.add(f"bench{number}") for number in range(CONSUMERS)]


def inside(lab: Lab, machine: str, command: Sequence[str]) -> list[str]:
    """A command of this computer in a machine's network."""
    return [*network.inside(lab.naming.namespace(machine)), *command]


_ASK = """
import http.client, json, sys
found = []
for address, port in json.load(sys.stdin):
    lists = {}
    for path in sys.argv[1:]:
        connection = http.client.HTTPConnection(address, port, timeout=10)
        connection.request("GET", path, headers={"Host": "localhost"})
        lists[path] = json.load(connection.getresponse())
        connection.close()
    found.append({"address": address, "port": port, "lists": lists})
json.dump(found, sys.stdout)
"""


def addresses(plan: Plan) -> list[tuple[InstancePlan, str]]:
    """Every instance with the address of its host."""
    return [(instance, plan.host(instance.host).ssh.address) for instance in plan.instances]


def stand_in(lab: Lab, plan: Plan) -> list[subprocess.Popen[str]]:
    """Stop the instances, and put servers in their places that say the same lists; returns these, which run.

    FlexiError where an instance gives no lists: it is not up.
    """
    wanted = [(address, instance.port) for instance, address in addresses(plan)]
    asking = inside(lab, plan.gateway.host, [sys.executable, "-c", _ASK, *LISTS])
    asked = subprocess.run(asking, input=json.dumps(wanted), capture_output=True, text=True, check=False)
    if asked.returncode:
        raise FlexiError(f"the instances do not answer: {asked.stderr.strip().splitlines()[-1]}")
    said: list[dict[str, Any]] = json.loads(asked.stdout)
    started = []
    for host in dict.fromkeys(instance.host for instance in plan.instances):
        units = [instance.unit for instance in plan.instances if instance.host == host]
        stopped = lab.machine(host).run(f"sudo systemctl stop {' '.join(units)}")
        if stopped.status:
            raise FlexiError(f"{host}: {stopped.stderr.strip()}")
        places = lab.directory / f"bench-{host}.json"
        here = [place for place in said if place["address"] == plan.host(host).ssh.address]
        places.write_text(json.dumps(here), encoding="utf-8")
        # On a site instances have computers of their own: what keeps this one busy must not make them late.
        command = ["nice", "-n", "-10", sys.executable, "-m", "flexi.bench.gateway.instance", str(places)]
        server = subprocess.Popen(inside(lab, host, command), cwd=ROOT, stdout=subprocess.PIPE, text=True)
        started.append(server)
        assert server.stdout is not None
        if not server.stdout.readline():
            raise FlexiError(f"the stand-in for the instances of {host} does not start: see above")
    return started
