"""The measurement of the gateway: what counts as a whole answer, what the figures mean, and what it installs."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from xml.etree import ElementTree

import pytest

from flexi.bench.gateway import client, instance, place, rivals, show
from flexi.bench.gateway.client import Job, Place, Result, Target
from flexi.bench.gateway.measure import DIRECT, OPEN, OURS, Figures, Percentiles, Run, Streams
from flexi.bench.gateway.wire import Messages, asked, question
from flexi.errors import FlexiError
from flexi.paths import ROOT
from flexi.plan import build_plan
from flexi.site import load_site

# -- HTTP -----------------------------------------------------------------------------------------------------------


def read(pieces: list[bytes]) -> tuple[list[str], list[bytes]]:
    """Start lines and whole bodies of what the pieces hold."""
    starts: list[str] = []
    bodies: list[bytes] = []
    body: list[bytes] = []

    def end() -> None:
        bodies.append(b"".join(body))
        body.clear()

    messages = Messages(lambda start, _: starts.append(start), body.append, end)
    for piece in pieces:
        messages.feed(piece)
    messages.ended()
    return starts, bodies


SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
CLOSED = b"HTTP/1.1 200 OK\r\n\r\nhello"
EMPTY = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("stream", [SIZED, CHUNKED, SIZED + CHUNKED + SIZED, CHUNKED + CLOSED, EMPTY + SIZED])
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_messages_are_the_same_however_they_are_cut(stream: bytes, size: int) -> None:
    starts, bodies = read([stream[at : at + size] for at in range(0, len(stream), size)])
    assert len(starts) == len(bodies) == stream.count(b"HTTP/1.1")
    assert [body for start, body in zip(starts, bodies, strict=True) if start.startswith("HTTP")] == [
        b"hello"
    ] * stream.count(b"HTTP/1.1 200")


def test_a_chunk_without_a_size_is_no_http() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        read([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello\r\n"])


def test_a_question_is_read_back() -> None:
    assert asked(question(250, 2.5)) == (250, 2.5)
    with pytest.raises(ValueError, match="not a question"):
        asked("Why is the sky blue?")


# -- client and instance, over loopback ----------------------------------------------------------------------------

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]


@contextmanager
def listening(start: Callable[[], asyncio.Future[asyncio.Server]]) -> Iterator[int]:
    """A server in a loop of its own; its port."""
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    ports: list[int] = []

    async def serve() -> None:
        server = await start()
        ports.append(server.sockets[0].getsockname()[1])
        ready.set()

    def run() -> None:
        loop.run_until_complete(serve())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10)
    yield ports[0]
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


@pytest.fixture
def port() -> Iterator[int]:
    def start() -> object:
        loop = asyncio.get_running_loop()
        return loop.create_server(lambda: instance.Instance({"/api/ps": {"models": []}}), "127.0.0.1", 0)

    with listening(start) as found:  # type: ignore[arg-type]
        yield found


def target(port: int, path: str = rivals.OPENAI) -> Target:
    return Target("x", path, (Place("127.0.0.1", port, "llama3:8b"),))


def done(job: Job) -> Result:
    """A job as it travels to the client's process."""
    job = Job.parsed(job.text())
    (result,) = asyncio.run(
        {"serial": client.serial, "streams": client.streams, "requests": client.requests}[job.kind](job)
    )
    return result


@pytest.mark.parametrize("path", [rivals.OPENAI, rivals.CHAT])
def test_every_token_of_a_stream_is_counted_with_its_delay(port: int, path: str) -> None:
    result = done(Job("streams", (target(port, path),), count=20, tokens=5, pace=200))
    assert (result.asked, result.whole, result.wrong) == (20, 20, {})
    assert result.tokens == len(result.delays_us) == 100
    assert len(result.first_us) == 20
    # Four pauses of 5 ms lie between the first and the last token.
    assert result.seconds >= 0.02
    assert result.longest_gap_us > 0
    assert all(0 <= delay < 2e6 for delay in result.delays_us)


def test_requests_in_turn_keep_their_connection(port: int) -> None:
    result = done(Job("serial", (target(port),), rounds=2, count=3))
    assert (result.asked, result.whole) == (6, 6)


def test_small_answers_are_counted_for_a_time(port: int) -> None:
    result = done(Job("requests", (target(port),), count=2, seconds=0.2))
    assert result.whole == result.asked > 5
    assert 0.2 <= result.seconds < 5


@asynccontextmanager
async def closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    yield
    writer.close()


def answering(data: bytes) -> Callable[[], object]:
    """A server that answers every request with these bytes, and closes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        async with closing(writer):
            writer.write(data)
            await writer.drain()

    return lambda: asyncio.start_server(handle, "127.0.0.1", 0)


ONE_TOKEN = b'HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\ndata: "@123456789012 "\n\n\n'


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"HTTP/1.1 429 Too Many\r\nContent-Length: 4\r\n\r\nslow", "status 429: slow"),
        (ONE_TOKEN, "broken off after 1 of 2 tokens"),
        (ONE_TOKEN[:-5], "connection lost (closed)"),
        (b"", "connection lost (closed)"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", "not HTTP: "),
    ],
)
def test_what_is_not_whole_is_named(data: bytes, words: str) -> None:
    with listening(answering(data)) as port:  # type: ignore[arg-type]
        result = done(Job("streams", (target(port),), count=1, tokens=2, pace=100))
    assert result.whole == 0
    assert [found[: len(words)] for found in result.wrong] == [words]


def test_a_closed_port_is_an_error_of_the_stream() -> None:
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        result = done(Job("streams", (target(nobody_listens.getsockname()[1]),), count=1))
    assert result.whole == 0
    assert sum(result.wrong.values()) == 1


# -- the site ---------------------------------------------------------------------------------------------------------


def test_the_site_has_a_place_for_every_stream(tmp_path: Path) -> None:
    (tmp_path / "inventory").mkdir()
    (tmp_path / "ssh_config").touch()
    path = tmp_path / "inventory" / "bench.yaml"
    path.write_text(place.site_text())
    plan = build_plan(load_site(path))
    slots = sum(server.max_connections for backend in plan.gateway.backends for server in backend.servers)
    assert slots >= OPEN
    # More than the streams: lists, checks, and whoever comes beside them.
    assert plan.gateway.max_connections > OPEN


# -- rivals -----------------------------------------------------------------------------------------------------------

LOCKS = sorted(Path(rivals.__file__).parent.glob("*.lock"))


def test_rivals_are_pinned_by_hash_and_name_no_address() -> None:
    assert {path.name for path in LOCKS} == {"litellm.lock", "open-webui.lock"}
    for path in LOCKS:
        for line in path.read_text().splitlines():
            assert re.fullmatch(r"[a-z0-9-]+==\S+( --hash=sha256:[0-9a-f]{64})+", line), f"{path}: {line}"


def test_no_release_of_litellm_that_was_tampered_with() -> None:
    """1.82.7 and 1.82.8 stole credentials (24 March 2026); 1.107.0 is on a list of compromised packages."""
    version = rivals.locked("litellm.lock", "litellm")
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert version not in ("1.82.7", "1.82.8", "1.107.0")


def test_what_cannot_be_built_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rivals, "HOME", tmp_path / "bench")

    def fails(path: Path) -> None:
        (path / "half").touch()
        raise FlexiError("no network")

    with pytest.raises(FlexiError, match="no network"):
        rivals.entry("nginx", "1", fails)
    built = rivals.entry("nginx", "1", lambda path: (path / "whole").touch())
    assert [path.name for path in built.iterdir()] == ["whole"]
    newer = rivals.entry("nginx", "2", lambda path: (path / "newer").touch())
    assert sorted(path.name for path in newer.parent.iterdir()) == [newer.name]


# -- figures ----------------------------------------------------------------------------------------------------------


def streams(tokens_per_s: float, **changes: object) -> Streams:
    plain = Streams(200, 200, tokens_per_s, Percentiles(1, 2), None, None, {})
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def figures(name: str, first: float, tokens_per_s: float, reload: Streams | None = None) -> Figures:
    load = streams(tokens_per_s, cpu_ms_per_1000_tokens=None if name == DIRECT else first * 10)
    many = streams(tokens_per_s, count=2000, whole=1990, memory_kib_per_stream=40.4)
    return Figures(name, "", Percentiles(first, first * 2), Percentiles(first / 2, first), 100, {}, load, many, reload)


@pytest.fixture
def run() -> Run:
    ours = figures(OURS, 1.25, 4800, streams(4800, longest_gap_ms=61.2))
    return Run("2026-11-23T15:00", 2, 0.4, (figures(DIRECT, 0.5, 5000), ours, figures("LiteLLM", 40.5, 1000)))


def test_percentiles_are_of_milliseconds() -> None:
    assert Percentiles.of_us([*range(1000, 101_000, 1000)]) == Percentiles(50.5, 100.0)
    with pytest.raises(FlexiError, match="no request was answered"):
        Percentiles.of_us([])


def test_figures_are_compared_with_the_instance_itself(run: Run) -> None:
    assert run.added_first_ms(run.of(OURS)) == Percentiles(0.75, 1.5)
    assert run.added_chunk_ms(run.of("LiteLLM")) == Percentiles(20.0, 40.0)
    assert run.throughput(run.of(OURS)) == pytest.approx(0.96)


def test_the_table_has_a_cell_for_each_row_and_subject(run: Run) -> None:
    lines = show.markdown(run).splitlines()
    assert lines[0] == "|  | the instance itself | flexi's gateway | LiteLLM |"
    assert len(lines) == 2 + len(show.ROWS)
    assert {line.count("|") for line in lines} == {5}
    assert "| 0.75 / 1.50 | 40.00 / 80.00 |" in lines[2]
    assert "| 0.960 | 0.200 |" in lines[5]
    assert "| 1,990 of 2,000 |" in lines[7]
    assert lines[-1].endswith("| – | 61 | – |")


def test_programs_get_everything(run: Run) -> None:
    report = json.loads(json.dumps(show.as_json(run)))
    assert report["schema"] == 1
    assert report["ratios"][1] == {
        "name": OURS,
        "added_first_ms": {"p50": 0.75, "p99": 1.5},
        "added_chunk_ms": {"p50": 0.375, "p99": 0.75},
        "throughput": 0.96,
    }
    assert report["figures"][1]["reload"]["longest_gap_ms"] == 61.2


def test_the_plot_is_one_picture_with_a_bar_for_each_proxy_and_panel(run: Run) -> None:
    picture = ElementTree.fromstring(show.svg(run))
    namespace = "{http://www.w3.org/2000/svg}"
    bars = [r for r in picture.iter(f"{namespace}rect") if r.get("rx")]
    assert len(bars) == 4
    words = [text.text for text in picture.iter(f"{namespace}text")]
    assert "0.75" in words
    assert "flexi's gateway" in words


def test_bars_are_logarithmic() -> None:
    values = [0.2, 2.0, 20.0]
    lengths = [show.bar_length(value, values, 1000) for value in values]
    assert lengths[2] == 1000
    assert lengths[2] - lengths[1] == pytest.approx(lengths[1] - lengths[0], abs=2)
    assert lengths[0] > 1
    assert show.bar_length(-0.1, values, 1000) == 1


def test_the_lists_of_what_stands_in_are_those_that_the_gateway_asks_for() -> None:
    text = (ROOT / "src/flexi_host/common/ollama.py").read_text()
    for path in place.LISTS:
        assert f'"{path}"' in text
