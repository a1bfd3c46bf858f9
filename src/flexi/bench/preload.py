"""`flexi bench preload`: from a server's power-on to the first token of each of its models, through the gateway."""

from __future__ import annotations

import http.client
import json
import threading
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from flexi.errors import FlexiError
from flexi.lab.lifecycle import Lab
from flexi.lab.requirements import require_root
from flexi.plan import build_plan
from flexi.plan.model.ollama import ModelOnInstance
from flexi.plan.model.site import Plan
from flexi.site import load_site

ASK_EVERY_S = 0.1
ANSWER_S = 10.0
LIMIT_S = 600.0


@dataclass(frozen=True)
class Start:
    """A server that was switched on. Times are seconds since then."""

    host: str
    boot_s: float
    """Until SSH answers."""
    first_token_s: tuple[tuple[str, str, float], ...]
    """(group, model, time) in the order in which they came."""

    @property
    def first_s(self) -> float:
        return self.first_token_s[0][2]

    @property
    def all_s(self) -> float:
        return self.first_token_s[-1][2]


def measure(name: str, console: Console) -> list[Start]:
    """Cut the power of each GPU server of the lab `name`, one after the other, and switch it on again.

    Models that another server has as well would be answered by that one, and are left out.
    """
    require_root()
    lab = Lab(name)
    environment = lab.env()
    plan = build_plan(load_site(lab.site_file))
    hosts = [(host.name, _own_models(plan, host.name)) for host in plan.hosts if host.ollama]
    return [_start(lab, environment, host, models, console) for host, models in hosts if models]


def _own_models(plan: Plan, host: str) -> list[tuple[str, ModelOnInstance]]:
    return [
        (instance.group, model)
        for instance in plan.instances
        if instance.host == host
        for model in instance.models
        if sum(model.name in {m.name for m in other.models} for other in plan.instances) == 1
    ]


def _start(
    lab: Lab, environment: dict[str, str], host: str, models: list[tuple[str, ModelOnInstance]], console: Console
) -> Start:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    came: list[tuple[str, str, float]] = []
    lock = threading.Lock()
    machine = lab.machine(host)
    machine.kill()
    begin = time.monotonic()
    ending = threading.Event()
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task(f"{host}: first tokens", total=len(models))

        def wait_for(group: str, model: ModelOnInstance) -> None:
            while not ending.is_set():
                if _answers(environment, model):
                    with lock:
                        came.append((group, model.name, time.monotonic() - begin))
                    bars.advance(task)
                    return
                ending.wait(ASK_EVERY_S)

        threads = [threading.Thread(target=wait_for, args=pair, daemon=True) for pair in models]
        try:
            machine.start()
            machine.wait_until_reachable()
            boot_s = time.monotonic() - begin
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(max(0.0, begin + LIMIT_S - time.monotonic()))
        finally:
            ending.set()
    if len(came) < len(models):
        missing = sorted({model.name for _, model in models} - {name for _, name, _ in came})
        raise FlexiError(f"{host}: no token of {', '.join(missing)} within {LIMIT_S:.0f} s")
    return Start(host, boot_s, tuple(came))


def _answers(environment: dict[str, str], model: ModelOnInstance) -> bool:
    """Whether a first token comes now, or, from an embedding model, a vector."""
    parts = urlsplit(environment["FLEXI_API_URL"])
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=ANSWER_S)
    path, body = "/api/generate", {"model": model.name, "prompt": "x", "options": {"num_predict": 1}}
    if model.embedding:
        path, body = "/api/embed", {"model": model.name, "input": "x"}
    headers = {"Authorization": f"Bearer {environment['FLEXI_API_KEY']}", "Content-Type": "application/json"}
    try:
        connection.request("POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        return response.status == 200 and bool(response.readline())
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def as_json(starts: list[Start]) -> list[dict[str, object]]:
    return [
        {
            "host": start.host,
            "boot_s": round(start.boot_s, 1),
            "first_token_s": [
                {
                    "group": group,
                    "model": model,
                    "seconds": round(seconds, 1),
                    "boots": round(seconds / start.boot_s, 1),
                }
                for group, model, seconds in start.first_token_s
            ],
        }
        for start in starts
    ]


def show(starts: list[Start], console: Console) -> None:
    table = Table("host", "since power-on", "seconds", "in boots", "", box=None, padding=(0, 1))
    longest = max(start.all_s for start in starts)
    for start in starts:
        rows = [("SSH answers", start.boot_s), *((f"first token of {m}", s) for _, m, s in start.first_token_s)]
        for what, seconds in rows:
            bar = "█" * max(1, round(30 * seconds / longest))
            table.add_row(start.host, what, f"{seconds:.1f}", f"{seconds / start.boot_s:.1f}", bar)
    console.print(table)
