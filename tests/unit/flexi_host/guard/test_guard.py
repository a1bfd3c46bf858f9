"""The guard as HAProxy meets it: requests and answers over its sockets, failures, reloads."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.agent_fakes import until
from support.guard_fakes import Asked, Guard, alive, answer, request, running

from flexi.configs import host_package
from flexi_host.guard.exchange import BUSY_S

BODY = b'{"messages":[{"role":"user","content":"canary"}],"model":"llama3:8b"}'


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guard]:
    with running(tmp_path_factory.mktemp("guard"), workers=2) as guard:
        yield guard


@pytest.fixture
def guard(shared: Guard) -> Guard:
    shared.inner.asked.clear()
    while not shared.nothing_told():
        pass
    return shared


def ask(guard: Guard, data: bytes) -> tuple[int, dict[str, str], bytes]:
    with guard.connect() as sock:
        sock.sendall(data)
        return answer(sock)


def test_a_request_reaches_the_instance_in_one_form_and_the_answer_the_client(guard: Guard) -> None:
    tail = b'{"model":"llama3:8b","done":true,"prompt_eval_count":12,"eval_count":34}'
    guard.inner.then(lambda asked: asked.ok(tail, "Date: now", "Server: x", "Access-Control-Allow-Origin: *"))
    given = {"Origin": "https://evil", "Cookie": "secret", "X-Forwarded-For": "192.0.2.1", "Accept-Encoding": "gzip"}
    status, headers, body = ask(guard, request(BODY, path="/api/chat?x=1", headers=given))
    assert (status, body) == (200, tail)
    assert headers == {
        "content-type": "application/json",
        "date": "now",
        "content-length": str(len(tail)),
        "x-flexi-model": "llama3:8b",
        "connection": "close",
    }
    asked = guard.inner.asked[0]
    assert asked.line == "POST /api/chat HTTP/1.1"
    assert asked.headers == {
        "host": "localhost",
        "content-type": "application/json",
        "content-length": str(len(asked.body)),
        "x-flexi-backend": "model_llama3_8b",
        "x-flexi-model": "llama3:8b",
        "x-flexi-priority": "3",
        "x-flexi-consumer": "moodle",
        "x-flexi-id": "id-1",
        "connection": "close",
    }
    assert asked.body == b'{"model":"llama3:8b","messages":[{"role":"user","content":"canary"}]}'
    told = guard.told()
    times = [told.pop(name) for name in ("at", "first_byte_ms", "total_ms")]
    assert all(value >= 0 for value in times)
    assert told == {
        "kind": "answer",
        "id": "id-1",
        "consumer": "moodle",
        "class": "default",
        "model": "llama3:8b",
        "path": "/api/chat",
        "status": 200,
        "stream": True,
        "queue_ms": 7,
        "bytes_in": len(BODY),
        "bytes_out": len(tail),
        "prompt_tokens": 12,
        "answer_tokens": 34,
        "server": "server-a/a",
        "end": "done",
        "retries": 0,
    }


def test_chunks_pass_as_they_come(guard: Guard) -> None:
    """The second one is only sent when the client has read the first."""
    read = threading.Event()

    def stream(asked: Asked) -> None:
        asked.begin()
        asked.chunk(b'{"a":1}\n')
        assert read.wait(5)
        asked.chunk(b'{"prompt_eval_count":1,"eval_count":2}\n')
        asked.say(b"0\r\n\r\n")

    guard.inner.then(stream)
    with guard.connect() as sock:
        sock.sendall(request(BODY))
        data = b""
        while b'{"a":1}\n' not in data:
            data += sock.recv(65536)
        read.set()
        while piece := sock.recv(65536):
            data += piece
    assert data.endswith(b'8\r\n{"a":1}\n\r\n27\r\n{"prompt_eval_count":1,"eval_count":2}\n\r\n0\r\n\r\n')
    told = guard.told()
    assert (told["end"], told["prompt_tokens"], told["answer_tokens"]) == ("done", 1, 2)


@pytest.mark.parametrize("size", [1, 7, 100, 70_000])
def test_a_body_may_come_in_pieces_and_chunks(guard: Guard, size: int) -> None:
    text = b'{"model":"llama3:8b","prompt":"' + b"x" * 100_000 + b'"}' if size > 100 else BODY
    with guard.connect() as sock:
        sock.sendall(request(b"", chunked=True))
        for at in range(0, len(text), size):
            piece = text[at : at + size]
            sock.sendall(b"%x;name=value\r\n%s\r\n" % (len(piece), piece))
        sock.sendall(b"0\r\nTrailer: x\r\n\r\n")
        assert answer(sock)[0] == 200
    assert json.loads(guard.inner.asked[0].body) == json.loads(text)


def test_a_request_may_come_byte_by_byte(guard: Guard) -> None:
    with guard.connect() as sock:
        for byte in request(b"", chunked=True) + b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY):
            sock.sendall(bytes([byte]))
        assert answer(sock)[0] == 200


def test_who_waits_for_leave_to_send_gets_it(guard: Guard) -> None:
    whole = request(BODY, headers={"Expect": "100-continue"})
    with guard.connect() as sock:
        sock.sendall(whole[: -len(BODY)])
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(BODY)
        assert answer(sock)[0] == 200


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (request(b"{"), 400, "not the JSON"),
        (request(b""), 400, "not the JSON"),
        (request(b'{"model":"gpt-5"}'), 404, "not found"),
        (request(b"\x1f\x8b", headers={"Content-Encoding": "GZIP"}), 415, "compressed (gzip)"),
        (request(BODY, path="/api/pull"), 404, "nothing at"),
        (request(BODY, headers={"X-Flexi-Consumer": ""}), 401, "API key"),
        (request(BODY, headers={"X-Flexi-Class": "x"}), 403, "class x"),
        (request(b'{"model":"llama3:8b","keep_alive":0}'), 403, "keep_alive"),
        (request(BODY).replace(b"POST", b"GET", 1), 405, "POST"),
        (request(BODY).replace(b"HTTP/1.1", b"HTTP/3", 1), 400, "not understood"),
        (request(BODY) + b"GET / HTTP/1.1\r\n\r\n", 400, "more than one"),
        (request(BODY, headers={"content-length": "1"}), 400, "twice"),
        (request(BODY, headers={"Transfer-Encoding": "chunked"}), 400, "beside"),
        (request(BODY).replace(b"Content-Length: ", b"Content-Length: -", 1), 400, "no number"),
        (request(BODY).replace(b"Content-Length: ", b"Content-Length: +", 1), 400, "no number"),
        (request(b"", chunked=True).replace(b"chunked", b"gzip, chunked"), 400, "transfer coding"),
        (request(BODY).replace(b"Host:", b"Ho st:", 1), 400, "header that is none"),
        (request(b"", chunked=True) + b"-1\r\n", 400, "no number"),
        (request(b"", chunked=True) + b"0x1\r\n", 400, "no number"),
        (request(b"", chunked=True) + b"1\n", 400, "ends oddly"),
        (request(b"", chunked=True) + b"1\r\nab\r\n", 400, "longer"),
        (request(b"", chunked=True) + b"1" * 300, 400, "does not end"),
        (request(b"", chunked=True) + b"100001\r\n", 413, "1 MiB"),
        (request(b"", chunked=True) + b"0\r\n" + b"x: y\r\n" * 5000, 400, "does not end"),
        (request(b"x" * (2**20 + 1)), 413, "1 MiB"),
        (request(b"x" * (2**16 + 1), path="/api/show"), 413, "64 KiB"),
        (b"POST /api/chat HTTP/1.1\r\n" + b"x: y\r\n" * 20_000, 400, "does not end"),
    ],
)
def test_what_is_not_right_is_told_and_reaches_nobody(guard: Guard, data: bytes, status: int, words: str) -> None:
    found, headers, body = ask(guard, data)
    assert (found, headers["content-type"]) == (status, "application/json")
    assert words in json.loads(body)["error"]
    assert guard.inner.asked == []
    assert b"canary" not in body
    assert alive(guard.workers[0])


def test_a_refusal_has_the_dialect_of_its_path_and_is_told(guard: Guard) -> None:
    status, _, body = ask(guard, request(b'{"model":"x"}', path="/v1/chat/completions"))
    assert (status, json.loads(body)["error"]["code"]) == (404, "model_not_found")
    told = guard.told()
    assert (told["end"], told["status"], told["model"], told["server"]) == ("refused", 404, None, None)


def test_a_large_body_that_is_refused_is_read_to_its_end(guard: Guard) -> None:
    """Closed with unread bytes in it, the connection would break under HAProxy before it has read the refusal."""
    with guard.connect() as sock:
        sock.sendall(request(b"", chunked=True) + b"200000\r\n")
        first = sock.recv(65536)
        assert first.startswith(b"HTTP/1.1 413 ")
        for _ in range(64):
            sock.sendall(b"x" * 32768)
        assert sock.recv(10) == b"", "it has ended its side, and nothing broke"


def broken(asked: Asked) -> None:
    """An instance that dies: HAProxy's 502."""
    asked.fail("a", 502)


def torn(asked: Asked) -> None:
    """HAProxy itself lets go, as when it shuts a server's sessions down."""


def half(asked: Asked) -> None:
    asked.say(b"HTTP/1.1 200 OK\r\nContent-")


def garbage(asked: Asked) -> None:
    asked.say(b"nonsense\r\n\r\n")


@pytest.mark.parametrize("failure", [broken, torn, half, garbage])
def test_an_attempt_that_failed_before_the_answer_is_made_again(guard: Guard, failure: Any) -> None:
    guard.inner.then(failure, failure)
    status, _, body = ask(guard, request(BODY))
    assert (status, body) == (200, b'{"done":true}')
    assert [asked.body for asked in guard.inner.asked] == [guard.inner.asked[0].body] * 3
    assert guard.told()["retries"] == 2


def test_not_for_ever(guard: Guard) -> None:
    guard.inner.then(broken, broken, broken, broken)
    status, _, body = ask(guard, request(BODY))
    assert status == 502
    assert "llama3:8b" in json.loads(body)["error"]
    assert len(guard.inner.asked) == 3
    told = guard.told()
    assert (told["status"], told["end"], told["retries"]) == (502, "instance", 2)
    guard.inner.answers.get()


@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        ("queue_full", 503, "queue_full"),
        ("<NOSRV>", 503, "model_unavailable"),
        ("a", 504, "instance_timeout"),
    ],
)
def test_where_another_attempt_is_no_remedy_there_is_none(guard: Guard, said: str, status: int, code: str) -> None:
    guard.inner.then(lambda asked: asked.fail(said, status))
    found, headers, body = ask(guard, request(BODY, path="/v1/chat/completions"))
    assert found == status
    assert ("retry-after" in headers) == (status == 503)
    error = json.loads(body)["error"]
    assert error["code"] == code
    assert "llama3:8b" in error["message"]
    assert "model_llama3" not in error["message"], "no back end is ever shown"
    assert len(guard.inner.asked) == 1


def test_who_waited_for_a_place_is_told_so(guard: Guard) -> None:
    def later(asked: Asked) -> None:
        threading.Event().wait(BUSY_S + 0.1)
        asked.fail("<NOSRV>", 503)

    guard.inner.then(later)
    assert "is busy: no place became free" in json.loads(ask(guard, request(BODY))[2])["error"]


def test_an_answer_that_breaks_off_has_no_end_for_the_client(guard: Guard) -> None:
    def stream(asked: Asked) -> None:
        asked.begin()
        asked.chunk(b"{}\n")

    guard.inner.then(stream)
    _, _, body = ask(guard, request(BODY))
    assert body == b"3\r\n{}\n\r\n", "no last chunk: HAProxy sees that it is not whole"
    assert guard.told()["end"] == "instance"
    guard.inner.then(lambda asked: asked.say(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"))
    assert ask(guard, request(BODY))[2] == b"{"
    assert guard.told()["end"] == "instance"
    assert len(guard.inner.asked) == 2, "what the client has seen is not made again"


def test_an_instances_own_refusal_is_the_answer(guard: Guard) -> None:
    guard.inner.then(lambda asked: asked.say(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\n{}"))
    status, _, body = ask(guard, request(BODY))
    assert (status, body) == (400, b"{}")
    assert guard.told()["status"] == 400


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b'{"error":"model requires more system memory"}', "llama3:8b failed: model requires more system memory"),
        (b'{"error":{"message":"EOF","type":"api_error"}}', "llama3:8b failed: EOF"),
        (b'{"error":"Post \\"http://127.0.0.1:43211/completion\\": EOF"}', 'llama3:8b failed: Post "…": EOF'),
        (b'{"error":"dial tcp 10.87.0.11:11434: refused"}', "llama3:8b failed: dial tcp …: refused"),
        (b'{"error":"open /var/lib/ollama/a/models/blobs/x: no"}', "llama3:8b failed: open …: no"),
        (b"<html>10.87.0.11</html>", "llama3:8b failed: it says nothing more"),
        (b"", "llama3:8b failed: it says nothing more"),
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_an_instances_failure_is_told_without_its_place(guard: Guard, said: bytes, words: str, chunked: bool) -> None:
    """`Post "http://127.0.0.1:…": EOF` is how Ollama 0.24.0 tells that a runner died (llm/server.go)."""

    def fail(asked: Asked) -> None:
        head = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(said)}"
        body = (b"%x\r\n%s\r\n0\r\n\r\n" % (len(said), said) if said else b"0\r\n\r\n") if chunked else said
        asked.say(f"HTTP/1.1 500 x\r\nX-Flexi-Server: a\r\n{head}\r\n\r\n".encode() + body)

    guard.inner.then(fail)
    status, _, body = ask(guard, request(BODY))
    assert (status, json.loads(body)) == (500, {"error": words})
    told = guard.told()
    assert (told["end"], told["status"], told["server"], told["retries"]) == ("instance", 500, "server-a/a", 0)


@pytest.mark.parametrize("half", [False, True], ids=["closed", "half closed"])
@pytest.mark.parametrize("began", [False, True])
def test_a_client_that_goes_frees_its_place(guard: Guard, began: bool, half: bool) -> None:
    """HAProxy ends its sending side when its client is gone."""
    gone = threading.Event()
    there = threading.Event()

    def wait(asked: Asked) -> None:
        if began:
            asked.begin()
            asked.chunk(b"{}\n")
        there.set()
        if asked.gone():
            gone.set()

    guard.inner.then(wait)
    with guard.connect() as sock:
        sock.sendall(request(BODY))
        assert there.wait(5)
        if began:
            assert sock.recv(65536)
        if half:
            sock.shutdown(socket.SHUT_WR)
            assert gone.wait(5), "the instance's side was not told"
    assert gone.wait(5), "the instance's side was not told"
    told = guard.told()
    assert (told["end"], told["status"]) == ("client", 200 if began else 499)


def test_for_a_client_that_goes_nothing_is_tried_again(guard: Guard) -> None:
    """The second client's attempts take longer than the pause that the first one left in."""
    refused = threading.Event()

    def refuse(asked: Asked) -> None:
        asked.fail("a")
        refused.set()

    guard.inner.then(refuse)
    with guard.connect() as sock:
        sock.sendall(request(BODY))
        assert refused.wait(5)
    assert guard.told()["end"] == "client"
    guard.inner.then(*[lambda asked: asked.fail("a")] * 3)
    assert ask(guard, request(BODY))[0] == 200
    assert len(guard.inner.asked) == 1 + 3 + 1


STREAMS = {
    "/api/chat": [b'{"message":{"content":"a\\n"},"done":false}\n'] * 3,
    "/api/generate": [b'{"response":"a","done":false}\n'] * 3,
    "/v1/chat/completions": [b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'] * 3,
    "/v1/completions": [b'data: {"choices":[{"text":"a"}]}\n\n'] * 3,
    "/v1/responses": [
        b'event: response.created\ndata: {"type":"response.created"}\n\n',
        *[b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta"}\n\n'] * 3,
    ],
    "/v1/messages": [
        b'event: message_start\ndata: {"message":{"usage":{"input_tokens":9,"output_tokens":0}}}\n\n',
        *[b'event: content_block_delta\ndata: {"type":"content_block_delta"}\n\n'] * 3,
    ],
}
"""What has come of three tokens, as Ollama 0.24.0 writes it: server/routes.go, middleware/openai.go, anthropic.go."""


@pytest.mark.parametrize("left", [True, False], ids=["the client left", "the instance broke off"])
@pytest.mark.parametrize("path", STREAMS)
def test_a_stream_without_its_end_has_cost_what_came_of_it(guard: Guard, path: str, left: bool) -> None:
    def stream(asked: Asked) -> None:
        asked.begin()
        for piece in STREAMS[path]:
            # In the midst of a piece's end: nobody promises that it is read at once.
            asked.say(b"%x\r\n%s" % (len(piece), piece[:-2]))
            asked.say(piece[-2:] + b"\r\n")
        if left:
            assert asked.gone()

    guard.inner.then(stream)
    with guard.connect() as sock:
        sock.sendall(request(json.dumps({"model": "llama3:8b", "stream": True}).encode(), path))
        data = b""
        # Who leaves does so with the third piece; else the guard ends the connection.
        while (not left or data.count(STREAMS[path][-1]) < 3) and (piece := sock.recv(65536)):
            data += piece
    told = guard.told()
    assert (told["end"], told["answer_tokens"]) == ("client" if left else "instance", 3)
    assert told["prompt_tokens"] == (9 if path == "/v1/messages" else None)


def test_a_reader_that_is_slow_stops_the_sender(guard: Guard) -> None:
    """Bounded memory: what nobody reads piles up at the sender, not in the guard."""
    sent = 0
    stopped = threading.Event()

    def flood(asked: Asked) -> None:
        nonlocal sent
        asked.begin()
        asked.sock.settimeout(1)
        piece = b"%x\r\n%s\r\n" % (65536, b"x" * 65536)
        try:
            while sent < 64 * 2**20:
                sent += asked.sock.send(piece)
        except TimeoutError:
            stopped.set()

    guard.inner.then(flood)
    with guard.connect() as sock:
        sock.sendall(request(BODY))
        assert stopped.wait(20), f"{sent} bytes were taken for a client that reads none"
        assert sent < 2**21
        # And on it goes when the client reads.
        assert sum(len(sock.recv(65536)) for _ in range(64)) > 0


def test_what_is_held_is_bounded_and_let_go(guard: Guard) -> None:
    large = b'{"model":"llama3:8b","prompt":"' + b"x" * 190_000 + b'"}'
    ready, go = threading.Event(), threading.Event()

    def hold(asked: Asked) -> None:
        ready.set()
        go.wait(5)
        asked.ok()

    guard.inner.then(hold)
    with guard.settings(bodies_limit_bytes=300_000), guard.connect() as first:
        first.sendall(request(large))
        assert ready.wait(5)
        status, headers, body = ask(guard, request(large))
        assert (status, headers["retry-after"]) == (503, "10")
        assert "large requests" in json.loads(body)["error"]
        go.set()
        assert answer(first)[0] == 200
        for _ in range(5):
            assert ask(guard, request(large))[0] == 200


def test_a_body_that_does_not_come_is_not_waited_for(guard: Guard) -> None:
    with guard.settings(body_timeout_s=1), guard.connect() as sock:
        sock.sendall(request(BODY)[:-5])
        status, _, body = answer(sock)
        assert status == 408
        assert "1 s" in json.loads(body)["error"]


def test_the_inner_half_may_be_away_for_a_moment(guard: Guard) -> None:
    """While HAProxy reloads."""
    inner = guard.directory / "inner.sock"
    away = inner.rename(guard.directory / "away.sock")
    with guard.connect() as sock:
        sock.sendall(request(BODY))
        sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        away.rename(inner)
        sock.settimeout(10)
        assert answer(sock)[0] == 200


@pytest.mark.parametrize("said", ["nowhere", "a"])
def test_what_has_reached_nobody_is_tried_again_for_a_while(guard: Guard, said: str) -> None:
    """A back end that HAProxy does not know yet; an instance that takes no connection and is not marked down yet."""
    guard.inner.then(*[lambda asked: asked.fail(said, 503)] * 4)
    assert ask(guard, request(BODY))[0] == 200
    assert guard.told()["retries"] == 0


def test_a_ledger_that_is_away_delays_nobody_and_misses_nothing(guard: Guard) -> None:
    ledger = guard.directory / "ledger.sock"
    away = ledger.rename(guard.directory / "away.sock")
    for number in range(3):
        assert ask(guard, request(BODY, headers={"X-Flexi-Id": str(number)}))[0] == 200
    away.rename(ledger)
    assert [guard.told()["id"] for _ in range(3)] == ["0", "1", "2"]


def streaming(started: threading.Event, go: threading.Event) -> Any:
    def answer_slowly(asked: Asked) -> None:
        asked.begin()
        asked.chunk(b"1\n")
        started.set()
        assert go.wait(20)
        asked.chunk(b"2\n")
        asked.say(b"0\r\n\r\n")

    return answer_slowly


def test_new_settings_hold_from_the_next_request_on_and_streams_go_on(guard: Guard) -> None:
    workers = guard.workers
    started, go = threading.Event(), threading.Event()
    guard.inner.then(streaming(started, go))
    with guard.connect() as stream:
        stream.sendall(request(BODY))
        assert started.wait(5)
        guard.write(models={})
        done = guard.reload()
        assert (done.returncode, done.stderr) == (0, "")
        for number in range(2):
            with guard.connect(number) as sock:
                sock.sendall(request(BODY))
                assert answer(sock)[0] == 404, "every worker knows when the reload has ended"
        go.set()
        assert answer(stream)[2].endswith(b"2\n\r\n0\r\n\r\n")
    assert guard.workers == workers, "the same processes"
    guard.settle()


def test_bad_settings_change_nothing_and_fail(guard: Guard) -> None:
    guard.write(retries=-1)
    done = guard.reload()
    assert done.returncode == 2
    assert "guard.json: guard.retries: expected a whole number from 0 to 10, found -1" in done.stderr
    assert "Traceback" not in done.stderr
    # Past the check before, as when the file is changed by hand in between: the workers keep what they had.
    guard.settle(retries=-1)
    assert guard.noted()["refused"]
    assert ask(guard, request(BODY))[0] == 200
    guard.settle()
    assert not guard.noted()["refused"]


def test_a_new_program_takes_over_and_old_streams_end_with_the_old_one(guard: Guard) -> None:
    old = guard.workers
    started, go = threading.Event(), threading.Event()
    guard.inner.then(streaming(started, go))
    with guard.connect(0) as stream:
        stream.sendall(request(BODY))
        assert started.wait(5)
        new = guard.directory / "new"
        new.write_bytes(host_package.build())
        new.replace(guard.program)
        done = guard.reload()
        assert (done.returncode, done.stderr) == (0, "")
        assert not set(guard.workers) & set(old)
        for number in range(2):
            with guard.connect(number) as sock:
                sock.sendall(request(BODY))
                assert answer(sock)[0] == 200
        assert alive(old[0]), "it has a stream"
        until(lambda: not alive(old[1]), "an idle one leaves at once")
        go.set()
        assert answer(stream)[2].endswith(b"2\n\r\n0\r\n\r\n")
        until(lambda: not alive(old[0]), "it leaves with its last answer")
    assert guard.process.poll() is None
    assert ask(guard, request(BODY))[0] == 200


def test_a_worker_that_dies_is_replaced_and_who_knocks_meanwhile_waits(guard: Guard) -> None:
    old = guard.workers[0]
    os.kill(old, signal.SIGKILL)
    until(lambda: not alive(old), "it is gone")
    assert ask(guard, request(BODY))[0] == 200


def test_the_end_lets_streams_end(tmp_path: Path) -> None:
    with running(tmp_path) as guard:
        started, go = threading.Event(), threading.Event()
        guard.inner.then(streaming(started, go))
        with guard.connect() as stream:
            stream.sendall(request(BODY))
            assert started.wait(5)
            guard.process.send_signal(signal.SIGTERM)
            go.set()
            assert answer(stream)[2].endswith(b"0\r\n\r\n")
        assert guard.process.wait(10) == 0


def test_without_sockets_it_says_what_is_missing(tmp_path: Path) -> None:
    guard = Guard(tmp_path)
    guard.sockets = []
    done = guard.run()
    assert (done.returncode, done.stdout) == (1, "")
    assert "no sockets to listen on" in done.stderr


def test_strangers_bytes_are_no_reason_to_die(guard: Guard) -> None:
    for data in (b"\x00" * 100 + b"\r\n\r\n", b"\r\n\r\n", b"POST\r\n\r\n", os.urandom(500) + b"\r\n\r\n", b""):
        with guard.connect() as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass
    assert ask(guard, request(BODY))[0] == 200
