"""Many at once, and instances that fail under them: who waits, who is served elsewhere, and what nobody notices.

The figures are printed at the end of the run.
"""

from __future__ import annotations

import http.client
import json
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from lab_site import Figure, Site, another, flexi, until
from sites import pair

from flexi.keys.store import KeysStore
from flexi.site import load_site

MODEL = "phi3:3.8b"
CHANGES, RELOADS = 975, 25
"""Together the thousand changes under streams; keys change 39 times between two reloads."""
AVOIDED_S = 5.0
FEW = 16
"""Requests at once of the class `few`."""
ANSWER_S = 120.0


@dataclass
class Elsewhere(Site):
    """The lab's machines as another site file has them."""

    path: Path = Path()

    @property
    def file(self) -> Path:
        return self.path


@pytest.fixture(scope="module")
def crowd(site: Site) -> Iterator[Site]:
    """Both servers with the same models, and consumers who may have many requests at once."""
    ordinary = "name: flexi.pair.test}"
    roomy = f"name: flexi.pair.test, classes: {{default: {{at_once: 1000}}, few: {{at_once: {FEW}}}}}}}"
    assert ordinary in pair()
    path = another(site, pair().replace(ordinary, roomy), "crowd")
    with KeysStore(load_site(path)) as store:
        other, few = store.add("other"), store.add("few", "few")
    done = flexi("deploy", str(path), timeout_s=900)
    assert done.status == 0, done.text[-3000:]
    yield Elsewhere(site.lab, site.env | {"OTHER": other, "FEW": few}, path)
    site.back_to()


# -- asking -----------------------------------------------------------------------------------------------------------


@dataclass
class Asked:
    """One request and what became of it. Times are time.monotonic()'s."""

    start: float
    begun: float | None = None
    """When the answer's first byte was here."""
    end: float | None = None
    outcome: str = "waits"
    """`ok`, or what went wrong."""
    connection: http.client.HTTPConnection | None = field(default=None, repr=False)

    def unanswered(self, moment: float) -> bool:
        """Whether it had been asked and had got nothing by then."""
        return self.start < moment and (self.begun is None or self.begun > moment)


def ask(site: Site, key: str, tokens: int, asked: Asked, *, stream: bool = True) -> None:
    """Ask the model for so many tokens, and write down in `asked` how it went."""
    parts = urlsplit(site.url)
    connection = asked.connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=ANSWER_S)
    body = {"model": MODEL, "prompt": "x", "stream": stream, "options": {"num_predict": tokens}}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    try:
        connection.request("POST", "/api/generate", json.dumps(body), headers)
        response = connection.getresponse()
        asked.begun = time.monotonic()
        lines = response.read().decode().strip().splitlines()
        if response.status != 200:
            asked.outcome = f"status {response.status}: {lines[0][:120] if lines else ''}"
        else:
            asked.outcome = "ok" if json.loads(lines[-1]).get("done") is True else "broken off"
    except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
        asked.outcome = type(error).__name__
    finally:
        asked.end = time.monotonic()
        connection.close()


@dataclass
class Crowd:
    """Clients that ask without a pause until the end of the `with`; every second one does not stream."""

    site: Site
    clients: int
    tokens: int
    asked: list[Asked] = field(default_factory=list)

    def __enter__(self) -> Crowd:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n % 2 == 0,)) for n in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, stream: bool) -> None:
        while not self._stop.is_set():
            asked = Asked(time.monotonic())
            self.asked.append(asked)
            ask(self.site, self.site.key, self.tokens, asked, stream=stream)

    def answered(self, since: float = 0.0) -> int:
        return sum(asked.outcome == "ok" and asked.start >= since for asked in self.asked)


def failures(asked: Sequence[Asked]) -> list[str]:
    return [one.outcome for one in asked if one.outcome != "ok"]


# -- what the gateway says --------------------------------------------------------------------------------------------


def stats(site: Site) -> dict[str, dict[str, str]]:
    """HAProxy's figures of the model's back end, by server (management.txt 2.4, 9.1)."""
    script = (
        "import socket,sys;s=socket.socket(socket.AF_UNIX);s.connect('/run/haproxy/admin.sock');"
        "s.sendall(b'show stat\\n');sys.stdout.write(b''.join(iter(lambda:s.recv(65536),b'')).decode())"
    )
    lines = site.ssh("gateway", f'sudo python3 -c "{script}"').stdout.removeprefix("# ").splitlines()
    names = lines[0].split(",")
    rows = [dict(zip(names, line.split(","), strict=False)) for line in lines[1:] if line]
    backend = next(b for b in site.plan.gateway.backends if b.model == MODEL)
    return {row["svname"]: row for row in rows if row["pxname"] == backend.name}


def waiting(site: Site) -> int:
    return int(stats(site)["BACKEND"]["qcur"])


def running(site: Site) -> int:
    return sum(int(row["scur"]) for name, row in stats(site).items() if name != "BACKEND")


def test_tokens_come_one_by_one(crowd: Site, figure: Figure) -> None:
    """As the instance writes them. HAProxy by itself has the kernel hold them for up to 200 ms, to fill packets
    (configuration.txt 2.4, option http-no-delay): 100 tokens at 127 a second would come in five pieces."""
    body = {"model": MODEL, "prompt": "x", "options": {"num_predict": 100}}
    parts = urlsplit(crowd.url)
    head = f"POST /api/generate HTTP/1.1\r\nHost: {parts.hostname}\r\nAuthorization: Bearer {crowd.key}\r\n"
    text = json.dumps(body)
    pieces = []
    with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=ANSWER_S) as connection:
        connection.sendall(f"{head}Content-Length: {len(text)}\r\nConnection: close\r\n\r\n{text}".encode())
        while piece := connection.recv(65536):
            pieces.append(piece)
    tokens = b"".join(pieces).count(b'"done":false')
    figure(f"a stream of {tokens} tokens came in {len(pieces)} pieces")
    assert tokens == 100
    # A computer with more to do lets some arrive together.
    assert len(pieces) > 30


# -- fairness ---------------------------------------------------------------------------------------------------------


def test_one_with_a_hundred_requests_does_not_delay_another(crowd: Site, figure: Figure) -> None:
    """What waits is served by consumer: the other's one request comes next, whoever has more in the queue."""
    slots = sum(server.max_connections for b in crowd.plan.gateway.backends if b.model == MODEL for server in b.servers)
    tokens = 60
    alone = [Asked(time.monotonic()) for _ in range(3)]
    for asked in alone:
        asked.start = time.monotonic()
        ask(crowd, crowd.env["OTHER"], tokens, asked)
    assert failures(alone) == []
    first_s = statistics.median((asked.begun or 0) - asked.start for asked in alone)

    hundred = [Asked(time.monotonic()) for _ in range(120 + slots)]
    threads = [threading.Thread(target=ask, args=(crowd, crowd.key, tokens, asked)) for asked in hundred]
    for thread in threads:
        thread.start()
    try:
        until(lambda: waiting(crowd) >= 100, 30, "a hundred requests wait at the gateway")
        queue = waiting(crowd)
        one = Asked(time.monotonic())
        ask(crowd, crowd.env["OTHER"], tokens, one)
    finally:
        for asked in hundred:
            if asked.end is None and asked.connection is not None and asked.connection.sock is not None:
                asked.connection.sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
    assert one.outcome == "ok"
    assert one.begun is not None
    services = [asked.end - asked.begun for asked in hundred if asked.outcome == "ok" and asked.end and asked.begun]
    service_s = statistics.median(services)
    waited_s = max(0.0, one.begun - one.start - first_s)
    figure(
        f"fairness: with {queue} requests of another waiting, one request waited {waited_s:.2f} s, "
        f"{waited_s / service_s:.1f} service times of {service_s:.2f} s"
    )
    assert waited_s <= 2 * service_s
    # Whoever was served before it came after the first few of the hundred, which had the instances for themselves.
    assert sum(asked.begun is not None and asked.begun > one.begun for asked in hundred) < len(hundred)
    # Who goes away frees the place at once, in the queue and at the instances.
    seconds = until(lambda: waiting(crowd) == running(crowd) == 0, 10, "the places of those who left are free")
    figure(f"places of {len(hundred) - len(services)} clients that left: free after {seconds:.1f} s")


def test_requests_of_one_consumer_are_served_in_turn(crowd: Site, figure: Figure) -> None:
    """Three times as many clients as places: each waits as long as the others."""
    with Crowd(crowd, clients=12, tokens=30) as clients:
        until(lambda: clients.answered() >= 60, 60, "sixty answers")
    assert failures(clients.asked) == []
    took = [(asked.end or 0) - asked.start for asked in clients.asked[12:]]
    median = statistics.median(took)
    figure(f"12 clients on 4 places: the longest of {len(took)} took {max(took):.1f} s, half of them {median:.1f} s")
    assert max(took) <= 2 * median


# -- as many as are allowed -------------------------------------------------------------------------------------------


def test_who_asks_again_with_the_answer_has_the_place_of_the_request_before(crowd: Site, figure: Figure) -> None:
    """As many clients as the class allows at once, each on a new connection as soon as its answer is whole. HAProxy by
    itself frees a place a moment later, and refuses some (3 in 1000 on a machine that is busy)."""
    few = Site(crowd.lab, crowd.env | {"FLEXI_API_KEY": crowd.env["FEW"]})
    with Crowd(few, clients=FEW, tokens=1) as clients:
        until(lambda: len(clients.asked) >= 1000, 60, "a thousand requests")
    figure(f"{FEW} clients, {FEW} allowed: {len(clients.asked)} requests, {len(failures(clients.asked))} refused")
    assert failures(clients.asked) == []


def test_one_more_than_allowed_is_refused_soon(crowd: Site, figure: Figure) -> None:
    """None of them ends in the time that one may wait for a place."""
    together = [Asked(time.monotonic()) for _ in range(FEW + 1)]
    threads = [threading.Thread(target=ask, args=(crowd, crowd.env["FEW"], 300, asked)) for asked in together]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [asked for asked in together if asked.outcome != "ok"]
    assert len(refused) == 1, failures(together)
    assert refused[0].outcome.startswith(f'status 429: {{"error":"{FEW} requests at once are allowed')
    seconds = (refused[0].end or 0) - refused[0].start
    figure(f"one more than the {FEW} that are allowed: refused after {seconds:.2f} s")
    # A quarter of a second (templates/gateway/places.lua), on a machine with more to do.
    assert seconds < 2


# -- changes under streams --------------------------------------------------------------------------------------------

# One key more in the gateway's table with each change, as `flexi keys add` has it; a reload of HAProxy and of the guard
# after each thirty-ninth. The table is put back in the end.
_CHANGES = """
import hashlib, os, subprocess, sys
sys.path.insert(0, "/opt/flexi/flexi-agent.pyz")
from pathlib import Path
from flexi_host.haproxy.map_file import follow
keys, socket = Path("/etc/haproxy/flexi/keys.map"), Path("/run/haproxy/admin.sock")
before = keys.read_text()
changes, reloads = int(sys.argv[1]), int(sys.argv[2])
def write(text):
    new = keys.with_suffix(".new")
    new.write_text(text)
    os.chmod(new, 0o640)
    subprocess.run(["chown", "root:haproxy", new], check=True)
    new.replace(keys)
    assert follow(keys, socket)
try:
    for number in range(changes):
        digest = hashlib.sha256(b"%d" % number).hexdigest()
        write(before + before.splitlines()[-1].replace(before.splitlines()[-1].split()[0], digest) + "\\n")
        if number % (changes // reloads) == 0:
            subprocess.run(["systemctl", "reload", "haproxy", "flexi-guard"], check=True)
finally:
    write(before)
print("changed", changes, "reloaded", reloads)
"""


def test_a_thousand_changes_break_no_stream(crowd: Site, figure: Figure) -> None:
    with Crowd(crowd, clients=8, tokens=200) as clients:
        start = time.monotonic()
        command = f"sudo python3 - {CHANGES} {RELOADS}"
        done = crowd.ssh("gateway", command, timeout_s=600, stdin=_CHANGES)
        seconds = time.monotonic() - start
    assert done.status == 0, done.text[-2000:]
    assert f"changed {CHANGES} reloaded {RELOADS}" in done.stdout
    streamed = [asked for asked in clients.asked if asked.start < start + seconds]
    figure(
        f"{CHANGES} key changes and {RELOADS} reloads in {seconds:.0f} s: {len(streamed)} answers under way meanwhile, "
        f"{len(failures(streamed))} broken"
    )
    assert failures(clients.asked) == []
    assert len(streamed) > 20


# -- instances that fail ----------------------------------------------------------------------------------------------


Fault = Callable[[Site, str, str, int], AbstractContextManager[float]]
"""Breaks an instance (its host, unit and port) for the length of a `with`; gives a moment at which it is broken.

The moment is taken when the command is back: until then an answer may begin, and break off.
"""


@contextmanager
def slow_to_restart(site: Site, host: str, unit: str) -> Iterator[None]:
    """systemd does not start the unit again before the end, so that there is time to look at what is gone.

    Were it back earlier, the restart at the end would cut what it answers by then.
    """
    drop_in = f"/run/systemd/system/{unit}.d"
    site.ssh(host, f"sudo mkdir -p {drop_in} && printf '[Service]\\nRestartSec=600\\n' | sudo tee {drop_in}/slow.conf")
    site.ssh(host, "sudo systemctl daemon-reload")
    try:
        yield
    finally:
        site.ssh(host, f"sudo rm -r {drop_in} && sudo systemctl daemon-reload && sudo systemctl restart {unit}")


@contextmanager
def killed(site: Site, host: str, unit: str, port: int) -> Iterator[float]:
    with slow_to_restart(site, host, unit):
        assert site.ssh(host, f"sudo systemctl kill -s KILL {unit}").status == 0
        yield time.monotonic()


@contextmanager
def hung(site: Site, host: str, unit: str, port: int) -> Iterator[float]:
    assert site.ssh(host, f"sudo systemctl kill -s STOP {unit}").status == 0
    try:
        yield time.monotonic()
    finally:
        site.ssh(host, f"sudo systemctl kill -s CONT {unit}")


@contextmanager
def slow(site: Site, host: str, unit: str, port: int) -> Iterator[float]:
    """A local request with `num_gpu` 0 has the model loaded anew, on the CPU: a twentieth of its speed.

    Ollama does so once nobody uses the model, so the load must leave a gap.
    """
    url = f"http://127.0.0.1:{port}/api/generate"
    body = {"model": MODEL, "keep_alive": -1, "options": {"num_gpu": 0}}
    done = site.ssh(host, f"curl -sS -m 50 -d @- {url}", stdin=json.dumps(body))
    assert '"done":true' in done.stdout, done.text
    try:
        yield time.monotonic()
    finally:
        site.ssh(host, f"curl -sS -m 50 -d @- {url}", stdin=json.dumps({"model": MODEL, "keep_alive": 0}))


def says(site: Site, words: Sequence[str]) -> bool:
    """Whether `flexi status` finds a fault and names it with one of these."""
    status = flexi("status", str(site.file))
    said = " ".join(status.text.split())
    return status.status == 1 and any(word in said for word in words)


@pytest.mark.parametrize(
    ("fault", "clients_at_once", "words"),
    [
        # More clients than places: somebody always waits.
        (killed, 6, ("is not running", "does not start")),
        (hung, 6, ("gives no answer in",)),
        (slow, 2, ("on the CPU",)),
    ],
    ids=["killed", "hung", "slow"],
)
def test_an_instance_that_fails_under_load_is_avoided(
    crowd: Site,
    figure: Figure,
    fault: Fault,
    clients_at_once: int,
    words: tuple[str, ...],
    request: pytest.FixtureRequest,
) -> None:
    instance = next(i for i in crowd.plan.instances if i.host == "server-b")
    name = request.node.callspec.id
    with Crowd(crowd, clients_at_once, tokens=100) as clients:
        until(lambda: clients.answered() >= 12, 60, "the load runs")
        until(lambda: int(stats(crowd)["b"]["scur"]) > 0, 30, "the instance answers requests")
        with fault(crowd, instance.host, instance.unit, instance.port) as moment, ThreadPoolExecutor(1) as admin:
            # At once: the agent loads a slow model anew as soon as nobody uses it.
            told = admin.submit(until, lambda: says(crowd, words), 30, f"status says {' or '.join(words)}")
            until(lambda: time.monotonic() > moment + AVOIDED_S, AVOIDED_S + 1, "five seconds are over")
            late = time.monotonic()
            before = stats(crowd)
            until(lambda: clients.answered(since=late) >= 6, 60, "new requests are answered")
            after = stats(crowd)
            told.result()
            pending = [asked for asked in clients.asked if asked.unanswered(moment)]
            # While it still fails: nobody waits for it to come back.
            until(lambda: all(asked.begun for asked in pending), 30, "who had no answer then has one")
    until(
        lambda: flexi("status", str(crowd.file), "--quick").status == 0, 120, f"{MODEL} is ready on both servers again"
    )

    later = [asked for asked in clients.asked if asked.start >= moment]
    begun = [asked for asked in clients.asked if asked.begun is not None and asked.begun <= moment]
    refused = [asked.outcome for asked in clients.asked if asked.begun is None or asked.outcome.startswith("status")]
    longest = max((asked.end or 0) - asked.start for asked in pending + later)
    figure(
        f"{name} under load: {len(pending)} requests without an answer then, {len(failures(pending))} lost; "
        f"{len(later)} asked later, {len(failures(later))} lost, the longest took {longest:.1f} s; "
        f"{len(failures(begun))} answers that had begun broke off"
    )
    assert pending, "nobody waited for an answer at that moment"
    assert failures(pending) == []
    assert failures(later) == []
    assert refused == [], "whenever it was asked, only an answer that had begun may break off"
    sent = {server: int(after[server]["stot"]) - int(before[server]["stot"]) for server in ("a", "b")}
    assert sent["b"] == 0, sent
    assert sent["a"] > 0
