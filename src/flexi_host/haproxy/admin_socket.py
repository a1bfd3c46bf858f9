"""HAProxy's own socket: one command, one connection (management guide 2.4, 9.3)."""

from __future__ import annotations

import socket
from pathlib import Path

ADMIN = Path("/run/haproxy/admin.sock")
TIMEOUT_S = 10.0


def ask(path: Path, command: str) -> str:
    """The answer, which ends with the connection. OSError where nobody answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(str(path))
        connection.sendall(command.encode("ascii") + b"\n")
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts).decode("ascii", "replace")
