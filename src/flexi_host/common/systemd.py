"""Words to systemd (`man sd_notify`), without a library."""

from __future__ import annotations

import os
import socket


def notify(words: str) -> None:
    """Send e.g. `READY=1`; nothing happens where systemd does not listen."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto(words.encode(), address)
    except OSError:
        pass  # without a listener there is nobody to tell


def watchdog_s() -> float | None:
    """How often `WATCHDOG=1` is expected at the latest (WatchdogSec=), None where it is not."""
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isdigit() and int(text) else None
