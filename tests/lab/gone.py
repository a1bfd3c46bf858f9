"""Clients that ask and go away before they have an answer, in each way that a connection can end."""

from __future__ import annotations

import json
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fuzz import frames
from lab_site import Site, access_log, until

TIMEOUT_S = 20
GONE_WITHIN_S = 2
"""Promised is one second, and looking takes a part of another."""
AT_EACH_PATH = 10
SLOW = {
    "/api/chat": "command-r-plus:104b",
    "/api/generate": "dbrx:132b",
    "/v1/chat/completions": "mixtral:8x22b",
    "/v1/responses": "command-r-plus:104b",
    "/v1/messages": "llava:13b",
    "/api/embed": "nomic-embed-text",
}
"""A model for each path, so that some run and some wait at each; an answer takes many times longer than a look."""
INPUTS = 1000
"""Texts of one request for embeddings: the simulated Ollama reads each for 20 ms at least."""
WAYS = {
    # Who closes a socket, or is ended by a signal, sends FIN; RST where something that has come was not read, or where
    # the program asked for it (SO_LINGER of 0 s, tcp(7)).
    "1.1": ("fin", "rst", "half"),
    # RST_STREAM with CANCEL is what browsers and libraries send for a request that is called off (RFC 9113, 7).
    "2": ("fin", "rst", "cancel"),
}
"""How a client of each version of HTTP goes. `half` closes the side that it sends on and would still read."""


@dataclass(frozen=True)
class Address:
    """Where the gateway listens."""

    host: str
    port: int
    tls: bool = False

    def connected(self, version: str) -> socket.socket:
        plain = socket.create_connection((self.host, self.port), timeout=TIMEOUT_S)
        # Head and body go in one packet, as most clients send them, or the gateway sees the one before the other.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self.tls:
            return plain
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # The certificate is of the lab's own making, and not what is tried here.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2" if version == "2" else "http/1.1"])
        return context.wrap_socket(plain)


class Asked:
    """A request that was sent whole, and whose answer nobody has read yet."""

    def __init__(
        self, address: Address, version: str, path: str, key: str, body: dict[str, Any], part: float = 1
    ) -> None:
        """`part` of the body is sent: less than 1, and the gateway waits for the rest."""
        self._socket = address.connected(version)
        data = json.dumps(body).encode()
        sent = data[: int(len(data) * part)]
        if version == "2":
            fields = (
                (":method", "POST"),
                (":scheme", "https" if address.tls else "http"),
                (":path", path),
                (":authority", address.host),
                ("authorization", f"Bearer {key}"),
                ("content-type", "application/json"),
                ("content-length", str(len(data))),
            )
            head = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, frames.block(fields))
            flags = frames.END_STREAM if len(sent) == len(data) else 0
            self._socket.sendall(frames.opening() + head + frames.frame(frames.DATA, flags, 1, sent))
        else:
            head = f"POST {path} HTTP/1.1\r\nHost: {address.host}\r\nAuthorization: Bearer {key}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
            self._socket.sendall(head.encode() + sent)

    def go(self, way: str) -> None:
        """Leave in one of the WAYS of the request's version."""
        if way == "half":
            self._socket.shutdown(socket.SHUT_WR)
            return
        if way == "cancel":
            cancel = (8).to_bytes(4, "big")
            self._socket.sendall(frames.frame(frames.RST_STREAM, 0, 1, cancel))
            return
        if way == "rst":
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def first_bytes(self) -> bytes:
        """What the gateway has to say first; nothing where it ends the connection without a word."""
        return self._socket.recv(65536)

    def close(self) -> None:
        self._socket.close()


def body(path: str) -> dict[str, Any]:
    """A request that is not streamed, for a long answer."""
    messages = [{"role": "user", "content": "x"}]
    asked: dict[str, Any] = {"model": SLOW[path]}
    match path:
        case "/api/embed":
            return asked | {"input": ["x"] * INPUTS}
        case "/api/generate":
            return asked | {"prompt": "x", "stream": False}
        case "/v1/responses":
            return asked | {"input": "x"}
        case "/v1/messages":
            return asked | {"messages": messages, "max_tokens": 2000}
    return asked | {"messages": messages, "stream": False}


def ask_at_every_path(address: Address, version: str, key: str) -> list[tuple[Asked, str]]:
    """Requests and the ways in which they shall be left, another one first at each path."""
    ways = WAYS[version]
    return [
        (Asked(address, version, path, key, body(path)), ways[(number + turn) % len(ways)])
        for turn, path in enumerate(SLOW)
        for number in range(AT_EACH_PATH)
    ]


_SOCKET = """
import json, socket
def said(command):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect("/run/haproxy/admin.sock")
        s.sendall(command.encode() + b"\\n")
        return b"".join(iter(lambda: s.recv(65536), b"")).decode()
print(json.dumps([said(command) for command in {commands!r}]))
"""


def said_by_haproxy(site: Site, machine: str, *commands: str) -> list[str]:
    """Answers of HAProxy's own socket, of all commands in one look."""
    done = site.ssh(machine, "sudo python3 -", stdin=_SOCKET.format(commands=commands))
    assert done.status == 0, done.text
    answers: list[str] = json.loads(done.stdout)
    return answers


@dataclass(frozen=True)
class UnderWay:
    """What a gateway counts of requests that run or wait."""

    running: int
    """At instances, as HAProxy counts them."""
    waiting: int
    at_guard: int
    consumers: int
    """By the limit of a consumer's requests at once."""
    status: int
    """By what `flexi status` shows."""

    @property
    def none(self) -> bool:
        return not (self.running or self.waiting or self.at_guard or self.consumers or self.status)


def under_way(site: Site, machine: str = "gateway") -> UnderWay:
    stats, at_once, using = said_by_haproxy(site, machine, "show stat", "show table per_minute", "show table using")
    head, *rows = stats.strip().splitlines()
    names = head.removeprefix("# ").split(",")
    back_ends = [
        found for row in rows if (found := dict(zip(names, row.split(","), strict=False)))["svname"] == "BACKEND"
    ]
    models = [row for row in back_ends if row["pxname"].startswith("model_")]

    def counted(table: str) -> int:
        return sum(int(word.removeprefix("conn_cur=")) for word in table.split() if word.startswith("conn_cur="))

    return UnderWay(
        # HAProxy's sessions of a back end are those that run and those that wait.
        running=sum(int(row["scur"]) - int(row["qcur"]) for row in models),
        waiting=sum(int(row["qcur"]) for row in models),
        at_guard=next(int(row["scur"]) for row in back_ends if row["pxname"] == "guard"),
        consumers=counted(at_once),
        status=counted(using),
    )


def answered_by_instances(site: Site, since: str) -> Counter[int]:
    """Statuses, in the instances' own logs, of what they were asked to work out since a date of journalctl's."""
    found: Counter[int] = Counter()
    for host in {instance.host for instance in site.plan.instances}:
        log = site.ssh(host, f"sudo journalctl -o cat --no-pager -u 'ollama@*' --since '{since}' | grep GIN").stdout
        # [GIN] time | status | duration | client | POST "path"
        lines = [line.split("|") for line in log.splitlines() if any(f'POST "{path}"' in line for path in SLOW)]
        found.update(int(line[1]) for line in lines)
    return found


def left(site: Site, known: Iterable[str]) -> Counter[tuple[str, int | None, str]]:
    """Path, status and end of every request that the ledger did not know."""
    old = set(known)
    new = [line for line in access_log(site) if line["id"] not in old]
    return Counter((line["path"], line["status"], line["end"]) for line in new)


def leave(asked: Sequence[tuple[Asked, str]]) -> None:
    for request, way in asked:
        request.go(way)


def nothing_is_left(site: Site, machine: str = "gateway") -> float:
    """Seconds until the gateway counts no request any more; fails where they are too many."""
    return until(lambda: under_way(site, machine).none, GONE_WITHIN_S, "nothing runs, waits or is counted")
