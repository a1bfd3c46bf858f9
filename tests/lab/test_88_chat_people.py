"""The chat's people at the gateway: each has a place of their own in the queue, and a bound."""

from __future__ import annotations

import hashlib
import json
import secrets
import statistics
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from urllib.parse import urlsplit

import gone
import pytest
from chat_person import Member, member
from lab_site import Figure, Site, flexi, until

MODEL = "phi3:3.8b"
MAIL = "ada@flexi.lab.test"
WORDS = "laufen oder warten schon"


@pytest.fixture(scope="module")
def student(site: Site) -> Iterator[Member]:
    with member(site) as person:
        yield person


@pytest.fixture(scope="module")
def ada(site: Site) -> Iterator[Member]:
    made = flexi("accounts", "add", str(site.file), MAIL, "--name", "Ada Lovelace", "--json")
    assert made.status == 0, made.text
    with Member(site.env["FLEXI_CHAT_URL"], MAIL, json.loads(made.stdout)["password"]) as person:
        person.agree()
        yield person
    removed = flexi("accounts", "remove", str(site.file), MAIL, "--yes")
    assert removed.status == 0, removed.text


def at_once(site: Site) -> int:
    assert site.plan.gateway.chat
    return site.plan.gateway.chat.person_at_once


def people(site: Site) -> dict[str, int]:
    """What each of the chat's people has under way, by what the gateway knows them by."""
    script = (
        "import socket;s=socket.socket(socket.AF_UNIX);s.connect('/run/haproxy/admin.sock');"
        "s.sendall(b'show table people\\n');print(s.makefile().read())"
    )
    lines = site.ssh("gateway", f'sudo python3 -c "{script}"').stdout.splitlines()
    entries = [dict(word.split("=") for word in line.split() if "=" in word) for line in lines if " key=" in line]
    return {entry["key"]: int(entry["conn_cur"]) for entry in entries}


def ask(person: Member) -> tuple[str, float]:
    """`ok`, or what the answer says, and the seconds that it took. What a browser says of itself has no effect."""
    start = time.monotonic()
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Why?"}], "stream": False}
    answer = person.request("POST", "/api/chat/completions", body, X_Flexi_Person=secrets.token_hex(8))
    return "ok" if answer.status_code == 200 else answer.text, time.monotonic() - start


def test_who_fills_their_places_does_not_delay_another(
    site: Site, student: Member, ada: Member, figure: Figure
) -> None:
    places = at_once(site)
    ours = hashlib.sha256(student.get("/api/v1/auths/")["id"].encode()).hexdigest()
    alone = [ask(ada) for _ in range(2)]
    assert [said for said, _ in alone] == ["ok"] * 2
    service_s = statistics.mean(seconds for _, seconds in alone)
    with ThreadPoolExecutor(places + 4) as pool:
        asked: list[Future[tuple[str, float]]] = [pool.submit(ask, student) for _ in range(places + 4)]
        until(lambda: people(site).get(ours, 0) >= places - 1, 30, "the student's requests fill the places")
        said, seconds = ask(ada)
        behind = sum(not one.done() for one in asked)
        wait(asked)
    outcomes = [one.result()[0] for one in asked]
    assert said == "ok"
    # Last in line, nobody would be behind; the order does not depend on the computer's speed.
    assert behind >= places // 2, f"only {behind} were behind it"
    waited_s = max(0.0, seconds - service_s)
    figure(
        f"in the chat, with {behind} requests of a person waiting behind it, another's one waited {waited_s:.2f} s, "
        f"{waited_s / service_s:.1f} service times of {service_s:.2f} s"
    )
    refused = [outcome for outcome in outcomes if outcome != "ok"]
    figure(f"of {places + 4} requests of one person at once, {places} allowed, {len(refused)} were refused")
    assert refused
    assert all(WORDS in outcome for outcome in refused), refused


SLOW = "dbrx:132b"
"""One place, and more than ten seconds for an answer."""


@pytest.mark.parametrize("way", ["fin", "rst"])
def test_a_program_that_leaves_the_chat_leaves_the_model(site: Site, student: Member, way: str) -> None:
    """The chat's own API, not streamed: the first request runs, the second waits."""
    chat = urlsplit(site.env["FLEXI_CHAT_URL"])
    address = gone.Address(chat.hostname or "", chat.port or 80)
    body = {"model": SLOW, "messages": [{"role": "user", "content": "Why?"}], "stream": False}
    asked = [gone.Asked(address, "1.1", "/api/chat/completions", student.token, body) for _ in range(2)]
    try:
        until(lambda: gone.under_way(site).waiting == 1, 20, "one runs and one waits")
        for request in asked:
            request.go(way)
        gone.nothing_is_left(site)
    finally:
        for request in asked:
            request.close()


def test_the_pages_button_ends_an_answer_and_leaving_the_page_does_not(site: Site, student: Member) -> None:
    """Open WebUI works on for a page that was closed: the answer stands in the chat later."""
    other = gone.Address(urlsplit(site.url).hostname or "", urlsplit(site.url).port or 80)
    ahead = gone.Asked(other, "1.1", "/api/generate", site.key, gone.body("/api/generate"))
    try:
        until(lambda: gone.under_way(site).running == 1, 20, "the place is taken")
        chat = student.write("Why?", SLOW)
        student.ask_as_the_page(SLOW, "Why?", chat)
        # The request that began it is over, as after the page was closed.
        until(lambda: gone.under_way(site).waiting == 1, 20, "the page's question waits")
        student.post(f"/api/tasks/chat/{chat}/stop", {})
        until(lambda: gone.under_way(site).waiting == 0, gone.GONE_WITHIN_S, "nobody waits any more")
        assert gone.under_way(site).running == 1
        ahead.go("fin")
        gone.nothing_is_left(site)
    finally:
        ahead.close()


def test_whose_a_request_is_says_the_chat_alone(site: Site) -> None:
    """Another consumer's header has no effect: as many as it likes may name the same person."""
    count = at_once(site) + 4
    body = json.dumps({"model": MODEL, "prompt": "x", "stream": False, "options": {"num_predict": 20}}).encode()
    headers = {"Authorization": f"Bearer {site.key}", "Content-Type": "application/json", "X-Flexi-Person": "somebody"}

    def generate() -> int:
        request = urllib.request.Request(f"{site.url}/api/generate", body, headers)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return int(answer.status)

    with ThreadPoolExecutor(count) as pool:
        assert [one.result() for one in [pool.submit(generate) for _ in range(count)]] == [200] * count
    assert hashlib.sha256(b"somebody").hexdigest() not in people(site)


def test_who_asked_is_in_no_log(site: Site, student: Member) -> None:
    begin = site.ssh("gateway", "date +%s").stdout.strip()
    assert ask(student)[0] == "ok"
    person = student.get("/api/v1/auths/")
    digest = hashlib.sha256(person["id"].encode()).hexdigest()
    assert digest in people(site), "the gateway knows nobody, so the test shows nothing"
    # Not as an argument: sudo logs those. Open WebUI names who was refused a model; those are older.
    words = "/run/flexi-test-words"
    done = site.ssh(
        "gateway",
        f"sudo sh -c 'cat >{words}; journalctl -q --no-pager -o cat --since=@{begin} | grep -Ff {words}; "
        f"grep -rlFf {words} /var/log /var/lib --exclude-dir=flexi-chat --exclude-dir=journal; rm {words}'",
        stdin=f"{person['id']}\n{digest}\n",
    )
    assert done.stdout == "", done.text
