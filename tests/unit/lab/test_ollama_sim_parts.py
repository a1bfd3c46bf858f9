"""The pure parts of the simulated Ollama, and its command and archive."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexi.lab.ollama_sim import archive, gguf, goformat, llama_server, names, text
from flexi.lab.ollama_sim.devices import Device
from flexi.lab.ollama_sim.environment import read_environment
from flexi.lab.ollama_sim.estimate import Demand
from flexi.lab.ollama_sim.options import parse_options
from flexi.lab.ollama_sim.placement import NeedsEvictionError, TooLargeError, place
from flexi.lab.ollama_sim.testing import Machine

GIB = 2**30


@pytest.mark.parametrize(
    ("given_", "seconds"), [("5m", 300), ("1h30m", 5400), ("-1m", -60), ("1.5s", 1.5), ("0", 0), ("100ms", 0.1)]
)
def test_durations(given_: str, seconds: float) -> None:
    assert goformat.parse_duration(given_) == int(seconds * goformat.SECOND)


@given(st.integers(min_value=0, max_value=2**60))
def test_durations_come_back(nanoseconds: int) -> None:
    whole = nanoseconds // 10**6 * 10**6
    assert goformat.parse_duration(goformat.format_duration(whole)) == whole


@given(st.integers(min_value=0, max_value=2**63))
def test_times_come_back(nanoseconds: int) -> None:
    assert goformat.parse_rfc3339(goformat.rfc3339(nanoseconds)) == nanoseconds
    assert goformat.parse_rfc3339(goformat.rfc3339(nanoseconds, utc=True)) == nanoseconds


def test_sizes_as_people_see_them() -> None:
    assert goformat.human_bytes(4_661_211_808) == "4.7 GB"
    assert goformat.human_bytes(79_509_278_720) == "79 GB"
    assert goformat.human_bytes2(25_757_220_864) == "24.0 GiB"
    assert goformat.human_number(8_030_261_248) == "8.0B"
    assert goformat.human_number(136_727_040) == "136.73M"


@pytest.mark.parametrize(
    ("given_", "shortest"),
    [
        ("llama3", "llama3:latest"),
        ("llama3:8b", "llama3:8b"),
        ("me/llama3:8b", "me/llama3:8b"),
        ("registry.ollama.ai/library/llama3:8b", "llama3:8b"),
        ("10.87.0.2:5000/library/llama3:8b", "10.87.0.2:5000/library/llama3:8b"),
        ("http://10.87.0.2:5000/library/llama3:8b", "10.87.0.2:5000/library/llama3:8b"),
    ],
)
def test_names(given_: str, shortest: str) -> None:
    name = names.parse_name(given_)
    assert name.is_valid()
    assert name.shortest() == shortest


def test_names_on_disk() -> None:
    assert str(names.parse_name("llama3:8b").path()) == "registry.ollama.ai/library/llama3/8b"


def test_gguf_comes_back() -> None:
    values: dict[str, gguf.Value] = {"a": "text", "b": 5, "c": 2**40, "d": 0.5, "e": True}
    assert gguf.read(io.BytesIO(gguf.header(values))) == values
    with pytest.raises(gguf.GgufError):
        gguf.read(io.BytesIO(b"no model"))
    with pytest.raises(gguf.GgufError):
        gguf.read(io.BytesIO(gguf.header(values)[:-3]))


@given(st.text())
def test_tokens_joined_give_the_text(given_: str) -> None:
    assert "".join(text.tokens(given_)) == given_


def test_texts_that_share_words_are_near_each_other() -> None:
    exam, also, cake = (
        text.embedding(words, 768)
        for words in ("the exam is in march", "when is the exam in march", "butter flour and sugar for cake")
    )
    near = sum(a * b for a, b in zip(exam, also, strict=True))
    far = sum(a * b for a, b in zip(exam, cake, strict=True))
    assert near > 0.5 > abs(far)


# Prompts as Open WebUI 0.12.4 writes them (config.py, DEFAULT_RAG_TEMPLATE and the like), shortened.
RETRIEVAL = """### Task:
Respond using the context, with citations [id] **only when the <source> tag includes an id** (e.g., <source id="1">).

### Output:
Include citations only when the <source> tag with id attribute is present in the context.

<context>
{sources}
</context>
{question}"""
QUERIES = """### Task:
Respond in the format: {{ "queries": ["query1", "query2"] }}, or {{ "queries": [] }}.
### Output:
Strictly return in JSON format: 
{{
  "queries": ["query1", "query2"]
}}

### Chat History:
<chat_history>
USER: Worum geht es?
ASSISTANT: Um Geologie.
USER: {question}
</chat_history>
"""
TITLE = """JSON format: {{ "title": "your concise title here" }}
### Examples:
- {{ "title": "Stock Trends" }},
### Chat History:
<chat_history>
USER: {question}
ASSISTANT: You asked phi3: "x".
</chat_history>"""


def _said(prompt: str) -> str:
    return text.answer("phi3:3.8b", [{"role": "user", "content": prompt}])


def test_an_answer_from_retrieved_sources_repeats_them_with_their_numbers() -> None:
    sources = '<source id="1" name="a.md">It is on 12 March.</source>\n<source id="2" name="b.md">Bring ink.</source>'
    said = _said(RETRIEVAL.format(sources=sources, question="When is the exam?"))
    assert said.startswith('You asked phi3:3.8b: "When is the exam?".')
    assert "According to the context: It is on 12 March. [1] Bring ink. [2]\n" in said
    assert "### Task" not in said
    assert "only when" not in said


def test_of_long_sources_the_sentences_that_were_asked_for_are_repeated() -> None:
    filler = " ".join(f"Sentence number {number} tells of nothing." for number in range(300))
    sources = (
        f'<source id="1">{filler}</source>\n<source id="2">{filler} The exam begins on 1. March. {filler}</source>'
    )
    said = _said(RETRIEVAL.format(sources=sources, question="When does the exam begin?"))
    assert "The exam begins on 1. March. [2]" in said
    assert len(said) < 4000


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        (QUERIES, {"queries": ["Wann ist die Klausur in Geologie?"]}),
        (TITLE, {"title": "Wann ist die Klausur"}),
        ('JSON format: {{ "text": "<your_completion>" }}\nUSER: {question}', {"text": "Wann ist die Klausur"}),
    ],
)
def test_what_is_asked_for_in_json_is_nothing_but_json(prompt: str, wanted: object) -> None:
    assert json.loads(_said(prompt.format(question="Wann ist die Klausur in Geologie?"))) == wanted


def test_what_only_looks_like_a_wanted_object_is_a_question_as_any_other() -> None:
    assert _said("Which JSON format: {no object} do you know?").startswith("You asked")


def test_structured_answers_follow_references() -> None:
    schema = {
        "type": "object",
        "properties": {"who": {"$ref": "#/$defs/person"}, "kind": {"enum": ["b", "a"]}, "list": {"type": "array"}},
        "$defs": {"person": {"type": "object", "properties": {"age": {"type": "integer", "minimum": 18}}}},
    }
    assert json.loads(text.structured(schema, "x")) == {"who": {"age": 18}, "kind": "b", "list": ["x"]}


def device(number: int, free: float) -> Device:
    return Device(f"GPU-{number}", "A5000", number, "", "8.6", 24 * GIB, int(free * GIB))


def layout(weights: float, free: list[float], **more: object) -> dict[str, float]:
    wanted = Demand(tuple([int(weights * GIB / 40)] * 40), 0, 0)
    options = {
        "require_full": False,
        "requested_layers": -1,
        "spread": False,
        "overhead": 0,
        "memory_free": 256 * GIB,
        **more,
    }
    placed = place(wanted, [device(i, f) for i, f in enumerate(free)], **options)  # type: ignore[arg-type]
    result = {uuid: round(size / GIB, 1) for uuid, size in placed.by_gpu.items()}
    if placed.cpu:
        result["cpu"] = round(placed.cpu / GIB, 1)
    return result


def test_placement_packs() -> None:
    assert layout(10, [20, 24, 22]) == {"GPU-1": 10.0}  # the emptiest
    assert layout(40, [24, 24, 24]) == {"GPU-0": 20.0, "GPU-1": 20.0}  # evenly over as few as hold it
    assert layout(10, [20, 20], spread=True) == {"GPU-0": 5.0, "GPU-1": 5.0}
    assert layout(10, []) == {"cpu": 10.0}
    assert layout(10, [24], requested_layers=20) == {"GPU-0": 5.0, "cpu": 5.0}


def test_placement_beside_other_models_is_whole_or_not_at_all() -> None:
    with pytest.raises(NeedsEvictionError):
        layout(30, [24], require_full=True)
    assert "cpu" in layout(30, [24], require_full=False)
    with pytest.raises(TooLargeError):
        layout(30, [24], memory_free=GIB)


# From 0.30 on: server/sched.go at v0.32.15


def chosen(predicted: float, free: list[float], spread: bool = False, **options: object) -> list[str]:
    devices = [device(number, gib) for number, gib in enumerate(free)]
    wanted = parse_options(4096, options, llama_server=True)
    return [d.uuid for d in llama_server.select(devices, int(predicted * GIB), wanted, spread)]


def test_llama_server_gets_one_gpu_with_headroom_or_all() -> None:
    """bestSingleGPUFit: no more than 80 % of what is free, and of those the emptiest; else the whole group."""
    assert chosen(16, [20, 24, 22]) == ["GPU-1"]
    assert chosen(19.2, [24, 24]) == ["GPU-0"]
    assert chosen(19.3, [24, 24]) == ["GPU-0", "GPU-1"]
    assert chosen(1, [24, 24], spread=True) == ["GPU-0", "GPU-1"]
    assert chosen(30, [20, 24, 22], main_gpu=2) == ["GPU-2"]
    assert chosen(1, [24, 24], main_gpu=5) == ["GPU-0", "GPU-1"]
    assert chosen(30, [24]) == ["GPU-0"]


def test_llama_server_fills_in_proportion_and_leaves_a_margin() -> None:
    """A GiB on each card stays free (llama.cpp, --fit-target)."""

    def laid_out(weights: float, free: list[float], layers: int = -1) -> dict[str, float]:
        wanted = Demand(tuple([int(weights * GIB / 40)] * 40), 0, 0)
        devices = [device(number, gib) for number, gib in enumerate(free)]
        placed = llama_server.fit(wanted, devices, layers, 256 * GIB)
        return {**{uuid: round(size / GIB, 1) for uuid, size in placed.by_gpu.items()}, "cpu": placed.cpu // GIB}

    assert laid_out(20, [21, 21]) == {"GPU-0": 10.0, "GPU-1": 10.0, "cpu": 0}
    assert laid_out(15, [21, 11]) == {"GPU-0": 10.1, "GPU-1": 4.9, "cpu": 0}
    assert laid_out(40, [21, 11])["cpu"] == 10
    assert laid_out(10, [21], layers=20) == {"GPU-0": 5.0, "cpu": 5}
    assert laid_out(10, []) == {"cpu": 10}
    with pytest.raises(TooLargeError):
        llama_server.fit(Demand((GIB, GIB), 0, 0), [], -1, GIB)


@pytest.mark.parametrize(
    ("context", "predicted", "free", "batch"),
    [(4096, 5, 24, 512), (8192, 5, 24, 1024), (65536, 5, 24, 2048), (65536, 16, 24, 1024), (65536, 18.9, 24, 512)],
)
def test_the_batch_follows_the_context_and_the_room(context: int, predicted: float, free: float, batch: int) -> None:
    """automaticGenerationBatch: 2048 above 32768 tokens if the prediction is below 60 % of what is free, 1024 above
    4096 if below 75 %."""
    assert llama_server.batch_size(context, int(predicted * GIB), [device(0, free)], flash=True) == batch
    assert llama_server.batch_size(context, int(predicted * GIB), [device(0, free)], flash=False) == 512


def test_the_server_config_line_of_each_version() -> None:
    """envconfig/config.go AsMap at v0.24.0 and v0.32.15."""
    old, new = (set(read_environment({"HOME": "/h"}, version).values) for version in ("0.24.0", "0.32.15"))
    assert old - new == {"OLLAMA_MULTIUSER_CACHE", "OLLAMA_NEW_ENGINE"}
    assert new - old == {"LLAMA_ARG_FIT", "LLAMA_ARG_FIT_TARGET", "OLLAMA_GO_TEMPLATE", "OLLAMA_IGPU_ENABLE"}
    values = read_environment({"HOME": "/h"}, "0.32.15").values
    assert values["OLLAMA_VULKAN"] == values["OLLAMA_GO_TEMPLATE"] == "true"
    assert list(values) == sorted(values)


def test_the_environment() -> None:
    variables = {
        "HOME": "/h",
        "OLLAMA_HOST": "0.0.0.0:11436",
        "OLLAMA_KEEP_ALIVE": "-1",
        "OLLAMA_NUM_PARALLEL": '"4"',
        "OLLAMA_MAX_QUEUE": "many",
        "OLLAMA_MODELS": "/m",
    }
    found = read_environment(variables)
    assert (found.host, found.port, found.url) == ("0.0.0.0", 11436, "http://127.0.0.1:11436")
    assert found.keep_alive == goformat.FOREVER
    assert found.num_parallel == 4
    assert found.max_queue == 512
    assert found.models == Path("/m")
    assert read_environment({"HOME": "/h"}).models == Path("/h/.ollama/models")
    assert read_environment({"OLLAMA_HOST": ":1234"}).port == 1234
    assert read_environment({"OLLAMA_HOST": "http://example.org"}).port == 80
    assert read_environment({"OLLAMA_HOST": "127.0.0.1:port"}).port == 11434


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command as it is in the archive."""
    directory = tmp_path_factory.mktemp("archive")
    packed = archive.build_archive(directory)
    raw = subprocess.run(["zstd", "-dc", packed], stdout=subprocess.PIPE, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        assert "lib/ollama/cuda_v12/libggml-cuda.so" in tar.getnames()
        tar.extract("bin/ollama", directory, filter="tar")
    return directory / "bin/ollama"


def test_the_archive_is_reproducible_and_its_checksum_right(tmp_path: Path) -> None:
    first = archive.build_archive(tmp_path / "a").read_bytes()
    assert archive.build_archive(tmp_path / "b").read_bytes() == first
    newer = archive.build_archive(tmp_path / "c", "0.32.15")
    assert newer.read_bytes() != first
    raw = subprocess.run(["zstd", "-dc", newer], stdout=subprocess.PIPE, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        assert "lib/ollama/llama-server" in tar.getnames()
    digest, name = (tmp_path / "a" / archive.CHECKSUMS).read_text().split()
    assert (digest, name) == (hashlib.sha256(first).hexdigest(), "./ollama-linux-amd64.tar.zst")


def test_the_command(binary: Path, tmp_path: Path) -> None:
    machine = Machine(tmp_path, [("NVIDIA A40", 46068)])
    (tmp_path / "home").mkdir()
    port = _free_port()
    with httpx.Client() as client:
        environment = {
            "HOME": str(tmp_path / "home"),
            "OLLAMA_HOST": f"127.0.0.1:{port}",
            "FLEXI_SIM_ROOT": str(machine.root),
            "PATH": os.environ["PATH"],
        }

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, str(binary), *arguments]
            return subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)

        assert run("--version").stdout == (
            "Warning: could not connect to a running Ollama instance\nWarning: client version is 0.24.0\n"
        )
        refused = run("list")
        assert refused.returncode == 1
        assert refused.stderr == "Error: could not connect to ollama server, run 'ollama serve' to start it\n"
        with subprocess.Popen(
            [sys.executable, str(binary), "serve"], env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE
        ) as server:
            try:
                deadline = time.monotonic() + 10
                while not _answers(client, port):
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
                assert run("-v").stdout == "ollama version is 0.24.0\n"
                assert run("list").stdout.split() == ["NAME", "ID", "SIZE", "MODIFIED"]
                assert run("ps").stdout.split() == ["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"]
                assert run("show", "nope").stderr == "Error: 404 Not Found: model 'nope' not found\n"
                assert run("nonsense").returncode == 1
                assert (tmp_path / "home/.ollama/id_ed25519").exists()
                twice = run("serve")
                assert twice.returncode == 1
                assert twice.stderr.endswith(f"listen tcp 127.0.0.1:{port}: bind: address already in use\n")
            finally:
                server.terminate()
            _, log = server.communicate(timeout=10)
        assert server.returncode == 0
        assert b'msg="inference compute" id=GPU-00000000' in log


def _answers(client: httpx.Client, port: int) -> bool:
    try:
        return client.get(f"http://127.0.0.1:{port}/").text == "Ollama is running"
    except httpx.TransportError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
