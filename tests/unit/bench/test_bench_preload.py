"""The measurement of a cold start: what counts as a first token, whose models count, and the ratios."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from flexi.bench import preload
from flexi.bench.preload import Start
from flexi.paths import INVENTORY
from flexi.plan import build_plan
from flexi.plan.model.ollama import ModelOnInstance
from flexi.plan.model.site import Plan
from flexi.site import load_site


class Gateway(BaseHTTPRequestHandler):
    """Answers with the status in the model's name, as a stream does: the first line comes, or none does."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status = int(body["model"].split(":")[1])
        right = "/api/embed" if body["model"].startswith("embed") else "/api/generate"
        self.send_response(status if self.path == right and self.headers["Authorization"] == "Bearer key" else 418)
        self.end_headers()
        if not body["model"].startswith("empty"):
            self.wfile.write(b'{"done": true}\n')

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield {"FLEXI_API_URL": f"http://127.0.0.1:{server.server_address[1]}", "FLEXI_API_KEY": "key"}
    server.shutdown()
    server.server_close()


@pytest.fixture
def plan() -> Plan:
    return build_plan(load_site(INVENTORY / "lab.yaml"))


def model(plan: Plan, name: str, embedding: bool = False) -> ModelOnInstance:
    return plan.instances[0].models[0].model_copy(update={"name": name, "embedding": embedding})


@pytest.mark.parametrize(
    ("name", "embedding", "came"),
    [("m:200", False, True), ("m:503", False, False), ("empty:200", False, False), ("embed:200", True, True)],
)
def test_a_first_token_is_a_line_of_an_answer(
    environment: dict[str, str], plan: Plan, name: str, embedding: bool, came: bool
) -> None:
    assert preload._answers(environment, model(plan, name, embedding)) is came


def test_a_gateway_that_is_away_is_no_answer(plan: Plan) -> None:
    away = {"FLEXI_API_URL": "http://127.0.0.1:1", "FLEXI_API_KEY": "key"}
    assert preload._answers(away, model(plan, "m:200")) is False


def test_models_that_another_server_would_answer_for_do_not_count(plan: Plan) -> None:
    server_b = ["command-r-plus:104b", "llava:13b", "llama3:8b"]
    assert [m.name for _, m in preload._own_models(plan, "server-b")] == server_b
    a, b = plan.instances
    shared = b.model_copy(update={"models": (*b.models, a.models[-1])})
    host = plan.host("server-b")
    ollama = host.ollama.model_copy(update={"instances": (shared,)}) if host.ollama else None
    hosts = tuple(host.model_copy(update={"ollama": ollama}) if h.name == "server-b" else h for h in plan.hosts)
    changed = plan.model_copy(update={"hosts": hosts})
    assert [m.name for _, m in preload._own_models(changed, "server-b")] == server_b
    assert a.models[-1].name not in [m.name for _, m in preload._own_models(changed, "server-a")]


def test_times_are_told_in_boots() -> None:
    (told,) = preload.as_json([Start("h", 4.0, (("a", "x:1", 6.0), ("a", "y:1", 10.04)))])
    assert told == {
        "host": "h",
        "boot_s": 4.0,
        "first_token_s": [
            {"group": "a", "model": "x:1", "seconds": 6.0, "boots": 1.5},
            {"group": "a", "model": "y:1", "seconds": 10.0, "boots": 2.5},
        ],
    }
