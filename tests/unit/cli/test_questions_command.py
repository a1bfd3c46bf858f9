"""`flexi questions`: what the gateway may do to it, what a person may do wrong, and what is written when."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from lxml import etree
from support.course_text import GOOD, TEXT

from flexi.cli.questions import questions
from flexi.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_OK, InputError
from flexi.questions.chat import BrokenAnswerError, Chat, GatewayError

KEY = "flexi-test-key"


@dataclass
class Gateway:
    """Answers with what it was given, one thing for each request; the last one for ever."""

    replies: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    url: str = ""

    def says(self, *contents: Any, tail: bytes | None = None) -> None:
        for content in contents:
            text = content if isinstance(content, str) else json.dumps(content)
            half = len(text) // 2
            end = b'{"message": {"content": ""}, "done": true, "done_reason": "stop"}\n' if tail is None else tail
            pieces = [json.dumps({"message": {"content": part}, "done": False}) for part in (text[:half], text[half:])]
            self.replies.append((200, {}, "\n".join(pieces).encode() + b"\n" + end))

    def refuses(self, status: int, error: str, **headers: str) -> None:
        self.replies.append((status, headers, json.dumps({"error": error}).encode()))


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    found = Gateway()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found.requests.append((self.path, dict(self.headers), body))
            status, headers, content = found.replies.pop(0) if len(found.replies) > 1 else found.replies[0]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield found
    server.shutdown()
    server.server_close()


def ask(gateway: Gateway, waits: list[float] | None = None) -> Any:
    model = Chat(gateway.url, "m", KEY, sleep=(waits if waits is not None else []).append)
    return model.ask([{"role": "user", "content": "x"}], {"type": "object"}, 0.5, 7)


def test_the_request_is_ollamas_and_changes_no_setting_of_the_model(gateway: Gateway) -> None:
    gateway.says({"a": 1})
    assert ask(gateway) == {"a": 1}
    path, headers, body = gateway.requests[0]
    assert path == "/api/chat"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert body["format"] == {"type": "object"}
    assert set(body["options"]) == {"temperature", "seed", "num_predict"}


def test_a_busy_gateway_is_asked_again_when_it_says(gateway: Gateway) -> None:
    gateway.refuses(429, "the limit", Retry_After="7")
    gateway.refuses(503, "full", Retry_After="3000")
    gateway.refuses(502, "broke")
    gateway.says({"a": 1})
    waits: list[float] = []
    assert ask(gateway, waits) == {"a": 1}
    assert waits == [7, 60, 8]


@pytest.mark.parametrize("tail", [b"", b'{"error": "an instance broke"}\n'])
def test_an_answer_that_breaks_off_is_asked_for_again(gateway: Gateway, tail: bytes) -> None:
    gateway.says({"a": 1}, tail=tail)
    gateway.says({"a": 2})
    assert ask(gateway) == {"a": 2}


def test_there_is_an_end_to_asking_again(gateway: Gateway) -> None:
    gateway.refuses(503, "nobody has this model now")
    with pytest.raises(GatewayError, match="nobody has this model now"):
        ask(gateway)
    assert len(gateway.requests) == 4


@pytest.mark.parametrize(("status", "error"), [(401, "no key"), (403, "not this model"), (404, "no such model")])
def test_what_another_try_would_not_change_is_said_at_once(gateway: Gateway, status: int, error: str) -> None:
    gateway.refuses(status, error)
    with pytest.raises(GatewayError, match=error):
        ask(gateway)
    assert len(gateway.requests) == 1


@pytest.mark.parametrize("content", ['{"a": ', "Here is your question:"])
def test_what_is_no_json_is_a_broken_answer(gateway: Gateway, content: str) -> None:
    gateway.says(content)
    with pytest.raises(BrokenAnswerError):
        ask(gateway)


def test_an_answer_without_end_is_a_broken_answer(gateway: Gateway) -> None:
    gateway.says({"a": 1}, tail=b'{"message": {"content": ""}, "done": true, "done_reason": "length"}\n')
    with pytest.raises(BrokenAnswerError, match="no end"):
        ask(gateway)


@pytest.mark.parametrize("content", [b"<html>", b"[1]\n"])
def test_another_server_is_no_gateway(gateway: Gateway, content: bytes) -> None:
    gateway.replies.append((200, {}, content))
    with pytest.raises(GatewayError, match="no Ollama API"):
        ask(gateway)


@pytest.mark.parametrize("url", ["flexi.example.edu", "ftp://x", "https://user:secret@x"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(InputError) as refused:
        Chat(url, "m")
    assert "secret" not in str(refused.value)


def test_no_repr_shows_the_key() -> None:
    assert KEY not in repr(Chat("http://x", "m", KEY))


# The command


def run(gateway: Gateway, *arguments: str | Path, **variables: str) -> Result:
    env = {"FLEXI_API_KEY": KEY, "FLEXI_API_URL": gateway.url, **variables}
    # The command raises what the front door prints (flexi.cli.main.main).
    return CliRunner().invoke(questions, [*map(str, arguments), "--model", "m"], env=env)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "Einheit 1: Größen.md"
    path.write_text(TEXT)
    return path


def says_question(gateway: Gateway) -> None:
    gateway.says(GOOD, {"right": [GOOD["right"]]})


def test_what_is_made_is_written_and_told(gateway: Gateway, text: Path) -> None:
    says_question(gateway)
    done = run(gateway, text, "--count", "1")
    assert done.exit_code == EXIT_OK, done.output
    target = text.with_suffix(".questions.xml")
    tree = etree.parse(target)
    assert tree.findtext("question/idnumber") == "einheit-1-groessen"
    assert "1 questions from 1 of 1 sections" in done.stdout
    assert "einheit-1-groessen/einheit-1-groessen-" in done.stdout
    assert "--embed-secret-file" in done.stderr
    assert KEY not in done.output
    assert target.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_fewer_than_wanted_are_written_and_said_plainly(gateway: Gateway, text: Path) -> None:
    says_question(gateway)
    gateway.says({**GOOD, "right": "Die Varianz"})
    done = run(gateway, text, "--count", "2")
    assert done.exit_code == EXIT_FAILED
    assert "1 of 2 questions were made" in done.stderr
    assert "refused 3 times: the right answer is not found in the text" in done.stderr
    assert len(etree.parse(text.with_suffix(".questions.xml")).findall("question")) == 2


def test_none_at_all_leaves_no_file(gateway: Gateway, text: Path) -> None:
    gateway.says({})
    done = run(gateway, text, "--count", "2", "--json")
    assert done.exit_code == EXIT_FAILED
    report = json.loads(done.stdout)
    assert (report["made"], report["wanted"], report["file"]) == (0, 2, None)
    assert list(text.parent.iterdir()) == [text]


def test_a_gateway_that_dies_is_said_and_what_was_made_is_kept(
    gateway: Gateway, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says_question(gateway)
    gateway.refuses(401, "the key has ended")
    done = run(gateway, text, "--count", "2")
    assert done.exit_code == EXIT_FAILED
    assert "stopped early: m at" in done.stderr
    assert "the key has ended" in done.stderr
    assert text.with_suffix(".questions.xml").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--to", "there.xml"), "--overwrite"),
        (("--to", "nowhere/x.xml"), "no file can be made"),
        (("--category-id", "a/b"), "letters, digits"),
        (("--course", "x"), "--bank"),
        (("--key-file", "missing"), "cannot be read"),
        (("--key-file", "two"), "no API key"),
        (("--embed-secret-file", "two"), "no secret"),
        (("--url", "flexi"), "https://"),
    ],
)
def test_wrong_input_is_said_before_anything_is_asked(
    gateway: Gateway, text: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(text.parent)
    Path("there.xml").write_text("mine")
    Path("two").write_text("two words")
    done = run(gateway, text, "--count", "1", *arguments)
    assert isinstance(done.exception, InputError)
    assert done.exception.exit_status == EXIT_BAD_INPUT
    assert words in str(done.exception)
    assert gateway.requests == []
    assert Path("there.xml").read_text() == "mine"


def test_a_text_in_another_language_needs_the_option(gateway: Gateway, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("La médiane est robuste parce que les valeurs extrêmes ne comptent pas. " * 5)
    done = run(gateway, path, "--count", "1")
    assert "--language de" in str(done.exception)
    gateway.says({})
    assert run(gateway, path, "--count", "1", "--language", "en").exit_code == EXIT_FAILED


def test_an_interrupted_write_leaves_the_old_file(
    gateway: Gateway, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = text.with_suffix(".questions.xml")
    target.write_text("old")
    says_question(gateway)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    done = run(gateway, text, "--count", "1", "--overwrite")
    assert "No space left" in str(done.exception)
    assert target.read_text() == "old"
    assert sorted(text.parent.iterdir()) == sorted([text, target])
