"""Consumers: who may do what, how much of it, and keys that change under streams."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
from lab_site import Figure, Site, access_log, flexi, until

from flexi.keys.gateways import tell
from flexi.keys.store import KeysStore
from flexi.site import load_site
from flexi.site.consumers import Consumer, Grant
from flexi.site.keys import consumers

MODEL = "phi3:3.8b"
SLOW = "command-r-plus:104b"
"""Five tokens a second, two answers at once."""
OTHER = "gemma:7b"
"""Of the lab, and not of its class `course`."""
ORIGIN = "https://moodle.lab.test"


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.text)
        return found

    @property
    def error(self) -> str:
        """What went wrong, in the dialect of Ollama."""
        return str(self.json["error"])


def connection(site: Site) -> http.client.HTTPConnection:
    address = urlsplit(site.url)
    assert address.hostname
    return http.client.HTTPConnection(address.hostname, address.port or 80, timeout=120)


def ask(
    site: Site, key: str | None, path: str, body: object = None, method: str | None = None, **headers: str
) -> Reply:
    """One request; keywords are headers, with `_` for `-`."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if key is not None:
        sent["Authorization"] = f"Bearer {key}"
    asked = connection(site)
    asked.request(method or ("POST" if body is not None else "GET"), path, json.dumps(body) if body else None, sent)
    answer = asked.getresponse()
    found = Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode())
    asked.close()
    return found


def short(model: str = MODEL, tokens: int = 1) -> dict[str, object]:
    return {"model": model, "prompt": "x", "stream": False, "options": {"num_predict": tokens}}


class Stream:
    """An answer of `SLOW` that is being written."""

    def __init__(self, site: Site, key: str, tokens: int) -> None:
        body = {"model": SLOW, "prompt": "x", "options": {"num_predict": tokens}}
        self._connection = connection(site)
        self._connection.request("POST", "/api/generate", json.dumps(body), {"Authorization": f"Bearer {key}"})
        self._answer = self._connection.getresponse()
        self.status = self._answer.status
        self._first = self._answer.readline()

    def until(self, moment: float) -> list[dict[str, object]]:
        """What has not been read, up to the first token that the instance made after that time.time()."""
        lines = [json.loads(self._first)]
        while not lines[-1]["done"] and datetime.fromisoformat(lines[-1]["created_at"]).timestamp() <= moment:
            lines.append(json.loads(self._answer.readline()))
        self.close()
        return lines

    def close(self) -> None:
        self._answer.close()
        self._connection.close()


def keys(site: Site, *arguments: str) -> str:
    """Standard output of `flexi keys`."""
    done = flexi("keys", arguments[0], str(site.file), *arguments[1:])
    assert done.status == 0, done.text
    return done.stdout.strip()


def fresh() -> str:
    """A consumer's name that nothing was counted for yet."""
    return f"test-{secrets.token_hex(4)}"


def change(site: Site, what: Callable[[KeysStore], Any]) -> Any:
    """As `flexi keys` does it, without a process of its own."""
    with KeysStore(load_site(site.file)) as store:
        result = what(store)
        assert all(told.known for told in tell(site.plan, consumers(store.entries)))
    return result


@pytest.fixture(scope="module", autouse=True)
def as_found(site: Site) -> Iterator[None]:
    """The lab's own consumers are those that it had."""
    before = {entry.name for entry in load_site(site.file).entries}
    yield
    change(site, lambda store: store.revoke([entry.name for entry in store.entries if entry.name not in before]))


@pytest.fixture
def course(site: Site) -> str:
    """The key of a new consumer of the class `course`."""
    return str(change(site, lambda store: store.add(fresh(), "course", owner="Ada", purpose="a test")))


def haproxy_workers(site: Site) -> str:
    return site.ssh("gateway", "pgrep -x haproxy").stdout


def test_keys_change_within_seconds_and_no_stream_notices(site: Site, figure: Figure) -> None:
    name = fresh()
    workers = haproxy_workers(site)
    start = time.monotonic()
    key = keys(site, "add", name)
    until(lambda: ask(site, key, "/api/tags").status == 200, 5, "the key is good")
    added = time.monotonic() - start
    stream = Stream(site, key, 1200)
    start = time.monotonic()
    new = keys(site, "rotate", name, "--keep-old", "1d")
    assert [ask(site, good, "/api/tags").status for good in (key, new)] == [200, 200]
    newest = keys(site, "rotate", name)
    assert [ask(site, ended, "/api/tags").status for ended in (key, new)] == [401, 401]
    keys(site, "revoke", name)
    until(lambda: ask(site, newest, "/api/tags").status == 401, 5, "the key is good no more")
    changed = (time.monotonic() - start) / 3
    lines = stream.until(time.time() + 1)
    assert not lines[-1]["done"], "the answer was over before the last change"
    assert haproxy_workers(site) == workers, "HAProxy was reloaded"
    figure(f"a new key was good {added:.1f} s after its command began, a change took {changed:.1f} s")


def test_what_was_told_stays_and_a_deploy_changes_nothing(site: Site, course: str) -> None:
    done = site.pyinfra("-y", "--json", "--limit", "gateway")
    assert done.status == 0, done.text[-4000:]
    assert [op["name"] for op in json.loads(done.stdout)["results"]["operations"] if op["success"]] == []
    assert ask(site, course, "/api/tags").status == 200
    known = site.ssh("gateway", "sudo cat /etc/haproxy/flexi/keys.map").stdout
    assert hashlib.sha256(course.encode()).hexdigest() in known
    assert course not in known
    assert "Ada" not in known


def test_a_key_ends_by_itself(site: Site) -> None:
    """The gateway's clock decides; nobody acts."""
    plan, key = site.plan, secrets.token_urlsafe(32)
    clock = int(site.ssh("gateway", "date +%s").stdout)
    grant = Grant(sha256=hashlib.sha256(key.encode()).hexdigest(), expires=clock + 8)
    consumer = Consumer(name=fresh(), class_name="default", grants=(grant,))
    assert all(told.known for told in tell(plan, (*plan.gateway.consumers, consumer)))
    assert ask(site, key, "/api/tags").status == 200
    until(lambda: ask(site, key, "/api/tags").status == 401, 15, "the key has ended")
    assert "has ended" in ask(site, key, "/api/tags").error
    assert all(told.known for told in tell(plan, plan.gateway.consumers))


def test_a_key_comes_in_every_way_that_clients_send_it(site: Site) -> None:
    basic = base64.b64encode(f"moodle:{site.key}".encode()).decode()
    for headers in (
        {"Authorization": f"Bearer {site.key}"},
        {"Authorization": f"bearer  {site.key}"},
        {"x_api_key": site.key},
        {"Authorization": f"Basic {basic}"},
    ):
        assert ask(site, None, "/api/generate", short(), **headers).status == 200, headers.keys()
    wrong = base64.b64encode(b"moodle:wrong").decode()
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {wrong}"},
        {"Authorization": "Basic !"},
        {"Authorization": f"Digest {site.key}"},
        {"Authorization": site.key},
        {"x_api_key": ""},
        {"Authorization": f"Bearer {hashlib.sha256(site.key.encode()).hexdigest()}"},
    ):
        reply = ask(site, None, "/api/generate", short(), **headers)
        assert reply.status == 401, headers
        assert "Authorization: Bearer" in reply.error
        assert "www-authenticate" in reply.headers
    openai = ask(site, "wrong", "/v1/chat/completions", short())
    error = openai.json["error"]
    assert isinstance(error, dict)
    assert (error["code"], bool(error["message"])) == ("invalid_api_key", True)
    anthropic = ask(site, "wrong", "/v1/messages", short())
    assert anthropic.status == 401
    assert anthropic.json["type"] == "error", "as Ollama's anthropic/anthropic.go has it"


def test_a_class_has_its_models_and_networks(site: Site, course: str) -> None:
    assert ask(site, course, "/api/generate", short()).status == 200
    for headers in ({}, {"X_Flexi_Class": "default"}, {"X_Flexi_Consumer": "lab", "X-FLEXI-CLASS": "default"}):
        reply = ask(site, course, "/api/generate", short(OTHER), **headers)
        assert reply.status == 403, reply.text
        assert MODEL in reply.error, "what it may use is said"
    key = change(site, lambda store: store.add(fresh(), "elsewhere"))
    reply = ask(site, key, "/api/tags")
    assert reply.status == 403
    assert "address" in reply.error


QUESTION = [{"role": "user", "content": "x"}]
WRITERS: dict[str, tuple[dict[str, object], tuple[dict[str, object], ...]]] = {
    "/api/generate": ({"prompt": "x", "stream": False}, ({}, {"options": {"num_predict": -1}}, {"options": None})),
    "/api/chat": ({"messages": QUESTION, "stream": False}, ({}, {"options": {"NUM_PREDICT": -2, "num_predict": 0}})),
    "/v1/chat/completions": ({"messages": QUESTION}, ({}, {"max_completion_tokens": 9999}, {"max_tokens": None})),
    "/v1/completions": ({"prompt": "x"}, ({}, {"max_to\u212aens": 1e9})),
    "/v1/responses": ({"input": "x"}, ({}, {"max_output_tokens": 0})),
    "/v1/messages": ({"messages": QUESTION}, ({"max_tokens": 9999},)),
}
"""What writes an answer at each endpoint, and ways to bound it by nothing or too much."""


def answer_tokens(reply: Reply) -> object:
    usage = reply.json.get("usage", reply.json)
    assert isinstance(usage, dict)
    names = ("eval_count", "completion_tokens", "output_tokens")
    return next(usage[name] for name in names if name in usage)


def test_no_answer_is_longer_than_its_class_allows(site: Site) -> None:
    """And the ledger counts what the client was told."""
    brief = site.plan.gateway.classes[[rules.name for rules in site.plan.gateway.classes].index("brief")]
    most = brief.max_answer_tokens
    key = str(change(site, lambda store: store.add(fresh(), "brief", owner="Ada", purpose="a test")))
    counted: dict[str, int] = {}
    for path, (question, ways) in WRITERS.items():
        for way in ways:
            reply = ask(site, key, path, {"model": MODEL, **question, **way})
            assert (reply.status, answer_tokens(reply)) == (200, most), (path, way, reply.text[:300])
            assert reply.headers["x-answer-limit"] == str(most), (path, way)
            counted[reply.headers["x-request-id"]] = most
    small = ask(site, key, "/v1/chat/completions", {"model": MODEL, "messages": QUESTION, "max_completion_tokens": 4})
    assert (answer_tokens(small), "x-answer-limit" in small.headers) == (4, False)
    counted[small.headers["x-request-id"]] = 4

    def in_the_log() -> bool:
        found = {line["id"]: line["answer_tokens"] for line in access_log(site)}
        return {name: found.get(name) for name in counted} == counted

    until(in_the_log, 20, f"the access log has {counted}")


def test_what_a_class_may_do_in_a_day_is_counted(site: Site, course: str) -> None:
    """9 requests a day in the lab's `course`; what is refused and the lists do not count."""
    for number in range(1, 10):
        reply = ask(site, course, "/api/generate", short())
        assert reply.status == 200, reply.text
        left = [reply.headers[f"x-ratelimit-remaining{of}"] for of in ("", "-day")]
        assert left == [str(9 - number)] * 2
        assert reply.headers["x-ratelimit-limit-day"] == "9"
        assert ask(site, course, "/api/tags").status == 200
    for path, dialect in (("/api/chat", str), ("/v1/chat/completions", dict)):
        reply = ask(site, course, path, {"model": MODEL, "messages": []})
        assert reply.status == 429
        assert isinstance(reply.json["error"], dialect)
        # To midnight UTC, the test's clock and the gateway's being the same machine's.
        assert abs(int(reply.headers["retry-after"]) - (86400 - time.time() % 86400)) < 10
    assert ask(site, site.key, "/api/generate", short()).status == 200, "another consumer is not concerned"


def test_a_large_answer_has_room_for_the_headers(site: Site, course: str) -> None:
    """HAProxy keeps so many bytes of its buffer for them, and answers with a 500 where they are too few."""
    body = {"model": "nomic-embed-text", "input": [f"text {number}" for number in range(20)]}
    reply = ask(site, course, "/api/embed", body, Origin=ORIGIN)
    assert reply.status == 200
    assert len(reply.text) > 32_000, "more than its buffer holds"
    for of in ("-minute", "-hour", "-day", ""):
        assert {f"x-ratelimit-{what}{of}" for what in ("limit", "remaining", "reset")} <= reply.headers.keys()
    assert reply.headers["x-ratelimit-limit"] == "9", "the limit that is nearest"


def test_requests_at_once_are_bounded_and_a_place_comes_back(site: Site, course: str) -> None:
    with ExitStack() as open_streams:
        streams = [Stream(site, course, 150) for _ in range(2)]
        for stream in streams:
            open_streams.callback(stream.close)
        assert [stream.status for stream in streams] == [200, 200]
        reply = ask(site, course, "/api/generate", short())
        assert reply.status == 429
        assert "2 requests at once" in reply.error
        assert int(reply.headers["retry-after"]) > 0
        streams[0].close()
        until(lambda: ask(site, course, "/api/generate", short()).status == 200, 5, "a place for the one that left")


def test_without_a_key_there_is_what_the_site_allows(site: Site) -> None:
    assert ask(site, None, "/api/tags").status == 200
    assert ask(site, None, "/api/version").status == 200
    shown = ask(site, None, "/api/show", {"model": MODEL})
    assert shown.status == 200
    assert "details" in shown.json
    assert ask(site, None, "/api/tags", method="HEAD").status == 200
    for path, body in (("/api/ps", None), ("/v1/models", None), ("/api/generate", short()), ("/api/embed", short())):
        assert ask(site, None, path, body).status == 401
    assert ask(site, "wrong", "/api/tags").status == 401, "a key that is sent must be good"


def test_pages_of_the_sites_origins_and_no_others(site: Site) -> None:
    wanted = "authorization, x-stainless-os"
    preflight = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": wanted}
    reply = ask(site, None, "/api/chat", method="OPTIONS", Origin=ORIGIN, **preflight)
    assert reply.status == 204
    assert reply.headers["access-control-allow-origin"] == ORIGIN
    assert reply.headers["access-control-allow-headers"] == wanted
    assert "POST" in reply.headers["access-control-allow-methods"]
    reply = ask(site, site.key, "/api/generate", short(), Origin=ORIGIN)
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, ORIGIN)
    assert ask(site, "wrong", "/api/tags", Origin=ORIGIN).headers["access-control-allow-origin"] == ORIGIN
    for origin in ("https://evil.example", "null", f"{ORIGIN}.evil.example", "http://moodle.lab.test"):
        for reply in (
            ask(site, None, "/api/tags", Origin=origin),
            ask(site, None, "/api/chat", method="OPTIONS", Origin=origin, **preflight),
        ):
            assert reply.status in (200, 204)
            assert not [header for header in reply.headers if header.startswith("access-control-")], origin
    plain = ask(site, None, "/api/chat", method="OPTIONS")
    assert (plain.status, plain.headers["allow"]) == (204, "POST, OPTIONS")


def test_no_answer_shows_what_is_behind(site: Site) -> None:
    behind = {instance.group for instance in site.plan.instances} | {host.name for host in site.plan.hosts}
    replies = [
        ask(site, site.key, "/api/generate", short()),
        ask(site, None, "/api/show", {"model": MODEL}),
        ask(site, site.key, "/api/generate", short("nosuch")),
        ask(site, site.key, "/api/tags"),
    ]
    for reply in replies:
        assert reply.headers["x-request-id"]
        assert not [header for header in reply.headers if header.startswith("x-flexi")]
        assert not behind & set(reply.headers.values())
