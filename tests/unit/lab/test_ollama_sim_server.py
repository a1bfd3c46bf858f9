"""The simulated Ollama in situations that need a certain machine: VRAM, GPUs that go away, queues, a full disk."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from flexi.lab.ollama_sim import pull
from flexi.lab.ollama_sim.catalogue import ModelSpec
from flexi.lab.ollama_sim.registry import Faults, Registry, serve
from flexi.lab.ollama_sim.server import OllamaServer
from flexi.lab.ollama_sim.testing import Machine, start_server, uuid

GIB = 2**30
A5000 = ("NVIDIA RTX A5000", 24564)
A40 = ("NVIDIA A40", 46068)


def spec(gib: float, rate: float = 1000.0, **more: object) -> ModelSpec:
    """A model of an architecture whose graph is small, so that sizes are easy to reckon with."""
    values = {
        "architecture": "test",
        "parameters": 8_000_000_000,
        "quantization": "Q4_0",
        "weights_bytes": int(gib * GIB),
        "layers": 32,
        "heads": 32,
        "heads_kv": 8,
        "embedding_length": 4096,
        "context_length": 8192,
        "tokens_per_second": rate,
        "blob_bytes": 256 * 1024,
        **more,
    }
    return ModelSpec(**values)  # type: ignore[arg-type]


MODELS = {
    "small:a": spec(4),
    "small:b": spec(4),
    "small:c": spec(4),
    "middle:a": spec(15),
    "middle:b": spec(15),
    "large:a": spec(60),
    "slow:a": spec(4, rate=2.0),
    "embed:a": spec(0.3, embedding=True),
    "slow-embed:a": spec(0.3, rate=2.0, embedding=True),
}


@pytest.fixture(scope="module")
def models() -> Iterator[Registry]:
    server = serve("127.0.0.1", 0, MODELS)
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _no_faults(models: Registry) -> None:
    models.faults = Faults()


class Client(httpx.Client):
    """A few short cuts."""

    def load(self, model: str, **more: object) -> httpx.Response:
        return self.post("/api/generate", json={"model": model, **more})

    def write(self, model: str, tokens: int, **more: object) -> httpx.Response:
        options = {"num_predict": tokens, **more}
        return self.post("/api/generate", json={"model": model, "prompt": "Hello", "stream": False, "options": options})

    def running(self) -> list[str]:
        return [entry["name"] for entry in self.get("/api/ps").json()["models"]]

    def one(self, model: str) -> dict[str, object]:
        return next(entry for entry in self.get("/api/ps").json()["models"] if entry["name"] == model)


@contextmanager
def running_server(
    root: Path,
    models: Registry,
    cards: list[tuple[str, int]],
    wanted: list[str],
    version: str = "0.24.0",
    driver: str = "535.309.01",
    **env: str,
) -> Iterator[tuple[Client, Machine, OllamaServer]]:
    machine = Machine(root, cards, driver)
    server = start_server(machine, {"OLLAMA_CONTEXT_LENGTH": "4096", "FLEXI_SIM_SPEED": "100", **env}, version)
    try:
        with Client(base_url=server.url, timeout=30) as client:
            for name in wanted:
                source = f"127.0.0.1:{models.port}/library/{name}"
                answer = client.post("/api/pull", json={"model": source, "insecure": True, "stream": False})
                assert answer.json() == {"status": "success"}
                client.post("/api/copy", json={"source": source, "destination": name})
            yield client, machine, server
    finally:
        server.close()


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


# Placement


def test_a_model_goes_on_the_fewest_gpus_that_hold_it(tmp_path: Path, models: Registry) -> None:
    wanted = ["small:a", "large:a"]
    with running_server(tmp_path, models, [A5000] * 8, wanted) as (client, machine, _):
        client.load("small:a")
        assert len(machine.held_mib()) == 1
        entry = client.one("small:a")
        # 4 GiB of weights and 4096 · 32 · 8 · 256 · 2 bytes of cache, and the graph: a sixth of the cache times four.
        cache = 4096 * 32 * 8 * 256 * 2
        assert entry["size"] == entry["size_vram"] == pytest.approx(4 * GIB + cache + 4 * cache // 6, rel=1e-6)
        assert sum(machine.held_mib().values()) == pytest.approx(int(str(entry["size"])) / 2**20, abs=1)
        client.load("large:a")
        assert set(client.running()) == {"small:a", "large:a"}
        assert client.one("large:a")["size"] == client.one("large:a")["size_vram"]
        assert len(machine.held_mib()) == 4  # three for the large one, the emptiest first


def test_what_does_not_fit_is_partly_on_the_cpu_and_slower(tmp_path: Path, models: Registry) -> None:
    with running_server(tmp_path, models, [A5000] * 2, ["large:a"]) as (client, _, _server):
        client.load("large:a")
        entry = client.one("large:a")
        assert 0 < int(str(entry["size_vram"])) < int(str(entry["size"]))


def test_parallel_slots_multiply_the_cache(tmp_path: Path, models: Registry) -> None:
    sizes = []
    for parallel in ("1", "4"):
        root = tmp_path / parallel
        root.mkdir()
        with running_server(root, models, [A40], ["small:a"], OLLAMA_NUM_PARALLEL=parallel) as (client, _, _server):
            client.load("small:a")
            sizes.append(int(str(client.one("small:a")["size"])))
            assert client.one("small:a")["context_length"] == 4096
    cache = 4096 * 32 * 8 * 256 * 2
    assert sizes[1] - sizes[0] == pytest.approx(3 * cache * (1 + 4 / 6), rel=1e-3)


def test_a_context_longer_than_the_model_was_trained_for_is_cut(tmp_path: Path, models: Registry) -> None:
    with running_server(tmp_path, models, [A40], ["small:a"]) as (client, _, _server):
        client.load("small:a", options={"num_ctx": 100_000})
        assert client.one("small:a")["context_length"] == 8192


# Eviction and reload


def test_the_model_with_the_shortest_keep_alive_makes_room(tmp_path: Path, models: Registry) -> None:
    with running_server(tmp_path, models, [A40], ["middle:a", "middle:b", "small:a", "small:b", "small:c"]) as (
        client,
        machine,
        _,
    ):
        client.load("middle:a", keep_alive=-1)
        client.load("middle:b", keep_alive="30m")
        client.load("small:a", keep_alive="1h")
        assert client.running() == ["middle:a", "small:a", "middle:b"]
        # No room for a fourth: middle:b goes, though small:a was used longer ago than nothing.
        client.load("small:b", keep_alive=-1)
        assert set(client.running()) == {"middle:a", "small:a", "small:b"}
        assert sum(machine.held_mib().values()) < 30 * 1024


def test_models_kept_for_ever_go_too_when_nothing_else_is_left(tmp_path: Path, models: Registry) -> None:
    with running_server(tmp_path, models, [A5000], ["middle:a", "middle:b"]) as (client, _, _server):
        client.load("middle:a", keep_alive=-1)
        client.load("middle:b", keep_alive=-1)
        assert client.running() == ["middle:b"]


def test_max_loaded_models(tmp_path: Path, models: Registry) -> None:
    wanted = ["small:a", "small:b", "small:c"]
    with running_server(tmp_path, models, [A40], wanted, OLLAMA_MAX_LOADED_MODELS="2") as (client, _, _server):
        for name in wanted:
            client.load(name)
        assert len(client.running()) == 2
        assert "small:c" in client.running()


def test_three_models_for_each_gpu_by_default(tmp_path: Path, models: Registry) -> None:
    wanted = ["small:a", "small:b", "small:c", "embed:a"]
    with running_server(tmp_path, models, [A40], wanted) as (client, _, _server):
        for name in wanted[:3]:
            client.load(name)
        client.post("/api/embed", json={"model": "embed:a", "input": "x"})
        assert len(client.running()) == 3


def test_other_options_wait_for_the_request_that_is_running(tmp_path: Path, models: Registry) -> None:
    with running_server(tmp_path, models, [A40], ["slow:a"]) as (client, _, server):
        client.load("slow:a")
        finished: list[dict[str, object]] = []

        def write() -> None:
            finished.append(client.write("slow:a", 60).json())

        writing = threading.Thread(target=write)
        writing.start()
        until(lambda: _busy(server) == 1)
        with Client(base_url=server.url, timeout=30) as other:
            loaded = other.load("slow:a", options={"num_ctx": 512}).json()
            assert other.one("slow:a")["context_length"] == 512
        writing.join()
        assert finished[0]["eval_count"] == 60
        assert str(finished[0]["created_at"]) < loaded["created_at"]


def test_a_model_goes_when_its_time_is_up(tmp_path: Path, models: Registry) -> None:
    with running_server(tmp_path, models, [A40], ["small:a"]) as (client, machine, _):
        client.load("small:a", keep_alive=0.5)
        assert client.running() == ["small:a"]
        until(lambda: not client.running())
        assert machine.held_mib() == {}


def test_keep_alive_of_the_environment(tmp_path: Path, models: Registry) -> None:
    with running_server(tmp_path, models, [A40], ["small:a"], OLLAMA_KEEP_ALIVE="-1") as (client, _, _server):
        client.write("small:a", 2)
        assert int(str(client.one("small:a")["expires_at"])[:4]) > 2300


def test_the_openai_api_leaves_keep_alive_alone(tmp_path: Path, models: Registry) -> None:
    with running_server(tmp_path, models, [A40], ["small:a"]) as (client, _, _server):
        client.load("small:a", keep_alive=-1)
        body = {"model": "small:a", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
        client.post("/v1/chat/completions", json=body)
        assert int(str(client.one("small:a")["expires_at"])[:4]) > 2300


# Slots, queue, clients that go away


def _busy(server: OllamaServer) -> int:
    """Requests that are being answered."""
    return server.active_requests


def _ask_for_ever(server: OllamaServer) -> socket.socket:
    """A client that asks slow:a for 100,000 tokens, which take eight minutes, and can go away at any time."""
    body = json.dumps({"model": "slow:a", "prompt": "x", "options": {"num_predict": 100_000}}).encode()
    client = socket.create_connection(("127.0.0.1", server.port))
    client.sendall(b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    return client


def _write_for_ever(server: OllamaServer) -> socket.socket:
    """The same, and its answer has begun."""
    client = _ask_for_ever(server)
    assert client.recv(1)
    return client


def test_a_second_request_waits_for_the_only_slot(tmp_path: Path, models: Registry) -> None:
    with running_server(tmp_path, models, [A40], ["slow:a"]) as (client, _, server):
        client.load("slow:a")
        times: list[float] = []

        def write() -> None:
            with Client(base_url=server.url, timeout=30) as own:
                own.write("slow:a", 40)
                times.append(time.monotonic())

        started = time.monotonic()
        threads = [threading.Thread(target=write) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # 40 tokens at 200 a second each, one after the other.
        assert times[0] - started >= 0.19
        assert times[1] - times[0] >= 0.19


def test_two_slots_share_the_rate(tmp_path: Path, models: Registry) -> None:
    with running_server(tmp_path, models, [A40], ["slow:a"], OLLAMA_NUM_PARALLEL="2") as (client, _, server):
        client.load("slow:a")
        alone = client.write("slow:a", 120).json()["eval_duration"]
        results: list[int] = []

        def write() -> None:
            with Client(base_url=server.url, timeout=30) as own:
                results.append(own.write("slow:a", 120).json()["eval_duration"])

        threads = [threading.Thread(target=write) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # Twice as long each where they overlap; the threads need not start at the same moment.
        assert sum(results) > 2.4 * alone


def test_a_client_that_goes_away_frees_its_slot_at_once(tmp_path: Path, models: Registry) -> None:
    with running_server(tmp_path, models, [A40], ["slow:a"]) as (client, _, server):
        client.load("slow:a")
        raw = _write_for_ever(server)
        assert _busy(server) == 1
        raw.close()
        started = time.monotonic()
        until(lambda: _busy(server) == 0)
        client.write("slow:a", 2)
        # The rest of the answer would have taken eight minutes.
        assert time.monotonic() - started < 20


def test_a_client_that_goes_away_while_it_waits_leaves_the_queue(tmp_path: Path, models: Registry) -> None:
    with running_server(tmp_path, models, [A40], ["slow:a"]) as (client, _, server):
        client.load("slow:a")
        first = _write_for_ever(server)
        second = _ask_for_ever(server)
        until(lambda: _busy(server) == 2)
        second.close()
        until(lambda: _busy(server) == 1)
        first.close()
        until(lambda: _busy(server) == 0)


def test_a_text_that_is_being_embedded_is_read_to_its_end(tmp_path: Path, models: Registry) -> None:
    """runner/llamarunner/runner.go, v0.24.0: `embeddings` looks at its caller only until it has a slot."""
    model = "slow-embed:a"
    with running_server(tmp_path, models, [A40], [model]) as (client, _, server):
        client.post("/api/embed", json={"model": model, "input": ""})
        # 4000 tokens at 2 · 100 · 40 a second.
        body = json.dumps({"model": model, "input": "abcde" * 4000}).encode()
        started = time.monotonic()
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(b"POST /api/embed HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            until(lambda: _busy(server) == 1)
        until(lambda: _busy(server) == 0)
        client.post("/api/embed", json={"model": model, "input": "x"})
        assert time.monotonic() - started >= 0.5


def test_too_many_requests_for_models_that_are_not_loaded_get_503(tmp_path: Path, models: Registry) -> None:
    wanted = ["slow:a", "small:b"]
    with running_server(tmp_path, models, [A40], wanted, OLLAMA_MAX_QUEUE="1", OLLAMA_MAX_LOADED_MODELS="1") as (
        client,
        _,
        server,
    ):
        client.load("slow:a")
        # It writes until it is told to stop: nothing here depends on how fast this machine is.
        writing = _write_for_ever(server)
        answers: list[int] = []

        def ask() -> None:
            with Client(base_url=server.url, timeout=30) as own:
                answers.append(own.write("small:b", 1).status_code)

        threads = []
        # The first makes room (and waits for slow:a), the second fills the queue, the third is one too many.
        for number in range(2):
            threads.append(threading.Thread(target=ask))
            threads[-1].start()
            until(lambda number=number: server.pending_requests == number + 1)  # type: ignore[misc]
        refused = client.write("small:b", 1)
        assert refused.status_code == 503
        assert refused.json() == {"error": "server busy, please try again.  maximum pending requests exceeded"}
        writing.close()
        for thread in threads:
            thread.join()
        assert answers == [200, 200]


# GPUs that are not there


def test_discovery_is_logged(tmp_path: Path, models: Registry, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with running_server(tmp_path, models, [A5000] * 2, [], CUDA_VISIBLE_DEVICES=uuid(1)):
        text = caplog.text
    assert text.count('msg="inference compute"') == 1
    assert f"id={uuid(1)}" in text
    assert 'description="NVIDIA RTX A5000"' in text
    assert "library=CUDA" in text
    assert "OLLAMA_CONTEXT_LENGTH:4096" in text
    assert f"CUDA_VISIBLE_DEVICES:{uuid(1)}" in text


@pytest.mark.parametrize("visible", ["-1", "", "GPU-typo"])
def test_without_gpus_it_is_slow_and_says_so_only_in_one_line(
    tmp_path: Path, models: Registry, caplog: pytest.LogCaptureFixture, visible: str
) -> None:
    caplog.set_level(logging.INFO)
    with running_server(tmp_path, models, [A40], ["small:a"], CUDA_VISIBLE_DEVICES=visible) as (client, machine, _):
        assert "id=cpu library=cpu" in caplog.text
        assert "level=WARN" not in caplog.text
        client.load("small:a")
        assert client.one("small:a")["size_vram"] == 0
        assert machine.held_mib() == {}
        answer = client.write("small:a", 100).json()
        # 1000 tokens a second, 100 times faster, a twentieth of that.
        assert answer["eval_duration"] >= 100 / (1000 * 100 / 20) * 1e9


def test_a_library_that_no_longer_matches_hits_the_next_load_only(tmp_path: Path, models: Registry) -> None:
    with running_server(tmp_path, models, [A40], ["small:a", "small:b"]) as (client, machine, _):
        client.load("small:a")
        machine.upgrade_library("580.159.03")
        assert client.write("small:a", 3).status_code == 200
        assert int(str(client.one("small:a")["size_vram"])) > 0
        client.load("small:b")
        assert client.one("small:b")["size_vram"] == 0


def test_a_gpu_off_the_bus_takes_its_runner_with_it(tmp_path: Path, models: Registry) -> None:
    with running_server(tmp_path, models, [A40], ["small:a"]) as (client, machine, _):
        client.load("small:a", keep_alive=-1)
        machine.fail(lost=[uuid(0)])
        broken = client.write("small:a", 3)
        assert broken.status_code == 500
        assert "CUDA error" in broken.json()["error"]
        # The next request loads it again, where it can.
        assert client.write("small:a", 3).status_code == 200
        assert client.one("small:a")["size_vram"] == 0


def test_memory_that_others_hold_is_not_used(tmp_path: Path, models: Registry) -> None:
    with running_server(tmp_path, models, [A40], ["middle:a"]) as (client, machine, _):
        machine.fail(foreign_mib={uuid(0): 36_000})
        client.load("middle:a")
        assert int(str(client.one("middle:a")["size_vram"])) < int(str(client.one("middle:a")["size"]))


@pytest.mark.parametrize(
    ("version", "driver", "on_gpu"),
    [("0.24.0", "535.309.01", True), ("0.30.11", "535.309.01", False), ("0.30.11", "580.159.03", True)],
)
def test_newer_versions_need_a_newer_driver(
    tmp_path: Path,
    models: Registry,
    caplog: pytest.LogCaptureFixture,
    version: str,
    driver: str,
    on_gpu: bool,
) -> None:
    caplog.set_level(logging.INFO)
    machine = Machine(tmp_path, [A40], driver)
    server = start_server(machine, version=version)
    server.close()
    assert ('msg="NVIDIA driver too old"' in caplog.text) is not on_gpu
    assert ("library=CUDA" in caplog.text) is on_gpu
    # discover/cuda_compat.go at v0.32.15; the CPU's line in discover/types.go.
    too_old = 'device="NVIDIA A40" compute=8.6 driver=535 required_driver="550 or newer"'
    assert (too_old in caplog.text) is not on_gpu
    assert ('msg="inference compute" id=cpu library=cpu compute=""' in caplog.text) is not on_gpu


# From 0.30 on


NEW = {"version": "0.32.15", "driver": "580.173.02"}


def test_on_an_old_driver_a_new_version_serves_from_the_cpu_without_an_error(tmp_path: Path, models: Registry) -> None:
    with running_server(tmp_path, models, [A40], ["small:a"], version="0.32.15") as (client, machine, _):
        assert client.load("small:a").status_code == 200
        assert client.one("small:a")["size_vram"] == 0
        assert client.write("small:a", 3).status_code == 200
        assert machine.held_mib() == {}


def test_a_new_version_takes_one_gpu_up_to_four_fifths_and_then_all(tmp_path: Path, models: Registry) -> None:
    wanted = ["middle:a", "large:a"]
    with running_server(tmp_path, models, [A5000] * 4, wanted, **NEW) as (client, machine, _):
        client.load("middle:a")
        assert len(machine.held_mib()) == 1
        client.load("middle:a", keep_alive=0)
        client.load("large:a")
        # 60 GiB: 0.24.0 would take three cards.
        assert len(machine.held_mib()) == 4
        assert client.one("large:a")["size"] == client.one("large:a")["size_vram"]


@pytest.mark.parametrize(("version", "together"), [("0.24.0", True), ("0.32.15", False)])
def test_a_new_version_evicts_what_would_leave_no_headroom(
    tmp_path: Path, models: Registry, version: str, together: bool
) -> None:
    """15 GiB of weights and half a GiB of cache, where 18.7 GiB are free: there is room, but less than a fifth more."""
    wanted = ["small:a", "middle:a"]
    with running_server(tmp_path, models, [A5000], wanted, version, "580.173.02") as (client, _, __):
        for name in wanted:
            client.load(name)
        assert set(client.running()) == (set(wanted) if together else {"middle:a"})


@pytest.mark.parametrize(
    ("version", "options", "reloads"),
    [
        ("0.24.0", {"num_ctx": 999_999}, True),
        ("0.32.15", {"num_ctx": 999_999}, False),  # both are the model's own 8192 by then
        ("0.24.0", {"main_gpu": 0}, False),
        ("0.32.15", {"main_gpu": 0}, True),
        ("0.24.0", {"draft_num_predict": 2}, False),
        ("0.32.15", {"draft_num_predict": 2}, True),
        ("0.32.15", {"num_ctx": 2048}, True),
    ],
)
def test_what_makes_a_version_load_again(
    tmp_path: Path,
    models: Registry,
    version: str,
    options: dict[str, int],
    reloads: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """needsReload, at v0.24.0 and v0.32.15."""
    caplog.set_level(logging.INFO)
    large = {"OLLAMA_CONTEXT_LENGTH": "8192"}
    with running_server(tmp_path, models, [A40], ["small:a"], version=version, driver="580.173.02", **large) as (
        client,
        _,
        __,
    ):
        client.load("small:a")
        client.load("small:a", options=options)
    assert caplog.text.count('msg="loading model"') == (2 if reloads else 1)


def test_another_way_to_end_loads_a_new_version_again(
    tmp_path: Path, models: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with running_server(tmp_path, models, [A40], ["small:a"], **NEW) as (client, _, __):
        client.load("small:a")
        client.load("small:a", shift=False)
    assert caplog.text.count('msg="loading model"') == 2


# Pulls that go wrong


def _pull(client: Client, models: Registry, name: str) -> list[dict[str, object]]:
    source = f"127.0.0.1:{models.port}/library/{name}"
    answer = client.post("/api/pull", json={"model": source, "insecure": True})
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_cut_connection_is_taken_up_where_it_broke(tmp_path: Path, models: Registry) -> None:
    models.faults = Faults(cut_after_bytes=100_000, cut_times=2)
    with running_server(tmp_path, models, [A40], []) as (client, _, _server):
        assert _pull(client, models, "small:a")[-1] == {"status": "success"}


def test_a_connection_that_is_always_cut_fails_in_the_stream(tmp_path: Path, models: Registry) -> None:
    models.faults = Faults(cut_after_bytes=0)
    with running_server(tmp_path, models, [A40], [], FLEXI_SIM_SPEED="1000") as (client, machine, _):
        last = _pull(client, models, "small:a")[-1]
        assert last == {"error": "max retries exceeded: unexpected EOF"}
        blobs = machine.root / "home/.ollama/models/blobs"
        assert [path.name for path in blobs.iterdir() if path.name.endswith("-partial")]
        models.faults = Faults()
        assert _pull(client, models, "small:a")[-1] == {"status": "success"}
        assert not [path.name for path in blobs.iterdir() if "partial" in path.name]


def test_a_full_disk_fails_in_the_stream_and_keeps_the_partial_file(
    tmp_path: Path, models: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with running_server(tmp_path, models, [A40], []) as (client, machine, _):
        with monkeypatch.context() as patched:
            patched.setattr(pull.os, "pwrite", full)
            last = _pull(client, models, "small:a")[-1]
        assert str(last["error"]).endswith("no space left on device")
        blobs = machine.root / "home/.ollama/models/blobs"
        assert [path.name for path in blobs.iterdir() if path.name.endswith("-partial")]
        assert client.get("/api/tags").json() == {"models": []}
        assert _pull(client, models, "small:a")[-1] == {"status": "success"}


def test_a_pull_goes_on_where_a_client_left_it(tmp_path: Path, models: Registry) -> None:
    models.faults = Faults(bytes_per_second=200_000)
    source = f"127.0.0.1:{models.port}/library/small:a"
    with running_server(tmp_path, models, [A40], []) as (client, machine, server):
        body = {"model": source, "insecure": True}
        with client.stream("POST", "/api/pull", json=body) as answer:
            for line in answer.iter_lines():
                if json.loads(line).get("completed", 0) > 50_000:
                    break
        until(lambda: _busy(server) == 0)
        note = next((machine.root / "home/.ollama/models/blobs").glob("*-partial-0"))
        until(lambda: json.loads(note.read_text())["Completed"] > 50_000)
        models.faults = Faults(bytes_per_second=200_000)
        first = next(line for line in _pull(client, models, "small:a") if line.get("completed"))
        assert int(str(first["completed"])) > 50_000


def test_faults_are_switched_over_http(models: Registry) -> None:
    with httpx.Client(base_url=models.url) as client:
        assert client.post("/_control/faults", json={"missing": ["small:a"]}).status_code == 200
        assert client.get("/v2/library/small/manifests/a").status_code == 404
        assert client.get("/v2/library/small/manifests/b").status_code == 200
        refused = client.post("/_control/faults", json={"colour": 1})
        assert refused.status_code == 400
        assert "unknown fault 'colour'" in refused.text
        client.post("/_control/faults", json={})
        assert client.get("/v2/library/small/manifests/a").status_code == 200


# What models say


def test_answers_repeat_question_and_context(tmp_path: Path, models: Registry) -> None:
    with running_server(tmp_path, models, [A40], ["small:a"]) as (client, _, _server):
        content = "Use this: <context>The exam is on 12 March.</context> When is the exam?"
        body = {"model": "small:a", "messages": [{"role": "user", "content": content}], "stream": False}
        said = client.post("/api/chat", json=body).json()["message"]["content"]
        assert "The exam is on 12 March." in said
        assert "When is the exam?" in said


def test_a_prompt_that_is_too_long(tmp_path: Path, models: Registry) -> None:
    with running_server(tmp_path, models, [A40], ["small:a"]) as (client, _, _server):
        body = {"model": "small:a", "prompt": "word " * 9000, "stream": False, "options": {"num_predict": 1}}
        assert client.post("/api/generate", json=body).json()["prompt_eval_count"] == 4096
        refused = client.post("/api/generate", json={**body, "truncate": False})
        assert (refused.status_code, refused.json()) == (400, {"error": "the input length exceeds the context length"})


def test_tools(tmp_path: Path) -> None:
    registry = serve("127.0.0.1", 0, {"tools:a": spec(4, tools=True), "plain:a": spec(4)})
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool = {"type": "function", "function": {"name": "weather", "parameters": parameters}}
    body = {"messages": [{"role": "user", "content": "Ask weather for Hagen"}], "tools": [tool], "stream": False}
    with running_server(tmp_path, registry, [A40], ["tools:a", "plain:a"]) as (client, _, _server):
        message = client.post("/api/chat", json={"model": "tools:a", **body}).json()["message"]
        assert message["tool_calls"][0]["function"]["name"] == "weather"
        assert "Hagen" in message["tool_calls"][0]["function"]["arguments"]["city"]
        choice = client.post("/v1/chat/completions", json={"model": "tools:a", **body}).json()["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        assert "Hagen" in json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"])["city"]
        refused = client.post("/api/chat", json={"model": "plain:a", **body})
        text = "registry.ollama.ai/library/plain:a does not support tools"
        assert (refused.status_code, refused.json()) == (400, {"error": text})
    registry.close()
