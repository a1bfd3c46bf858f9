"""What the gateway remembers of its users: every request once, and never a word of theirs."""

from __future__ import annotations

import json
import secrets
import socket
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
from lab_site import Figure, Site, access_log, flexi, run, until
from load import Load

MACHINES = ("gateway", "server-a", "server-b")
CONSUMER = "lab"
"""Whose key the lab's site file has."""


@dataclass
class Totals:
    """What `flexi usage` says of the lab's consumer and one model."""

    requests: int
    left: int
    refused: int
    answer_tokens: int


def totals(site: Site, model: str | None) -> Totals:
    done = flexi("usage", str(site.file), "--since", "2d", "--json")
    assert done.status == 0, done.text
    rows = json.loads(done.stdout)["rows"]
    row = next((row for row in rows if (row["consumer"], row["model"]) == (CONSUMER, model)), None)
    return Totals(*(row[name] if row else 0 for name in ("requests", "left", "refused", "answer_tokens")))


def quick_model(site: Site) -> str:
    models = [model for instance in site.plan.instances for model in instance.models if not model.embedding]
    return max(models, key=lambda model: model.tokens_per_second or 0.0).name


def generate(site: Site, model: str, tokens: int, prompt: str = "x") -> dict[str, Any]:
    """A whole answer, not streamed. Several threads may ask."""
    body = {"model": model, "prompt": prompt, "stream": False, "options": {"num_predict": tokens}}
    headers = {"Authorization": f"Bearer {site.key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{site.url}/api/generate", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def leave_early(site: Site, model: str, prompt: str = "x") -> None:
    """Ask for a long answer and go away after its first bytes."""
    body = json.dumps({"model": model, "prompt": prompt, "options": {"num_predict": 2000}}).encode()
    parts = urlsplit(site.url)
    head = f"POST /api/generate HTTP/1.1\r\nHost: {parts.hostname}\r\nAuthorization: Bearer {site.key}\r\n"
    with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=30) as connection:
        connection.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_every_request_is_counted_once_also_while_the_ledger_restarts(site: Site, figure: Figure) -> None:
    model = quick_model(site)
    before = totals(site, model)
    stop = threading.Event()

    def ask() -> tuple[int, int]:
        asked = tokens = 0
        while not stop.is_set():
            tokens += generate(site, model, 3)["eval_count"]
            asked += 1
        return asked, tokens

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(ask) for _ in range(4)]
        for command in ("restart", "restart", "stop", "start", "restart"):
            done = site.ssh("gateway", f"sudo systemctl {command} flexi-ledger.service")
            assert done.status == 0, done.text
        stop.set()
        results = [client.result() for client in clients]
    asked, tokens = (sum(column) for column in zip(*results, strict=True))
    assert asked > 4

    def counted() -> bool:
        now = totals(site, model)
        return (now.requests - before.requests, now.answer_tokens - before.answer_tokens) == (asked, tokens)

    until(counted, 30, f"{asked} requests with {tokens} tokens are counted: {totals(site, model)} after {before}")
    figure(f"ledger: {asked} requests over five restarts, each counted once, {tokens} tokens to the last")


def test_a_client_that_leaves_is_told_from_one_that_was_answered(site: Site) -> None:
    model = quick_model(site)
    before = totals(site, model)
    leave_early(site, model)
    until(lambda: totals(site, model).left == before.left + 1, 30, "the client that left is counted as such")


def test_a_line_has_what_an_admin_needs_and_no_whole_address(site: Site) -> None:
    model = quick_model(site)
    known = {line["id"] for line in access_log(site)}
    answer = generate(site, model, 4)

    def line() -> dict[str, Any] | None:
        new = [line for line in access_log(site) if line["id"] not in known]
        found = [line for line in new if line["answer_tokens"] == answer["eval_count"] == 4]
        return found[-1] if found and found[-1]["address"] else None

    until(line, 20, "the request is in the access log")
    found = line()
    assert found is not None
    assert (found["consumer"], found["model"], found["status"], found["end"]) == (CONSUMER, model, 200, "done")
    assert found["prompt_tokens"] == answer["prompt_eval_count"]
    host, _, group = found["server"].partition("/")
    assert group in {instance.group for instance in site.plan.instances if instance.host == host}
    assert found["total_ms"] >= answer["total_duration"] / 1e6
    assert found["address"].endswith(".0")


def test_status_says_who_uses_what_now(site: Site) -> None:
    model = quick_model(site)

    def in_use() -> bool:
        [gateway] = json.loads(flexi("status", str(site.file), "--json").stdout)["gateways"]
        assert gateway["error"] is None
        return any((one["consumer"], one["model"]) == (CONSUMER, model) for one in gateway["using"])

    with Load(site.url, site.key, model, tokens=200):
        until(in_use, 60, "status says that the consumer uses the model")
    rows = flexi("status", str(site.file)).stdout.splitlines()
    [row] = [row for row in rows if row.split()[:2] == [CONSUMER, model]]
    assert int(row.split()[3].replace(",", "")) >= 1, "what has just ended stands in the last minutes"


def test_usage_comes_as_a_table_and_for_a_spreadsheet(site: Site) -> None:
    table = flexi("usage", str(site.file), "--since", "1d", "--by", "consumer")
    assert table.status == 0
    assert CONSUMER in table.stdout
    lines = flexi("usage", str(site.file), "--since", "1d", "--by", "model", "--csv").stdout.splitlines()
    assert lines[0].startswith("model,requests,")
    assert any(line.startswith(f"{quick_model(site)},") for line in lines)
    assert flexi("usage", str(site.file), "--since", "soon").status == 2


def test_the_figures_are_on_loopback_alone(site: Site) -> None:
    gateway = site.plan.gateway
    local = site.ssh("gateway", f"curl -sS http://127.0.0.1:{gateway.ledger.port}/metrics").stdout
    assert f'flexi_gateway_requests_total{{consumer="{CONSUMER}"' in local
    away = site.ssh("server-a", f"curl -sS -m 3 http://{gateway.address}:{gateway.ledger.port}/metrics")
    assert away.status != 0


# -- privacy ----------------------------------------------------------------------------------------------------------

SEARCH = """
import json, os, stat, subprocess
words, since = {words!r}, {since!r}
found = {{word: [] for word in words}}
def look(chunks, name):
    rest = b""
    for chunk in chunks:
        for word in words:
            if word.encode() in rest + chunk and name not in found[word]:
                found[word].append(name)
        rest = chunk[-1000:]
for top, directories, files in os.walk("/"):
    if top == "/":
        directories[:] = [name for name in directories if name not in ("proc", "sys")]
    for path in (os.path.join(top, name) for name in files):
        try:
            seen = os.lstat(path)
            if stat.S_ISREG(seen.st_mode) and max(seen.st_mtime, seen.st_ctime) >= since:
                with open(path, "rb") as file:
                    look(iter(lambda: file.read(1 << 20), b""), path)
        except FileNotFoundError:
            pass
journal = ["journalctl", "-q", "-o", "json", "--all", "--no-pager", "--since", "@%d" % since]
with subprocess.Popen(journal, stdout=subprocess.PIPE) as reader:
    look(iter(lambda: reader.stdout.read(1 << 20), b""), "the journal")
print(json.dumps(found))
"""
"""Every file that was written since, and every field of the journal, which compresses what is long. The script comes on
standard input: in an argument, sudo would write the words to the journal itself."""


def everywhere(site: Site, words: list[str], since: int) -> dict[str, dict[str, list[str]]]:
    """For each machine and word, where it is."""

    def search(machine: str) -> dict[str, list[str]]:
        script = SEARCH.format(words=words, since=since)
        done = site.ssh(machine, "sudo python3 -", timeout_s=300, stdin=script)
        assert done.status == 0, done.text
        found: dict[str, list[str]] = json.loads(done.stdout)
        return found

    with ThreadPoolExecutor(len(MACHINES)) as pool:
        return dict(zip(MACHINES, pool.map(search, MACHINES), strict=True))


WAYS = 14


def put_everywhere(site: Site, word: str, canary: str) -> str:
    """Say `canary` in every way that a client can; the answer of the model that was asked for it."""
    model = quick_model(site)
    chat = {"model": model, "messages": [{"role": "user", "content": canary}], "options": {"num_predict": 40}}
    answer = generate(site, model, 40, prompt=canary)["response"]
    assert site.curl("/api/chat", chat)[0] == 200
    assert site.curl("/v1/chat/completions", {**chat, "stream": True, "max_tokens": 5})[0] == 200
    embedding = next(m.name for i in site.plan.instances for m in i.models if m.embedding)
    assert site.curl("/api/embed", {"model": embedding, "input": canary})[0] == 200
    leave_early(site, model, prompt=canary)
    # In the wrong place, and in what is refused.
    assert site.curl("/api/generate", {"model": canary, "prompt": canary})[0] == 404
    assert site.curl("/api/chat", {"model": model, "messages": canary})[0] >= 400
    assert site.curl(f"/api/{word}?{word}", {"prompt": canary})[0] == 404
    assert site.curl(f"/v1/models/{word}")[0] == 404
    assert site.curl("/api/generate", None, "-d", '{"model": "' + canary)[0] == 400
    assert site.curl("/api/tags", None, "-X", word)[0] >= 400
    assert site.curl("/api/tags", None, "-H", f"Authorization: Basic {word}")[0] == 401
    assert site.curl("/api/tags", None, "-H", f"X-Flexi-Consumer: {word}", "-A", canary)[0] == 200
    large = {"model": model, "prompt": canary * 4000, "stream": False, "options": {"num_predict": 1}}
    options = ["-o", "/dev/null", "-w", "%{http_code}", "-H", f"@{site.key_header}", "--data-binary", "@-"]
    done = run(["curl", "-sS", *options, f"{site.url}/api/generate"], stdin=json.dumps(large))
    assert done.stdout == "200", done.text
    return str(answer)


def test_no_process_that_prompts_pass_through_may_leave_a_core(site: Site) -> None:
    """With a limit of 1 the kernel writes no file and starts no program (do_coredump in fs/coredump.c)."""
    units = {"gateway": ["haproxy.service", "flexi-guard.service"]}
    units |= {host.name: [i.unit for i in host.ollama.instances] for host in site.plan.hosts if host.ollama}
    for machine, names in units.items():
        for name in names:
            main = f"main=$(systemctl show -p MainPID --value {name})"
            limits = f"{main}; for pid in $main $(pgrep -P $main); do grep core /proc/$pid/limits; done"
            found = site.ssh(machine, f"sudo sh -c '{limits}'").stdout.splitlines()
            assert found, f"{name} has no process"
            assert {tuple(line.split()[4:6]) for line in found} == {("1", "1")}, name


CONTROL = "/var/lib/flexi-control"


@pytest.fixture
def control(site: Site) -> Iterator[str]:
    """A word that is in a file and in the journal of every machine: what a search must find."""
    word = f"control-{secrets.token_hex(8)}"
    for machine in MACHINES:
        done = site.ssh(machine, f"sudo sh -c 'cat >{CONTROL}; systemd-cat cat {CONTROL}'", stdin=word)
        assert done.status == 0, done.text
    yield word
    for machine in MACHINES:
        site.ssh(machine, f"sudo rm -f {CONTROL}")


def test_a_prompt_is_nowhere_on_any_disk(site: Site, figure: Figure, request: pytest.FixtureRequest) -> None:
    """Neither is an answer. The gateway's processes and an instance crash at the end of it, too."""
    since = min(int(site.ssh(machine, "date +%s").stdout) for machine in MACHINES)
    known = str(request.getfixturevalue("control"))
    word = f"canary-{secrets.token_hex(8)}"
    answer = put_everywhere(site, word, f"my secret {word} and what follows")
    words = answer.split()
    piece = " ".join(words[len(words) // 2 :][:8])
    assert len(piece) > 20, f"no answer that could be recognized: {answer!r}"
    host = next(host for host in site.plan.hosts if host.ollama)
    assert host.ollama is not None
    for machine, units in (("gateway", "flexi-guard haproxy"), (host.name, host.ollama.instances[0].unit)):
        crashed = site.ssh(machine, f"sudo systemctl kill --signal=SEGV {units}")
        assert crashed.status == 0, crashed.text
    until(lambda: site.answers(quick_model(site)), 120, "the gateway and its instances are back")
    until(lambda: flexi("status", str(site.file), "--quick").status == 0, 180, "every model is ready again")
    found = everywhere(site, [known, word, piece], since)
    for machine in MACHINES:
        assert {CONTROL, "the journal"} <= set(found[machine][known]), "the search is blind"
        assert found[machine][word] == []
        assert found[machine][piece] == []
    figure(f"privacy: a prompt in {WAYS} kinds of requests and {len(words)} words of an answer: in no file, no journal")
