"""A reload of HAProxy that fails where it did not come about.

systemd's reload tells HAProxy's master to start a new worker, and returns. Where that worker cannot start although
`haproxy -c` found nothing wrong (too few descriptors for `maxconn`, a port that is taken), the old one goes on, and the
journal is the only one to be told (2.6.12, tried).
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from flexi_host.common.broken import Broken
from flexi_host.haproxy import admin_socket

COMMAND = ("systemctl", "reload-or-restart", "haproxy.service")
PATIENCE_S = 20.0
POLL_S = 0.05


def reload(
    socket_path: Path,
    ask: Callable[[Path, str], str] = admin_socket.ask,
    command: tuple[str, ...] = COMMAND,
    patience_s: float = PATIENCE_S,
) -> None:
    """Reload, or start, and wait for the new worker. Broken where the old one goes on, or none comes up."""
    before = _worker(socket_path, ask)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Broken(
            f"HAProxy does not start with its new configuration; see journalctl -u haproxy. {done.stderr.strip()}"
        )
    until = time.monotonic() + patience_s
    while (now := _worker(socket_path, ask)) in (None, before):
        if time.monotonic() > until:
            goes_on = "HAProxy runs on with its old configuration" if now else "HAProxy does not answer"
            raise Broken(f"{goes_on}: the new one was not taken; see journalctl -u haproxy")
        time.sleep(POLL_S)


def _worker(socket_path: Path, ask: Callable[[Path, str], str]) -> str | None:
    """The process that answers on HAProxy's socket; None where nobody does."""
    try:
        found = re.search(r"^Pid: (\d+)$", ask(socket_path, "show info"), re.MULTILINE)
    except OSError:
        return None
    return found[1] if found else None
