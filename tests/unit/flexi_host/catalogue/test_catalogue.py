"""The gateway's lists: merged, in Ollama's and OpenAI's shapes, whatever state the instances are in."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.agent_fakes import FOR_EVER, SOON, fake_ollama, until

from flexi_host.catalogue.lists import Collector, Snapshot, look, lowest_version, merged_ps, merged_tags
from flexi_host.catalogue.server import Server, reply
from flexi_host.common.ollama import Ollama, Timeouts


def tag(name: str, modified: str = "2026-01-01T00:00:00Z", **changes: Any) -> dict[str, Any]:
    return {"name": name, "model": name, "modified_at": modified, "size": 1, "digest": "d", "details": {}, **changes}


A = Snapshot(
    True,
    "0.24.0",
    (tag("llama3:8b"), tag("mistral:latest", "2026-03-01T00:00:00.5+01:00"), tag("mirror:5000/library/x:1")),
    (tag("llama3:8b", expires_at=SOON), tag("mistral:latest", expires_at=FOR_EVER)),
)
B = Snapshot(
    True,
    "0.24.0-rc1",
    (tag("llama3:8b", "2026-02-01T00:00:00Z", size=2), tag("phi3:latest")),
    (tag("llama3:8b", expires_at=FOR_EVER, size=2),),
)
MODELS = ["llama3:8b", "Mistral", "phi3"]
ALIASES = {"gpt-4o-mini:latest": "llama3:8b", "gpt-4o-mini": "llama3:8b"}


def names(entries: list[Any]) -> list[str]:
    return [entry["name"] for entry in entries]


def test_each_model_once_newest_first_and_nothing_that_is_not_the_sites() -> None:
    merged = merged_tags([A, B], MODELS)
    assert names(merged) == ["mistral:latest", "llama3:8b", "phi3:latest"]
    assert merged[1]["size"] == 2, "of two copies the newer one is shown"
    assert merged == merged_tags([B, A], MODELS)


def test_models_of_the_same_age_have_a_fixed_order() -> None:
    seen = Snapshot(True, "1", (tag("phi3:latest"), tag("llama3:8b")))
    assert names(merged_tags([seen], MODELS)) == ["llama3:8b", "phi3:latest"]


def test_a_loaded_model_appears_once_the_longest_first() -> None:
    merged = merged_ps([A, B], MODELS)
    assert names(merged) == ["llama3:8b", "mistral:latest"]
    assert merged[0]["expires_at"] == FOR_EVER


def test_the_version_is_what_every_instance_has() -> None:
    assert lowest_version([A, B]) == "0.24.0-rc1"
    assert lowest_version([A, Snapshot(True, "0.9.1"), Snapshot()]) == "0.9.1"
    assert lowest_version([Snapshot()]) is None


def body(path: str, *snapshots: Snapshot) -> tuple[int, Any]:
    answer = reply(path, snapshots or [A, B], MODELS, ALIASES)
    return answer.status, json.loads(answer.body)


def test_openais_list_and_model() -> None:
    status, listed = body("/v1/models")
    assert status == 200
    assert listed["object"] == "list"
    assert listed["data"][1] == {"id": "llama3:8b", "object": "model", "created": 1769904000, "owned_by": "library"}
    assert body("/v1/models/llama3:8b") == (200, listed["data"][1])
    assert body("/v1/models/llama3%3A8b")[1]["id"] == "llama3:8b"
    assert body("/v1/models/mistral") == (
        200,
        {"id": "mistral", "object": "model", "created": 1772319600, "owned_by": "library"},
    )
    assert body("/v1/models/gpt-4") == (
        404,
        {
            "error": {
                "message": "model 'gpt-4' not found; GET /v1/models lists what there is",
                "type": "not_found_error",
                "param": None,
                "code": "model_not_found",
            }
        },
    )
    for name in ("library/llama3:8b", "registry.ollama.ai%2Flibrary/LLAMA3:8b"):
        assert body(f"/v1/models/{name}")[0] == 200
    assert body("/v1/models/mirror:5000/library/x:1")[0] == 404


@pytest.mark.parametrize("alias", ["gpt-4o-mini", "GPT-4o-mini:latest"])
def test_an_alias_is_found_and_not_listed(alias: str) -> None:
    status, found = body(f"/v1/models/{alias}")
    assert (status, found["id"], found["created"]) == (200, alias, 1769904000)
    assert "gpt-4o-mini" not in json.dumps([body("/v1/models"), body("/api/tags")])


def test_lists_of_a_site_without_an_instance_that_answers() -> None:
    assert body("/api/tags", Snapshot()) == (200, {"models": []})
    assert body("/api/ps", Snapshot()) == (200, {"models": []})
    assert body("/v1/models", Snapshot()) == (200, {"object": "list", "data": []})
    assert body("/api/version", Snapshot())[0] == 503


@pytest.mark.parametrize("path", ["/", "/api/show", "/api/tags/", "/v1/models/", "/v1", "//api/tags", "/api/tags%00"])
def test_nothing_else_is_there(path: str) -> None:
    answer = reply(path, [A], MODELS, ALIASES)
    assert (answer.status, answer.kind) == (404, "application/json")
    error = json.loads(answer.body)["error"]
    words = error["message"] if path.startswith("/v1/") else error
    assert "GET /v1/models lists the models" in words


def test_what_a_client_sent_is_repeated_in_part_and_in_letters_that_show() -> None:
    status, answer = body("/v1/models/%1b%00" + 5000 * "a")
    assert status == 404
    assert answer["error"]["message"] == f"model '??{78 * 'a'}…' not found; GET /v1/models lists what there is"


QUICK = Timeouts(answer_s=0.2, store_s=0.2)


def test_an_instance_that_goes_away_keeps_its_store_and_loses_its_memory() -> None:
    with fake_ollama("llama3:8b") as ollama:
        ollama.make_resident("llama3:8b")
        client = Ollama(ollama.url, QUICK)
        there = look(client, Snapshot())
        assert (there.reachable, names(list(there.tags)), names(list(there.ps))) == (True, ["llama3:8b"], ["llama3:8b"])
        ollama.kill()
        gone = look(client, there)
    assert (gone.reachable, gone.tags, gone.ps, gone.version) == (False, there.tags, (), "0.24.0")


@pytest.fixture
def serve() -> Iterator[Callable[[Collector], http.client.HTTPConnection]]:
    ends: list[Callable[[], None]] = []

    def start(collector: Collector) -> http.client.HTTPConnection:
        server = Server(("127.0.0.1", 0), collector, MODELS, ALIASES)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        collector.start()
        connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=5)
        ends.extend([connection.close, server.shutdown, server.server_close, collector.stop])
        return connection

    yield start
    for end in ends:
        end()


def get(connection: http.client.HTTPConnection, path: str, method: str = "GET") -> tuple[int, bytes]:
    connection.request(method, path)
    response = connection.getresponse()
    return response.status, response.read()


def listed(connection: http.client.HTTPConnection, path: str) -> list[str]:
    return names(json.loads(get(connection, path)[1])["models"])


def test_one_dead_and_one_slow_instance_do_not_keep_a_request_waiting(
    serve: Callable[[Collector], http.client.HTTPConnection],
) -> None:
    with fake_ollama("llama3:8b") as good, fake_ollama("phi3:latest") as dead, fake_ollama("mistral:latest") as slow:
        for ollama in (good, dead, slow):
            ollama.make_resident(next(iter(ollama.stored)))
        collector = Collector([Ollama(fake.url, QUICK) for fake in (good, dead, slow)], poll_s=0.02)
        connection = serve(collector)
        until(lambda: len(listed(connection, "/api/tags")) == 3, "all three are listed")
        dead.kill()
        slow.may_answer.clear()
        until(lambda: listed(connection, "/api/ps") == ["llama3:8b"], "only what can be reached is in memory")
        assert listed(connection, "/api/tags") == ["llama3:8b", "mistral:latest", "phi3:latest"]
        slow.may_answer.set()
        dead.start()
        until(lambda: len(listed(connection, "/api/ps")) == 2, "the slow one is back, the dead one with nothing loaded")


def test_a_request_never_waits_for_an_instance(serve: Callable[[Collector], http.client.HTTPConnection]) -> None:
    asked = threading.Event()
    may_end = threading.Event()

    def hang(client: Ollama, before: Snapshot) -> Snapshot:
        asked.set()
        may_end.wait(10)
        return before

    connection = serve(Collector([Ollama("http://127.0.0.1:9")], ask=hang))
    assert asked.wait(5)
    assert listed(connection, "/api/tags") == []
    may_end.set()


def test_one_connection_serves_many_requests_and_head_has_no_body(
    serve: Callable[[Collector], http.client.HTTPConnection],
) -> None:
    connection = serve(Collector([], ask=lambda client, before: before))
    assert get(connection, "/api/tags") == (200, b'{"models":[]}')
    kept = connection.sock
    assert get(connection, "/api/tags", "HEAD") == (200, b"")
    assert get(connection, "/api/tags?x=1") == (200, b'{"models":[]}')
    assert connection.sock is kept
    assert get(connection, "/api/generate", "POST")[0] == 405
    assert get(connection, "/api/tags", "DELETE")[0] == 405
    connection.request("POST", "/api/tags", b'{"a":1}')
    response = connection.getresponse()
    assert (response.status, response.getheader("Connection")) == (405, "close")
