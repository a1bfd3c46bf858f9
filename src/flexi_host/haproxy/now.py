"""`flexi_host now`: what the gateway is doing at this moment, as HAProxy tells on its own socket (root only).

Commands and columns are those of HAProxy's management guide (9.1, 9.3), the same in 2.4 and 2.6.
"""

from __future__ import annotations

import csv
import io
import json
import re
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import TextIO

from flexi_host.haproxy.admin_socket import ADMIN, ask

TIMEOUT_S = 5.0
USING = "using"
"""The stick table of what is being answered or waits, by `consumer|model`."""

_ENTRY = re.compile(r"key=(\S*) .*conn_cur=(\d+)")
_FINE = ("", "UNK", "INI", "L7OK")
_AGENT = re.compile(r"via agent : \w+ \((.*)\)")
"""How HAProxy puts the agent's words."""


def tell(port: int, out: TextIO) -> None:
    """Print it all as JSON; `port` is the ledger's. OSError where HAProxy does not answer."""
    try:
        present = now(lambda command: ask(ADMIN, command))
    except OSError as error:
        raise OSError(f"HAProxy does not answer on {ADMIN}: {error}") from error
    json.dump({**present, "recent": recent(port)}, out)
    out.write("\n")


def now(answer: Callable[[str], str]) -> dict[str, object]:
    """`answer` puts a command to HAProxy. Queues and sessions are requests at this moment."""
    return {
        "schema": 1,
        "backends": list(_backends(answer("show stat"))),
        "using": list(_using(answer(f"show table {USING} data.conn_cur gt 0"))),
    }


def recent(port: int) -> object:
    """What the ledger on this host says of the last minutes; None where it does not answer."""
    # A proxy in the environment is for elsewhere.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/recent", timeout=TIMEOUT_S) as response:
            return json.load(response)
    except (OSError, ValueError):
        return None


def _backends(statistics: str) -> Iterator[dict[str, object]]:
    rows = list(csv.DictReader(io.StringIO(statistics.removeprefix("# "))))
    for row in rows:
        if row["svname"] == "BACKEND":
            servers = [one for one in rows if one["pxname"] == row["pxname"] and one["type"] == "2"]
            yield {
                "name": row["pxname"],
                "status": row["status"],
                "queue": _count(row, "qcur"),
                "servers": [_server(server) for server in servers],
            }


def _server(row: Mapping[str, str]) -> dict[str, object]:
    return {
        "name": row["svname"],
        "status": row["status"],
        "requests": _count(row, "scur"),
        "queue": _count(row, "qcur"),
        "most": _count(row, "slim"),
        "reason": _reason(row),
    }


def _reason(row: Mapping[str, str]) -> str | None:
    """Why a server gets nothing: the agent's own words, or what the check has met. None where both are fine."""
    for status, words, description in (
        ("agent_status", "last_agt", "agent_desc"),
        ("check_status", "last_chk", "check_desc"),
    ):
        # A check that is running shows its last status after a star.
        if row.get(status, "").removeprefix("* ") not in _FINE:
            said = row.get(words) or row.get(description) or row[status]
            agent = _AGENT.fullmatch(said)
            return agent.group(1) if agent else said
    return None


def _using(table: str) -> Iterator[dict[str, object]]:
    for line in table.splitlines():
        found = _ENTRY.search(line)
        if found:
            consumer, _, model = found.group(1).partition("|")
            yield {"consumer": consumer or None, "model": model or None, "requests": int(found.group(2))}


def _count(row: Mapping[str, str], column: str) -> int:
    text = row.get(column) or ""
    return int(text) if text.isdigit() else 0
