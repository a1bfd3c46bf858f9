"""The ledger: each request once in the access log, the usage and the figures, and nothing that a client wrote."""

from __future__ import annotations

import json
import re
import socket
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.ledger_parts import ANSWER, START, answer, edge

from flexi_host.common.fields import ConfigError
from flexi_host.ledger import server
from flexi_host.ledger.book import Ledger
from flexi_host.ledger.config import LedgerConfig
from flexi_host.ledger.pairing import ANSWER_WAITS_S, EDGE_WAITS_S
from flexi_host.ledger.records import NotARecordError, Reader

CANARY = "canary-7f3a my secret prompt"


class Clock:
    """Both clocks of a ledger, moved by hand."""

    def __init__(self) -> None:
        self.now = START + 10

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def config(directory: Path, **more: Any) -> LedgerConfig:
    for name in ("log", "state"):
        (directory / name).mkdir(exist_ok=True)
    values: dict[str, Any] = {
        "port": 0,
        "retention_days": 7,
        "usage_days": 400,
        "models": ["llama3:8b", "Phi3:3.8B"],
        "log_dir": str(directory / "log"),
        "state_dir": str(directory / "state"),
    }
    return LedgerConfig.from_json(values | more)


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Ledger:
    return Ledger(config(tmp_path), clock, clock)


def lines(directory: Path) -> list[dict[str, Any]]:
    """Every line of every day's access log."""
    files = sorted((directory / "log").glob("access-*.log"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def requests(ledger: Ledger) -> int:
    return sum(int(str(row["requests"])) for row in ledger.usage(0, ["consumer"]))


def metric(text: str, name: str) -> dict[str, float]:
    """Labels as they stand, and value, of each series."""
    found = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", text, re.MULTILINE)
    return {labels: float(value) for labels, value in found}


@pytest.mark.parametrize("order", ["guard first", "edge first"])
def test_two_records_are_one_request(tmp_path: Path, ledger: Ledger, order: str) -> None:
    records = [answer(), edge()]
    for record in records if order == "guard first" else records[::-1]:
        ledger.take([record])
    [line] = lines(tmp_path)
    assert line["address"] == "192.0.2.0"  # the edge's
    assert (line["answer_tokens"], line["queue_ms"], line["server"]) == (34, 40, "server-a/a")  # the guard's
    assert (line["total_ms"], line["bytes_in"], line["bytes_out"]) == (2100, 350, 1100)  # on the client's connection
    assert (line["status"], line["end"], line["method"]) == (200, "done", "POST")
    [row] = ledger.usage(0, ["consumer", "class", "model"])
    assert (row["consumer"], row["class"], row["model"], row["requests"]) == ("moodle", "staff", "llama3:8b", 1)
    assert (row["prompt_tokens"], row["answer_tokens"]) == (12, 34)
    assert metric(ledger.metrics(), "flexi_ledger_halves") == {"": 0}


def test_what_the_guard_never_had_is_whole_at_once(tmp_path: Path, ledger: Ledger) -> None:
    ledger.take([edge(backend="edge", status=401, consumer="-", model="-", **{"class": "-"})])
    [line] = lines(tmp_path)
    assert (line["consumer"], line["class"], line["model"]) == (None, None, None)
    assert (line["status"], line["end"]) == (401, "refused")
    [row] = ledger.usage(0, ["consumer"])
    assert (row["consumer"], row["refused"]) == (None, 1)


def test_a_request_is_counted_when_it_is_answered_not_when_a_slow_client_has_read_it(
    tmp_path: Path, ledger: Ledger, clock: Clock
) -> None:
    ledger.take([answer()])
    assert requests(ledger) == 1
    assert lines(tmp_path) == []
    clock.now += ANSWER_WAITS_S - 1
    ledger.flush()
    assert lines(tmp_path) == []
    ledger.take([edge()])
    assert requests(ledger) == 1
    assert len(lines(tmp_path)) == 1


def test_a_half_whose_other_never_comes_stands_alone(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    """The guard was killed in the one case, HAProxy in the other."""
    ledger.take([edge(status=502, id="guard-died"), answer(id="edge-died")])
    clock.now += EDGE_WAITS_S
    ledger.flush()
    [line] = lines(tmp_path)
    assert (line["id"], line["status"], line["end"]) == ("guard-died", 502, "gateway")
    clock.now += ANSWER_WAITS_S
    ledger.flush()
    assert [line["id"] for line in lines(tmp_path)] == ["guard-died", "edge-died"]
    assert requests(ledger) == 2


def test_a_client_that_left_while_its_answer_was_sent(tmp_path: Path, ledger: Ledger) -> None:
    ledger.take([answer(end="done"), edge(ts="CD")])
    assert lines(tmp_path)[0]["end"] == "client"
    ledger.take([edge(id="gone", backend="edge", status=-1, ts="CR")])
    assert (lines(tmp_path)[1]["status"], lines(tmp_path)[1]["end"]) == (None, "client")


@pytest.mark.parametrize("order", ["guard first", "edge first"])
def test_a_client_that_left_before_its_answer(tmp_path: Path, ledger: Ledger, order: str) -> None:
    """HAProxy 2.6 says 400 to one whose connection was closed in order, and nothing after a reset."""
    for number, status in enumerate((400, -1)):
        records = [answer(id=str(number), end="client", status=499), edge(id=str(number), status=status, ts="CH")]
        for record in records if order == "guard first" else records[::-1]:
            ledger.take([record])
    assert [(line["status"], line["end"]) for line in lines(tmp_path)] == [(499, "client")] * 2
    [row] = ledger.usage(0, ["consumer"])
    assert (row["requests"], row["left"], row["refused"]) == (2, 2, 0)


def test_the_halves_wait_over_a_restart_and_are_counted_once(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    ledger.take([answer(id="one"), edge(id="two")])
    ledger.close()
    again = Ledger(config(tmp_path), clock, clock)
    again.take([edge(id="one"), answer(id="two")])
    assert sorted(line["id"] for line in lines(tmp_path)) == ["one", "two"]
    assert all(line["address"] == "192.0.2.0" and line["answer_tokens"] == 34 for line in lines(tmp_path))
    assert requests(again) == 2
    again.close()
    assert metric(Ledger(config(tmp_path), clock, clock).metrics(), "flexi_ledger_halves") == {"": 0}


@pytest.mark.parametrize(
    "place", ["model", "path", "method", "consumer", "class", "server", "backend", "from", "ts", "end"]
)
def test_nothing_that_a_client_may_have_written_is_kept(
    tmp_path: Path, ledger: Ledger, clock: Clock, place: str
) -> None:
    """Somebody puts a prompt where a name belongs; the records repeat it."""
    alone: dict[str, Any] = {"id": "x", "backend": "edge", place: CANARY}
    ledger.take([answer(**{place: CANARY}), edge(**{"id": "y", place: CANARY}), edge(**alone)])
    ledger.take([answer(id="waits", **{place: CANARY})])
    said = ledger.metrics() + json.dumps(ledger.recent()) + json.dumps(ledger.usage(0, ["consumer", "class", "model"]))
    ledger.close()
    assert lines(tmp_path)
    assert "canary" not in said
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or b"canary" not in file.read_bytes(), file


def test_a_model_s_own_path_does_not_name_it(tmp_path: Path, ledger: Ledger) -> None:
    ledger.take([edge(backend="edge", path=f"/v1/models/{CANARY}", model="-")])
    assert lines(tmp_path)[0]["path"] == "/v1/models/*"


def test_models_have_the_site_s_spelling(ledger: Ledger) -> None:
    ledger.take([answer(model="PHI3:3.8b"), answer(id="other", model="gpt-9")])
    assert {row["model"] for row in ledger.usage(0, ["model"])} == {"Phi3:3.8B", "other"}


def test_haproxy_s_notices_are_passed_over(tmp_path: Path, ledger: Ledger) -> None:
    """HAProxy tells a proxy's loggers of starts and of handshakes that failed, the latter with the whole address."""
    ledger.take([b"Proxy edge started.\n", b"192.0.2.77:40022 [23/Nov/2026] edge/1: SSL handshake failure\n", edge()])
    assert metric(ledger.metrics(), "flexi_ledger_ignored_total") == {"": 2}
    assert "192.0.2.77" not in "".join(file.read_text() for file in (tmp_path / "log").iterdir())


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*ANSWER, "ts", "from", "backend", "method"]), JSON_VALUES))
@settings(max_examples=200, deadline=None)
def test_no_datagram_breaks_the_reader(changes: dict[str, object]) -> None:
    for whole in (ANSWER | changes, changes):
        try:
            Reader(["llama3:8b"]).read(json.dumps(whole).encode())
        except NotARecordError:
            continue


@pytest.mark.parametrize("datagram", [b"", b"\xff", b"[]", b'"x"', b"{" * 10_000, b"[" * 100_000, b'{"kind":"edge"}'])
def test_what_is_no_record_is_refused(datagram: bytes) -> None:
    with pytest.raises(NotARecordError):
        Reader([]).read(datagram)


def test_a_line_lives_as_long_as_the_site_says_and_no_longer(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    for day in range(12):
        ledger.take([edge(id=str(day), backend="edge")])
        clock.now += 24 * 3600
    files = sorted(file.name for file in (tmp_path / "log").iterdir())
    # Written on 23 November to 4 December; on the last day seven are there.
    assert (files[0], files[-1], len(files)) == ("access-2026-11-28.log", "access-2026-12-04.log", 7)
    ledger.flush()  # on 5 December, with nothing to write
    assert sorted(file.name for file in (tmp_path / "log").iterdir())[0] == "access-2026-11-29.log"


def test_other_files_in_the_directory_are_not_ours(tmp_path: Path, ledger: Ledger) -> None:
    other = tmp_path / "log" / "access-2001-01-01.log.keep"
    other.write_text("mine")
    ledger.take([edge(backend="edge")])
    assert other.exists()


def test_without_retention_there_is_no_access_log(tmp_path: Path, clock: Clock) -> None:
    old = config(tmp_path).log_dir / "access-2026-11-22.log"
    old.write_text("{}\n")
    ledger = Ledger(config(tmp_path, retention_days=0), clock, clock)
    ledger.take([edge(backend="edge")])
    assert list((tmp_path / "log").iterdir()) == []
    assert requests(ledger) == 1


def test_the_files_are_for_their_owner_alone(tmp_path: Path, ledger: Ledger) -> None:
    ledger.take([edge(backend="edge")])
    [file] = (tmp_path / "log").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_full_disk_costs_lines_and_no_figures(
    tmp_path: Path, ledger: Ledger, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    today = tmp_path / "log" / "access-2026-11-23.log"
    today.symlink_to("/dev/full")
    for number in range(3):
        ledger.take([edge(id=str(number), backend="edge")])
    assert metric(ledger.metrics(), "flexi_ledger_lines_lost_total") == {"": 3}
    assert capsys.readouterr().err.count("No space left") == 1
    today.unlink()
    ledger.take([edge(id="after", backend="edge")])
    assert [line["id"] for line in lines(tmp_path)] == ["after"]
    assert requests(ledger) == 4


def test_a_database_that_cannot_be_written_loses_nothing(
    tmp_path: Path, ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "state" / "usage.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("ALTER TABLE usage RENAME TO away")
    ledger.take([edge(backend="edge")])
    ledger.flush()
    ledger.flush()
    assert capsys.readouterr().err.count("cannot be written") == 1
    with sqlite3.connect(path) as other:
        other.execute("ALTER TABLE away RENAME TO usage")
    assert requests(ledger) == 1


def test_a_broken_database_is_put_aside(tmp_path: Path, clock: Clock) -> None:
    (config(tmp_path).state_dir / "usage.sqlite").write_text("no database at all, but long enough to look at" * 50)
    ledger = Ledger(config(tmp_path), clock, clock)
    ledger.take([edge(backend="edge")])
    assert requests(ledger) == 1
    assert (tmp_path / "state" / "usage.broken").exists()


def test_usage_is_summed_by_the_hour_and_forgotten_in_time(tmp_path: Path, clock: Clock) -> None:
    ledger = Ledger(config(tmp_path, usage_days=2), clock, clock)
    for hour in range(4):
        ledger.take([answer(id=str(hour), at=START + 3600 * hour + 1800, consumer=f"c{hour % 2}")])
    clock.now = START + 4 * 3600
    every = ledger.usage(START, ["consumer"])
    assert [(row["consumer"], row["requests"], row["queue_ms"]) for row in every] == [("c0", 2, 80), ("c1", 2, 80)]
    # From the hour on in which the moment lies.
    assert [row["requests"] for row in ledger.usage(START + 3 * 3600 + 3599, ["consumer"])] == [1]
    assert [row["requests"] for row in ledger.usage(START, ["day"])] == [4]
    assert ledger.usage(START, ["day"])[0]["day"] == START - 13 * 3600
    clock.now = START + (2 * 24 + 2) * 3600
    assert [row["requests"] for row in ledger.usage(0, ["class"])] == [2]


def test_times_are_those_of_requests_that_reached_an_instance(ledger: Ledger) -> None:
    ledger.take([answer(), answer(id="2", end="refused", status=404, server=None, first_byte_ms=None, queue_ms=None)])
    [row] = ledger.usage(0, ["consumer"])
    assert (row["requests"], row["refused"], row["timed"], row["first_byte_ms"]) == (2, 1, 1, 250)


def test_recent_forgets_after_five_minutes(ledger: Ledger, clock: Clock) -> None:
    ledger.take([answer()])
    clock.now += 200
    ledger.take([answer(id="2", consumer="chat")])
    assert {row["consumer"]: row["requests"] for row in ledger.recent()} == {"moodle": 1, "chat": 1}
    clock.now += 120
    assert [row["consumer"] for row in ledger.recent()] == ["chat"]
    clock.now += 3600
    assert ledger.recent() == []


SAMPLE = re.compile(r'([a-z_]+)(\{[a-z_]+="(\\.|[^"\\])*"(,[a-z_]+="(\\.|[^"\\])*")*\})? -?\d+(\.\d+)?(e-?\d+)?')


def test_the_figures_are_in_prometheus_text_format(ledger: Ledger) -> None:
    ledger.take([answer(first_byte_ms=100), answer(id="2", first_byte_ms=101), answer(id="3", first_byte_ms=999_999)])
    ledger.take([edge(id="4", backend="edge", status=429)])
    text = ledger.metrics()
    kinds: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            assert name not in kinds, "a family stands once"
            kinds[name] = kind
            continue
        if line.startswith("# HELP "):
            continue
        found = SAMPLE.fullmatch(line)
        assert found, line
        base = re.sub(r"_(bucket|sum|count)$", "", found.group(1))
        assert base in kinds or found.group(1) in kinds
    labels = 'consumer="moodle",class="staff",model="llama3:8b"'
    assert metric(text, "flexi_gateway_requests_total") == {
        f'{labels},status="200",end="done"': 3,
        f'{labels},status="429",end="refused"': 1,
    }
    assert metric(text, "flexi_gateway_tokens_total") == {f'{labels},kind="answer"': 102, f'{labels},kind="prompt"': 36}
    assert metric(text, "flexi_gateway_first_byte_seconds_count") == {labels: 3}
    assert metric(text, "flexi_gateway_first_byte_seconds_sum") == {labels: pytest.approx(1000.2)}
    buckets = metric(text, "flexi_gateway_model_first_byte_seconds_bucket")
    by_bound = {found.group(1): value for key, value in buckets.items() if (found := re.search(r'le="(.*)"', key))}
    # A bucket holds what is less than or equal to its bound, and what the smaller ones hold.
    assert (by_bound["0.05"], by_bound["0.1"], by_bound["0.25"], by_bound["600"], by_bound["+Inf"]) == (0, 1, 2, 2, 3)
    assert kinds["flexi_gateway_model_first_byte_seconds"] == "histogram"


def test_questions_that_cannot_be_answered(ledger: Ledger) -> None:
    for target in ("/usage?since=yesterday", "/usage?by=address", "/usage?by=model,model", "/usage?since=-1"):
        with pytest.raises(server.Refused):
            server.answer(ledger, target)
    with pytest.raises(KeyError):
        server.answer(ledger, "/nothing")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"retention_days": -1}, "retention_days: expected a whole number from 0"),
        ({"usage_days": 0}, "usage_days"),
        ({"models": [""]}, r"models\[0\]"),
        ({"keep": 1}, "keep: unknown key"),
    ],
)
def test_a_wrong_configuration_is_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config(tmp_path, **change)


def test_what_was_taken_before_the_end_is_counted(ledger: Ledger) -> None:
    """A record and the signal to end are there at the same moment."""
    inbox, sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    stop, waker = socket.socketpair()
    with inbox, sender, stop, waker:
        sender.send(edge(backend="edge"))
        waker.send(b"\0")
        server.receive(inbox, stop, ledger, lambda: None)
        with pytest.raises(BlockingIOError):
            inbox.recv(1)
    assert requests(ledger) == 1
