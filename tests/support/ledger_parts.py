"""What the guard and HAProxy tell the ledger, after the agreed record formats (docs/admin/monitoring.md)."""

from __future__ import annotations

import json
from typing import Any

START = 1_795_438_800.0
"""2026-11-23 13:00 UTC, the beginning of an hour."""

ANSWER: dict[str, Any] = {
    "kind": "answer",
    "at": START + 5,
    "id": "0a1b-1",
    "consumer": "moodle",
    "class": "staff",
    "model": "llama3:8b",
    "path": "/api/chat",
    "status": 200,
    "stream": True,
    "queue_ms": 40,
    "first_byte_ms": 250,
    "total_ms": 2000,
    "bytes_in": 100,
    "bytes_out": 900,
    "prompt_tokens": 12,
    "answer_tokens": 34,
    "server": "server-a/a",
    "end": "done",
    "retries": 0,
}
EDGE: dict[str, Any] = {
    "kind": "edge",
    "at": START + 6,
    "id": "0a1b-1",
    "from": "192.0.2.0",
    "consumer": "moodle",
    "class": "staff",
    "model": "llama3:8b",
    "method": "POST",
    "path": "/api/chat",
    "status": 200,
    "request_ms": 1,
    "response_ms": 251,
    "total_ms": 2100,
    "bytes_in": 350,
    "bytes_out": 1100,
    "ts": "--",
    "backend": "guard",
    "server": "guard1",
}


def answer(**more: object) -> bytes:
    """A datagram of the guard."""
    return json.dumps(ANSWER | more).encode()


def edge(**more: object) -> bytes:
    """A datagram of HAProxy's log."""
    return json.dumps(EDGE | more).encode() + b"\n"
