"""What the guard lets through, on the machines: routing, what reaches an instance, places that get free, reloads."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import gone
import pytest
from fuzz.wire import Response, parse
from lab_site import Figure, Site, access_log, until

NARROW = "phi3:3.8b"
"""Answers one at a time in the lab's site (`parallel: 1`), at 127 tokens a second."""
LONG = 2000


def connected(site: Site) -> http.client.HTTPConnection:
    parts = urlsplit(site.url)
    return http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=60)


def asked(site: Site, body: dict[str, Any], path: str = "/api/generate") -> http.client.HTTPConnection:
    """A request that was sent; its answer is not waited for."""
    connection = connected(site)
    headers = {"Authorization": f"Bearer {site.key}", "Content-Type": "application/json"}
    connection.request("POST", path, json.dumps(body), headers)
    return connection


@contextmanager
def busy(site: Site, model: str = NARROW) -> Iterator[http.client.HTTPResponse]:
    """A long answer of a model with one place, whose first token has come."""
    connection = asked(site, {"model": model, "prompt": "x", "options": {"num_predict": LONG}})
    try:
        response = connection.getresponse()
        assert response.status == 200
        assert response.readline()
        yield response
    finally:
        connection.close()


def short(site: Site) -> dict[str, Any]:
    """One token of the narrow model."""
    body = {"model": NARROW, "prompt": "x", "stream": False, "options": {"num_predict": 1}}
    status, text = site.curl("/api/generate", body)
    assert status == 200, text
    found: dict[str, Any] = json.loads(text)
    return found


def loaded(site: Site) -> dict[str, list[tuple[str, str, int]]]:
    """What each instance has in memory, by host: model, until when, context."""
    found = {}
    for instance in site.plan.instances:
        text = site.ssh(instance.host, f"curl -sS http://127.0.0.1:{instance.port}/api/ps").stdout
        found[instance.group] = sorted(
            (m["name"], m["expires_at"][:4], m["context_length"]) for m in json.loads(text)["models"]
        )
    return found


def posted(site: Site, path: str, body: str, *options: str) -> tuple[str, str]:
    """Status and body; what is sent is too large for an argument."""
    argv = ["curl", "-sS", "-m", "60", "-w", "\n%{http_code}", "-H", f"@{site.key_header}", *options]
    argv += ["--data-binary", "@-", site.url + path]
    done = subprocess.run(argv, input=body, capture_output=True, text=True, check=True)
    answer, _, status = done.stdout.rpartition("\n")
    return status, answer


def broken_chunk(site: Site, path: str) -> Response:
    """The answer to a body that is no chunk, behind a head that was taken."""
    parts = urlsplit(site.url)
    head = f"POST {path} HTTP/1.1\r\nHost: flexi\r\nAuthorization: Bearer {site.key}\r\nTransfer-Encoding: chunked\r\n"
    with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=20) as connection:
        connection.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n")
        told = connection.recv(1000)
        assert b" 100 " in told, told
        connection.sendall(b"no chunk\r\n")
        data = b""
        while piece := connection.recv(65536):
            data += piece
    (response,) = parse(data)
    return response


def test_what_haproxy_itself_has_to_say_is_json_in_the_dialect_of_the_path(site: Site) -> None:
    """Shapes as in Ollama 0.24.0: server/routes.go, openai/openai.go, anthropic/anthropic.go."""
    found = {path: broken_chunk(site, path) for path in ("/api/chat", "/v1/chat/completions", "/v1/messages")}
    assert {response.status for response in found.values()} == {400}
    errors = {path: json.loads(response.body) for path, response in found.items()}
    assert "not understood" in errors["/api/chat"]["error"]
    assert errors["/v1/chat/completions"]["error"]["code"] == "bad_request"
    assert errors["/v1/messages"]["type"] == "error"
    status, text = site.curl("/", None, "-X", "OPTIONS", "--request-target", "*")
    assert status == 404
    assert "nothing at this path" in json.loads(text)["error"]


def test_a_list_without_the_catalogue_is_an_error_in_json(site: Site) -> None:
    site.ssh("gateway", "sudo systemctl stop flexi-catalogue")
    try:
        answers = {path: site.curl(path) for path in ("/api/tags", "/v1/models")}
    finally:
        site.ssh("gateway", "sudo systemctl start flexi-catalogue")
    assert {status for status, _ in answers.values()} == {503}
    assert "try again" in json.loads(answers["/api/tags"][1])["error"]
    assert json.loads(answers["/v1/models"][1])["error"]["code"] == "gateway_down"
    until(lambda: site.curl("/api/tags")[0] == 200, 20, "the catalogue is back")


@pytest.mark.parametrize("framing", ["length", "chunked", "expect"])
def test_large_requests_with_the_model_last_are_routed(site: Site, framing: str) -> None:
    """As openai-python 1 and 2 write them, with an image of 3 MB in base64: far behind HAProxy's buffer."""
    content = json.dumps([{"role": "user", "content": "x", "images": ["A" * 4_000_000]}])
    body = f'{{"messages": {content}, "stream": false, "options": {{"num_predict": 1}}, "model": "{NARROW}"}}'
    options = {
        "length": ["-H", "Expect:"],
        "chunked": ["-H", "Transfer-Encoding: chunked", "-H", "Expect:"],
        "expect": ["-H", "Expect: 100-continue"],
    }[framing]
    done = subprocess.run(
        [
            "curl",
            "-sS",
            "-m",
            "60",
            "-w",
            "\n%{http_code}",
            "-H",
            f"@{site.key_header}",
            *options,
            "--data-binary",
            "@-",
            f"{site.url}/api/chat",
        ],
        input=body,
        capture_output=True,
        text=True,
        check=True,
    )
    answer, _, status = done.stdout.rpartition("\n")
    assert status == "200", answer
    assert json.loads(answer)["model"] == NARROW


def test_a_body_that_is_too_large_is_refused_in_words(site: Site) -> None:
    body = json.dumps({"model": NARROW, "prompt": "x" * (site.plan.gateway.body_limit_bytes + 1)})
    done = subprocess.run(
        [
            "curl",
            "-sS",
            "-m",
            "60",
            "-w",
            "\n%{http_code}",
            "-H",
            f"@{site.key_header}",
            "--data-binary",
            "@-",
            f"{site.url}/v1/chat/completions",
        ],
        input=body,
        capture_output=True,
        text=True,
        check=True,
    )
    answer, _, status = done.stdout.rpartition("\n")
    assert status == "413"
    assert "32 MiB" in json.loads(answer)["error"]["message"]


BODIES = [
    b'{"model":"%s","MODEL":"mixtral:8x22b"}',
    b'{"model":"%s","model":"mixtral:8x22b"}',
    b'\xef\xbb\xbf{"model":"%s"}',
    b'{"model":"%s"}{"model":"mixtral:8x22b"}',
    b'{"model":"%s","x":NaN}',
    b'{"model":"%s\\u0000"}',
    b'{"model":"%s","options":{"num_ctx":16}, "OPTIONS":{"num_ctx":32}}',
    b'{"x":' + b"[" * 50_000 + b"]" * 50_000 + b',"model":"%s"}',
    '{"model":"%s"}'.encode("utf-16"),
    b'{"model":"mixtral:8x22b@%s"}',
    b'{"model":"../%s"}',
    b'{"model":"%s","keep_alive":0}',
    b'{"model":"%s","\xe2\x84\xaaeep_alive":0}',
    b'{"model":"%s","options":{"num_ctx":999999}}',
]


def test_hostile_bodies_get_a_clear_no_and_move_no_model(site: Site) -> None:
    before = loaded(site)
    for template in BODIES:
        body = template.replace(b"%s", NARROW.encode()).replace("%s".encode("utf-16-le"), NARROW.encode("utf-16-le"))
        connection = connected(site)
        connection.request("POST", "/api/generate", body, {"Authorization": f"Bearer {site.key}"})
        response = connection.getresponse()
        said = response.read()
        assert response.status in (400, 403, 404), (template[:60], said)
        assert json.loads(said)["error"]
        connection.close()
    assert loaded(site) == before


def test_habits_of_clients_do_no_harm(site: Site) -> None:
    """A keep_alive and a num_ctx of a client's own: answered, and nothing is loaded anew or let go."""
    before = loaded(site)
    body = {
        "model": NARROW,
        "prompt": "x",
        "stream": False,
        "keep_alive": "10s",
        "options": {"num_predict": 1, "num_ctx": 2048, "num_gpu": 1, "num_thread": 3, "use_mmap": False},
    }
    status, text = site.curl("/api/generate", body, "-i")
    assert status == 200
    assert "x-ignored-options: keep_alive, options.num_ctx" in text.lower()
    assert json.loads(text.splitlines()[-1])["load_duration"] < 1e9
    assert loaded(site) == before


def test_what_a_model_is_needs_no_place(site: Site) -> None:
    with busy(site):
        status, text = site.curl("/api/show", {"model": NARROW}, timeout_s=5)
        assert status == 200, text
        assert json.loads(text)["details"]


def test_a_client_that_goes_frees_its_place_at_the_instance(site: Site, figure: Figure) -> None:
    with busy(site):
        pass
    start = time.monotonic()
    short(site)
    seconds = time.monotonic() - start
    figure(f"a place was free {seconds:.2f} s after its client had gone")
    assert seconds < 0.25 * LONG / 127, "the answer that nobody reads went on"


def test_a_client_that_goes_leaves_the_queue(site: Site) -> None:
    """Streams, whose answer has not begun."""
    slow = gone.SLOW["/api/generate"]
    with busy(site, slow):
        connections = [asked(site, {"model": slow, "prompt": "x"}) for _ in range(4)]
        until(lambda: gone.under_way(site).waiting == 4, 10, "four wait")
        for connection in connections:
            connection.close()
        until(lambda: gone.under_way(site).waiting == 0, 5, "nobody waits any more")
        assert gone.under_way(site).running == 1


@pytest.mark.parametrize("version", ["1.1", "2"])
def test_for_clients_that_are_gone_nothing_is_worked_out(site: Site, figure: Figure, version: str) -> None:
    """Not streamed, at every path that works something out; each client goes in another way."""
    parts = urlsplit(site.url)
    address = gone.Address(parts.hostname or "", parts.port or 80)
    known = [line["id"] for line in access_log(site)]
    began = site.ssh("server-a", "date '+%F %T.%6N'").stdout.strip()
    asked = gone.ask_at_every_path(address, version, site.key)
    try:
        until(lambda: gone.under_way(site).consumers == len(asked), 10, "all run or wait")
        before = gone.under_way(site)
        gone.leave(asked)
        seconds = gone.nothing_is_left(site)
        wanted = {(path, 499, "client"): gone.AT_EACH_PATH for path in gone.SLOW}
        until(lambda: gone.left(site, known) == wanted, 10, f"the ledger says who left: {gone.left(site, known)}")
    finally:
        for request, _ in asked:
            request.close()
    assert before.running >= len(set(gone.SLOW.values())), before
    assert before.waiting > 0, before
    statuses = gone.answered_by_instances(site, began)
    assert set(statuses) == {499}, statuses
    figure(f"HTTP/{version}: {before.running} ran, {before.waiting} waited, and all were gone {seconds:.1f} s later")


@pytest.mark.parametrize("version", ["1.1", "2"])
def test_a_client_that_goes_in_the_midst_of_its_body_is_not_waited_for(site: Site, version: str) -> None:
    parts = urlsplit(site.url)
    address = gone.Address(parts.hostname or "", parts.port or 80)
    path = "/api/chat"
    body = gone.body(path)
    asked = [(gone.Asked(address, version, path, site.key, body, part=0.5), way) for way in gone.WAYS[version]]
    try:
        until(lambda: gone.under_way(site).consumers == len(asked), 10, "all are there")
        gone.leave(asked)
        gone.nothing_is_left(site)
    finally:
        for request, _ in asked:
            request.close()


def test_a_client_that_closes_its_half_is_told_why_it_gets_nothing(site: Site) -> None:
    """It cannot be told from one that has gone."""
    parts = urlsplit(site.url)
    path = "/v1/chat/completions"
    asked = gone.Asked(gone.Address(parts.hostname or "", parts.port or 80), "1.1", path, site.key, gone.body(path))
    try:
        until(lambda: gone.under_way(site).running == 1, 10, "it runs")
        asked.go("half")
        [response] = parse(asked.first_bytes())
    finally:
        asked.close()
    assert response.status == 400
    assert "half closed" in json.loads(response.body)["error"]["message"]


def test_reloads_under_a_stream_break_nothing(site: Site) -> None:
    """The guard's settings, then its program, then HAProxy: the stream that began before all of them ends well."""
    asking = threading.Event()
    failures: list[str] = []

    def ask() -> None:
        while not asking.is_set():
            status, text = site.curl("/api/show", {"model": NARROW})
            if status != 200:
                failures.append(text)

    other = threading.Thread(target=ask)
    with busy(site) as response:
        other.start()
        reload = "sudo systemctl reload flexi-guard"
        new_program = "sudo cp /opt/flexi/flexi-agent.pyz /tmp/n && sudo mv /tmp/n /opt/flexi/flexi-agent.pyz"
        script = f"{reload} && {reload} && {new_program} && {reload} && sudo systemctl reload haproxy && {reload}"
        done = site.ssh("gateway", script)
        asking.set()
        other.join()
        assert done.status == 0, done.text
        last = response.read().splitlines()[-1]
    assert json.loads(last)["done"] is True
    assert failures == []


def test_a_bad_setting_changes_nothing_and_says_where(site: Site) -> None:
    keep = "sudo cp -p /etc/flexi/guard.json /run/guard.json"
    spoil = 'sudo sed -i \'s/"retries": 2/"retries": "two"/\' /etc/flexi/guard.json'
    back = "sudo mv /run/guard.json /etc/flexi/guard.json"
    try:
        site.ssh("gateway", f"{keep} && {spoil}")
        assert site.ssh("gateway", "sudo systemctl reload flexi-guard").status != 0
        journal = site.ssh("gateway", "sudo journalctl -u flexi-guard -n 5 -o cat --no-pager").stdout
        assert 'guard.json: guard.retries: expected a whole number from 0 to 10, found "two"' in journal
        short(site)
    finally:
        assert site.ssh("gateway", f"{back} && sudo systemctl reload flexi-guard").status == 0
    short(site)


def test_bytes_that_are_no_http_reach_nobody(site: Site) -> None:
    parts = urlsplit(site.url)
    for data in (b"\x16\x03\x01\x02\x00", b"POST /api/chat HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"):
        with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=10) as sock:
            sock.sendall(data + b"\r\n\r\n")
            said = sock.recv(100)
        assert said == b"" or said.startswith(b"HTTP/1.1 400 ")
