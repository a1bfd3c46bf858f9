"""HTTPS and two gateways: one address that keeps answering, whatever becomes of either of them."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import gone
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from fuzz import frames
from fuzz.storm import BATCH, fuzzers_key, nothing_breaks, storm
from lab_site import Done, Figure, Site, another, failures_of, flexi, run, until

from flexi.lab.topology import FLOATING

SECOND = "gateway-2"
NAME = "flexi.lab.test"
CHAT = f"chat.{NAME}"
MODEL = "phi3:3.8b"
HTTP2_BATCHES = 20
MOVED_WITHIN_S = 10
"""Two failed looks, a second each, and VRRP's own wait; a busy computer takes its time."""


def certificate(directory: Path) -> int:
    """Write a new certificate and its key beside the site file; returns its serial number."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lab")]), datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=90))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME), x509.DNSName(CHAT)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (directory / "pair.pem").write_bytes(made.public_bytes(Encoding.PEM))
    private = directory / "pair.key"
    private.touch(mode=0o600)
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return made.serial_number


@dataclass
class Pair:
    site: Site
    file: Path
    serial: int

    @property
    def network(self) -> str:
        """`10.86.N`, where the lab's addresses lead to from outside."""
        return self.site.url.removeprefix("http://").rpartition(".")[0]

    def argv(self, path: str, *options: str, byte: int = FLOATING, scheme: str = "https") -> list[str]:
        """curl of `path` at one of the lab's addresses, by the name that the certificate is for, without a key."""
        there = f"::{self.network}.{byte}"
        trust = ["--connect-to", there, "--cacert", str(self.file.with_name("pair.pem"))]
        return ["curl", "-sS", "-m", "20", *trust, *options, f"{scheme}://{NAME}{path}"]

    def ask(self, path: str, *options: str, byte: int = FLOATING, scheme: str = "https") -> Done:
        return run(self.argv(path, *options, byte=byte, scheme=scheme))

    def asked_for_tokens(self, byte: int) -> dict[str, str]:
        """Headers of a short answer."""
        body = json.dumps({"model": MODEL, "prompt": "x", "stream": False, "options": {"num_predict": 1}})
        key = f"@{self.site.key_header}"
        done = self.ask("/api/generate", "-D", "-", "-o", "/dev/null", "-H", key, "-d", body, byte=byte)
        lines = [line.partition(": ") for line in done.stdout.lower().splitlines()]
        assert " 200" in lines[0][0], done.text
        return {name: value.strip() for name, _, value in lines}

    def holder(self) -> str | None:
        """The gateway that has the floating address."""
        look = f"ip -o -4 address show to 10.87.0.{FLOATING}"
        having = [name for name in ("gateway", SECOND) if self.site.ssh(name, look).stdout]
        return having[0] if len(having) == 1 else None

    def answers(self) -> bool:
        return self.ask("/", "-m", "1", "-f").status == 0

    def other(self, name: str) -> str:
        return SECOND if name == "gateway" else "gateway"

    def serves(self, byte: int) -> int:
        """Serial number of the certificate that an address shows."""
        address = f"{self.network}.{byte}:443"
        shown = run(["openssl", "s_client", "-connect", address, "-servername", NAME])
        begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
        pem = begin + shown.stdout.partition(begin)[2].partition(end)[0] + end
        return x509.load_pem_x509_certificate(pem.encode()).serial_number


@pytest.fixture(scope="module")
def pair(site: Site) -> Iterator[Pair]:
    site.lab.up(more=(SECOND,))
    serial = certificate(site.file.parent)
    text = site.file.read_text()
    first, name = "  gateway:\n    address: 10.87.0.10\n", f"  name: {NAME}\n"
    assert first in text
    assert name in text
    text = text.replace(first, f"{first}  {SECOND}: {{address: 10.87.0.15}}\n")
    shared = f"  standby: {SECOND}\n  floating_address: 10.87.0.{FLOATING}\n"
    text = text.replace(name, f"{name}{shared}  tls: {{certificate: pair.pem, key: pair.key}}\n")
    unlimited = "    default: {at_once: 1000}\n"
    assert unlimited in text
    text = text.replace(unlimited, "    default: {at_once: 1000, per_hour: 5000}\n")
    file = another(site, text, "pair")
    done = flexi("deploy", str(file), timeout_s=900)
    assert done.status == 0, done.text[-6000:]
    yield Pair(site, file, serial)
    assert flexi("remove", str(file), SECOND, "--yes").status == 0
    site.lab.machine(SECOND).kill()
    site.back_to()


def test_the_pair_is_well(pair: Pair) -> None:
    until(pair.answers, MOVED_WITHIN_S, "the floating address answers")
    assert failures_of(pair.file) == []
    assert pair.site.doctor(pair.file) == []


def test_https_at_both_and_at_the_address_that_they_share(pair: Pair) -> None:
    for byte in (FLOATING, 10, 15):
        for version, option in (("2", "--http2"), ("1.1", "--http1.1")):
            done = pair.ask("/api/version", option, "-w", "%{http_version} %{http_code}", "-o", "/dev/null", byte=byte)
            assert done.stdout == f"{version} 200", done.text
    old = pair.ask("/", "--tls-max", "1.1")
    assert old.status != 0
    assert "version" in old.stderr


@pytest.mark.parametrize("version", ["1.1", "2"])
def test_for_clients_that_are_gone_nothing_is_worked_out(pair: Pair, version: str) -> None:
    """Over TLS and at both gateways, which wait for the same places; whoever has not left stays."""
    stays = gone.Asked(
        gone.Address(f"{pair.network}.15", 443, tls=True), version, "/api/chat", pair.site.key, gone.body("/api/chat")
    )
    asked = []
    try:
        until(lambda: gone.under_way(pair.site, SECOND).running == 1, 10, "one runs")
        for byte in (10, 15):
            asked += gone.ask_at_every_path(
                gone.Address(f"{pair.network}.{byte}", 443, tls=True), version, pair.site.key
            )
        count = len(asked) // 2
        until(lambda: gone.under_way(pair.site).consumers == count, 20, "all are at the first")
        until(lambda: gone.under_way(pair.site, SECOND).consumers == count + 1, 20, "all are at the second")
        gone.leave(asked)
        gone.nothing_is_left(pair.site)
        until(lambda: gone.under_way(pair.site, SECOND).consumers == 1, gone.GONE_WITHIN_S, "one is left")
        assert gone.under_way(pair.site, SECOND).running == 1
        stays.go("fin")
        gone.nothing_is_left(pair.site, SECOND)
    finally:
        for request, _ in [*asked, (stays, "fin")]:
            request.close()


def test_hostile_http2_gets_nowhere(pair: Pair, figure: Figure) -> None:
    """No 5xx of ours, no crash, nothing past keys or models, no eviction; and whoever comes after a flood is served."""
    address = (f"{pair.network}.10", 443)
    with fuzzers_key(pair.file) as key, nothing_breaks(pair.site):
        statuses = storm(
            frames.attempts(key), HTTP2_BATCHES, lambda request: frames.exchange(address, request), frames.judge
        )
        counts = ", ".join(f"{count} of {status}" for status, count in sorted(statuses.items()))
        figure(f"{BATCH * HTTP2_BATCHES} hostile requests by HTTP/2: {counts}")
        for status in (200, 400, 401, 404):
            assert statuses[status], f"no storm: nobody was answered {status}"
        for name in frames.FLOODS:
            assert frames.flood(address, frames.usual(key), name) > 1, name
            assert pair.asked_for_tokens(10), name


def test_plain_http_leads_to_https_and_takes_no_key(pair: Pair) -> None:
    led = pair.ask("/api/tags?x=1", "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", scheme="http")
    assert led.stdout == f"308 https://{NAME}/api/tags?x=1"
    for header in (f"@{pair.site.key_header}", "x-api-key: some"):
        refused = pair.ask("/v1/models", "-H", header, "-w", "\n%{http_code}", scheme="http")
        text, _, status = refused.stdout.rpartition("\n")
        assert status == "403"
        assert "in the clear" in json.loads(text)["error"]["message"]


def test_what_a_consumer_has_used_is_known_to_both(pair: Pair) -> None:
    left = int(pair.asked_for_tokens(10)["x-ratelimit-remaining-hour"])
    # The peers tell each other within milliseconds; the loop's own requests count as well.
    used = 0

    def told() -> bool:
        nonlocal used
        used += 1
        return int(pair.asked_for_tokens(15)["x-ratelimit-remaining-hour"]) == left - used

    until(told, 20, "the second gateway counts on where the first one was")


@pytest.mark.parametrize(
    ("breaks", "mends"),
    [
        ("systemctl kill --signal=STOP haproxy", "systemctl kill --signal=CONT haproxy"),
        ("systemctl stop flexi-guard.socket flexi-guard", "systemctl start flexi-guard.socket flexi-guard"),
    ],
    ids=["HAProxy hangs", "the guard is gone"],
)
def test_the_other_takes_over_and_keeps_the_address(breaks: str, mends: str, pair: Pair) -> None:
    until(lambda: pair.holder() is not None, MOVED_WITHIN_S, "one gateway has the address")
    broken = pair.holder()
    assert broken is not None
    pair.site.ssh(broken, f"sudo {breaks}")
    try:
        seconds = until(lambda: pair.holder() == pair.other(broken) and pair.answers(), MOVED_WITHIN_S, "it moved")
        print(f"failover: {breaks}: {pair.other(broken)} answers after {seconds:.1f} s")
    finally:
        pair.site.ssh(broken, f"sudo {mends}")
    until(lambda: pair.ask("/", "-f", byte=10 if broken == "gateway" else 15).status == 0, 20, f"{broken} is back")
    until(lambda: _well(pair, broken), 20, f"keepalived on {broken} sees that it is back")
    assert pair.holder() == pair.other(broken), "it moved for a second time"


def _well(pair: Pair, name: str) -> bool:
    """keepalived has seen its gateway serve again: the last word in its journal is that it stands by."""
    log = pair.site.ssh(name, "sudo journalctl -u keepalived -o cat -n 40 --no-pager").stdout.splitlines()
    states = [line for line in log if "STATE" in line]
    return bool(states) and "BACKUP" in states[-1]


def test_a_renewed_certificate_breaks_no_stream(pair: Pair) -> None:
    old = pair.serial
    body = json.dumps({"model": "command-r-plus:104b", "prompt": "x", "options": {"num_predict": 3000}})
    argv = pair.argv("/api/generate", "-N", "-m", "300", "-H", f"@{pair.site.key_header}", "-d", body)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as stream:
        assert stream.stdout is not None
        try:
            assert json.loads(stream.stdout.readline())["done"] is False
            pair.serial = certificate(pair.file.parent)
            done = flexi("deploy", str(pair.file), "--limit", "gateway", "--limit", SECOND, timeout_s=600)
            assert done.status == 0, done.text[-3000:]
            assert {pair.serves(byte) for byte in (FLOATING, 10, 15)} == {pair.serial} != {old}
            # What came meanwhile waits in the pipe; whoever reads past it reads what is written now.
            seen = datetime.now(UTC).isoformat()
            lines = iter(stream.stdout.readline, "")
            last = next(json.loads(line) for line in lines if json.loads(line)["created_at"] > seen)
            assert last["done"] is False, "the answer was over too early to prove anything"
        finally:
            stream.kill()


def test_a_certificate_that_haproxy_does_not_take_changes_nothing(pair: Pair) -> None:
    broken = pair.file.with_name("pair.pem").read_text()
    program = "sudo /opt/flexi/flexi-certificate install"
    refused = pair.site.ssh("gateway", program, stdin=broken)
    assert refused.status == 1
    assert "the one before stays in use" in refused.stderr
    reload = pair.site.ssh("gateway", "sudo systemctl reload haproxy")
    assert reload.status == 0
    assert pair.serves(10) == pair.serial


def test_no_private_key_is_readable_by_others(pair: Pair) -> None:
    lines = pair.file.with_name("pair.key").read_text().splitlines()
    for host in ("gateway", SECOND):
        search = "sudo grep -rlsF -f /dev/stdin /etc /opt /root /run /tmp /var"
        found = pair.site.ssh(host, search, stdin=lines[1] + "\n").stdout.split()
        assert found == ["/etc/haproxy/flexi/gateway.pem"]
        stat = pair.site.ssh(host, shlex.join(["sudo", "stat", "-c", "%a %U", *found])).stdout.split()
        assert stat == ["600", "root"]
