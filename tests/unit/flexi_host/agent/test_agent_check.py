"""The agent-check port: what it says for each state, what it does with rubbish, and that a real HAProxy understands."""

from __future__ import annotations

import asyncio
import queue
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.agent_fakes import until

from flexi_host.agent import check
from flexi_host.agent.check import Checker
from flexi_host.agent.drain import ASKED_S, MAX_REASON_CHARS, Drain, Ledger
from flexi_host.agent.state import Board, InstanceView, ModelView, Phase


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def board(clock: Clock) -> Board:
    board = Board(lambda line: None, clock=clock)
    board.put(instance(ModelView("llama3:8b", Phase.READY)))
    return board


@pytest.fixture
def checker(board: Board, clock: Clock, tmp_path: Path) -> Checker:
    return Checker(board, ["a", "late"], tmp_path, Ledger(clock))


def instance(*models: ModelView, phase: Phase = Phase.READY, reason: str | None = None) -> InstanceView:
    return InstanceView("a", "http://127.0.0.1:1", phase, reason, (), models)


def test_a_ready_model_is_up_and_ready(checker: Checker) -> None:
    assert checker.answer("a llama3:8b\n") == "up ready"
    assert checker.answer("a LLaMA3:8B\r\n") == "up ready", "names are compared as Ollama compares them"
    assert checker.answer("a\n") == "up ready"


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (ModelView("m:1", Phase.FAULT, "m:1 runs 40 % on the CPU"), "up drain #fault: m:1 runs 40 % on the CPU"),
        (ModelView("m:1", Phase.DOWNLOADING, None, 250, 1000), "up drain #downloading: 25 %"),
        (ModelView("m:1", Phase.DOWNLOADING, None, 0, 0), "up drain #downloading"),
        (ModelView("m:1", Phase.LOADING), "up drain #loading"),
        (ModelView("m:1", Phase.STARTING, "waits for its download"), "up drain #starting: waits for its download"),
    ],
)
def test_everything_else_gets_no_requests_and_may_finish_what_it_has(
    checker: Checker, board: Board, model: ModelView, said: str
) -> None:
    board.put(instance(model))
    assert checker.answer("a m:1") == said
    assert checker.answer("a") == "up ready", "an instance that loads still serves its other models"


def test_a_faulty_instance_is_down_as_a_whole(checker: Checker, board: Board) -> None:
    board.put(instance(phase=Phase.FAULT, reason="GPU 3 (GPU-ab12cd34) is not visible"))
    assert checker.answer("a") == "down ready #fault: GPU 3 (GPU-ab12cd34) is not visible"


@pytest.mark.parametrize("request_line", ["", "\n", "a b c", "b llama3:8b", "\x00\xff"])
def test_what_is_not_known_is_down(checker: Checker, request_line: str) -> None:
    assert checker.answer(request_line).startswith("down ready #")


@pytest.mark.parametrize(
    ("request_line", "why"),
    [
        ("a other:1", "unknown model other:1 in group a"),
        ("late", "not looked at yet"),
        ("late m:1", "not looked at yet"),
    ],
)
def test_what_may_be_writing_answers_is_not_broken_off(checker: Checker, request_line: str, why: str) -> None:
    """A model that a deploy has moved away, an agent that has just begun."""
    assert checker.answer(request_line) == f"up drain #{why}"


def test_a_drain_switch_drains_with_its_first_line_and_says_ready_once_it_is_gone(
    checker: Checker, board: Board, tmp_path: Path
) -> None:
    switch = tmp_path / "a"
    switch.write_text("new fans, back at noon\nsecond line\n")
    assert checker.answer("a llama3:8b") == "up drain #new fans; back at noon"
    switch.write_text("")
    assert checker.answer("a") == "up drain #drained by an administrator"
    board.put(instance(ModelView("llama3:8b", Phase.FAULT, "bad")))
    assert checker.answer("a llama3:8b") == "up drain #fault: bad"
    board.put(instance(phase=Phase.STARTING, reason="it is not running"))
    assert checker.answer("a llama3:8b") == "down drain #starting: it is not running"
    switch.unlink()
    assert checker.answer("a llama3:8b") == "down ready #starting: it is not running"


def asked(checker: Checker, request: str = "a llama3:8b", asker: str = "10.0.0.1") -> str:
    """A check that the gateway asks and gets answered."""
    said = checker.answer(request)
    checker.sent(asker, request, said)
    return said


def test_told_is_what_everyone_who_asks_was_last_told(
    checker: Checker, board: Board, clock: Clock, tmp_path: Path
) -> None:
    board.put(instance(ModelView("llama3:8b", Phase.READY), ModelView("phi3:3.8b", Phase.READY)))
    clock.now = ASKED_S  # nobody has asked since the agent began, though everyone had time to
    assert checker.drains()["a"] == Drain(None, True)
    for request in ("a llama3:8b", "a phi3:3.8b"):
        asked(checker, request)
    assert checker.drains()["a"] == Drain(None, True)
    (tmp_path / "a").write_text("flexi: restart\n")
    assert checker.drains() == {"a": Drain("flexi: restart", False), "late": Drain(None, True)}
    asked(checker, "a llama3:8b")
    assert not checker.drains()["a"].told, "one of two back ends still sends requests"
    checker.answer("a phi3:3.8b")
    assert not checker.drains()["a"].told, "an answer that did not reach the network tells nobody"
    asked(checker, "a phi3:3.8b")
    assert checker.drains()["a"] == Drain("flexi: restart", True)
    (tmp_path / "a").unlink()
    assert checker.drains()["a"] == Drain(None, False)
    for request in ("a llama3:8b", "a phi3:3.8b"):
        asked(checker, request)
    assert checker.drains()["a"] == Drain(None, True)


def test_told_means_up_as_well(checker: Checker, board: Board, clock: Clock) -> None:
    """After a restart the gateway must have heard that the model is back, before the next host may go."""
    clock.now = ASKED_S
    board.put(instance(ModelView("llama3:8b", Phase.LOADING)))
    asked(checker)
    assert checker.drains()["a"].told
    board.put(instance(ModelView("llama3:8b", Phase.READY)))
    assert not checker.drains()["a"].told
    asked(checker)
    assert checker.drains()["a"].told


def test_an_old_answer_does_not_count_and_who_stopped_asking_does_not_either(
    checker: Checker, board: Board, clock: Clock, tmp_path: Path
) -> None:
    clock.now = ASKED_S
    asked(checker, asker="10.0.0.1")
    (tmp_path / "a").touch()
    asked(checker, asker="10.0.0.2")
    assert not checker.drains()["a"].told, "another gateway does not know yet"
    clock.now += ASKED_S
    assert not checker.drains()["a"].told
    clock.now += 0.1
    board.put(instance(ModelView("llama3:8b", Phase.READY)))
    assert checker.drains()["a"].told, "nobody asks any more"


def test_an_agent_that_has_just_begun_claims_nothing(checker: Checker, clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert not checker.drains()["a"].told, "a gateway may still send by what the last agent said"
    asked(checker)
    clock.now = ASKED_S - 0.1
    assert not checker.drains()["a"].told
    clock.now = ASKED_S
    assert checker.drains()["a"].told


def test_a_gateway_has_heard_once_it_was_answered_for_every_model(checker: Checker, board: Board, clock: Clock) -> None:
    board.put(instance(ModelView("llama3:8b", Phase.STARTING), ModelView("mistral:latest", Phase.STARTING)))
    assert not checker.heard_by_all()
    asked(checker, "a")
    asked(checker, "a LLaMA3:8B")
    assert not checker.heard_by_all()
    asked(checker, "a mistral")
    assert checker.heard_by_all()
    clock.now += ASKED_S + 0.1
    assert not checker.heard_by_all()


def test_a_state_that_nobody_confirms_any_more_gets_no_requests(checker: Checker, board: Board, clock: Clock) -> None:
    clock.now = 29.0
    assert checker.answer("a llama3:8b") == "up ready"
    clock.now = 31.0
    assert checker.answer("a llama3:8b") == "up drain #the agent has not looked at a for 30 s"
    board.put(instance(ModelView("llama3:8b", Phase.READY)))
    assert checker.answer("a llama3:8b") == "up ready", "an unchanged view is a confirmation too"


def test_reasons_are_one_short_line_of_ascii() -> None:
    said = check.printable("a,b\nc\td…\x00é " + "x" * 200)
    assert said.startswith("a;b c d... ? xxx")
    assert len(said) == MAX_REASON_CHARS
    assert said.endswith("...")


@pytest.fixture
def port(checker: Checker, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A listening check server in a thread of its own, with a short patience."""
    monkeypatch.setattr(check, "REQUEST_TIMEOUT_S", 0.1)
    listening: queue.Queue[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = queue.Queue()

    async def serve() -> None:
        server = await check.serve(checker, "127.0.0.1", 0)
        ending = asyncio.Event()
        listening.put((server.sockets[0].getsockname()[1], asyncio.get_running_loop(), ending))
        await ending.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    number, loop, ending = listening.get(timeout=5)
    yield number
    loop.call_soon_threadsafe(ending.set)
    thread.join()


def ask(port: int, data: bytes, close: bool = False) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        sock.sendall(data)
        if close:
            sock.shutdown(socket.SHUT_WR)
        return sock.makefile("rb").read()


@pytest.mark.parametrize(
    ("data", "start"),
    [
        (b"a llama3:8b\n", b"up ready\n"),
        (b"a llama3:8b\nand more\n", b"up ready\n"),
        (b"a llama3:8b", b"down ready #"),  # no end of line in time
        (b"", b"down ready #"),
        (b"x" * 100_000, b"down ready #"),
        (b"x" * 300 + b"\n", b"down ready #"),
        (bytes(range(1, 10)) + b"\xff\xfe\n", b"down ready #"),
        (b"nowhere llama3:8b\n", b"down ready #unknown group nowhere\n"),
    ],
)
def test_rubbish_gets_an_answer_and_never_stops_the_server(port: int, data: bytes, start: bytes) -> None:
    try:
        answer = ask(port, data)
    except ConnectionError:
        answer = start + b"\n"  # the rest of a very long line was still on its way when the server hung up
    assert answer.startswith(start)
    assert answer.endswith(b"\n")
    assert answer.count(b"\n") == 1 or data.startswith(b"x" * 1000)
    assert ask(port, b"a llama3:8b\n") == b"up ready\n"


def test_an_answered_check_is_noted(port: int, checker: Checker, clock: Clock, tmp_path: Path) -> None:
    clock.now = ASKED_S
    ask(port, b"a llama3:8b\n")
    assert checker.drains()["a"].told
    (tmp_path / "a").touch()
    assert not checker.drains()["a"].told
    ask(port, b"a llama3:8b\n")
    until(lambda: checker.drains()["a"].told, "the answer counts")


def test_the_end_of_the_request_may_stand_for_the_end_of_line(port: int) -> None:
    assert ask(port, b"a llama3:8b", close=True) == b"up ready\n"


def test_a_silent_client_does_not_delay_the_next(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)):
        assert ask(port, b"a llama3:8b\n") == b"up ready\n"


HAPROXY = """
global
    stats socket {dir}/haproxy.sock
defaults
    timeout connect 1s
    timeout client 1s
    timeout server 1s
backend model
    default-server check inter 50ms rise 1 agent-check agent-inter 50ms
    server a 127.0.0.1:{port} agent-port {port} agent-send "a llama3:8b\\n"
"""


@pytest.mark.skipif(not shutil.which("haproxy"), reason="needs haproxy")
def test_haproxy_goes_down_drains_and_comes_back_by_these_words(port: int, board: Board, tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text(HAPROXY.format(dir=tmp_path, port=port))
    process = subprocess.Popen(
        ["haproxy", "-db", "-q", "-f", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def server() -> tuple[str, str]:
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(f"{tmp_path}/haproxy.sock")
            except OSError:
                return "", ""
            sock.sendall(b"show stat\n")
            head, *rows = sock.makefile().read().strip().splitlines()
        names = head.removeprefix("# ").split(",")
        row = next(dict(zip(names, line.split(","), strict=False)) for line in rows if line.startswith("model,a,"))
        return row["status"], row["last_agt"]

    try:
        until(lambda: server()[1].startswith("via agent : up"), "the agent was asked")
        assert server()[0].startswith("UP")
        board.put(instance(ModelView("llama3:8b", Phase.FAULT, "llama3:8b runs 40 % on the CPU")))
        until(lambda: server()[0].startswith("DRAIN"), f"drained, but it is {server()}")
        assert "llama3:8b runs 40 % on the CPU" in server()[1]
        board.put(instance(phase=Phase.FAULT, reason="a GPU is away"))
        until(lambda: server()[0] == "DOWN (agent)", f"down, but it is {server()}")
        board.put(instance(ModelView("llama3:8b", Phase.READY)))
        until(lambda: server()[0].startswith("UP"), "up again")
        (tmp_path / "a").touch()
        until(lambda: server()[0].startswith("DRAIN"), "drained")
        (tmp_path / "a").unlink()
        until(lambda: server()[0].startswith("UP"), "ready again")
    finally:
        process.terminate()
        process.wait(5)
