"""Where things lie on a gateway, for the role that writes them and for commands that change one of them alone."""

from __future__ import annotations

from flexi.plan.model import Consumer
from flexi.rendering import render

MAPS = "/etc/haproxy/flexi"
KEYS_MAP = f"{MAPS}/keys.map"
AGENT = "/opt/flexi/flexi-agent.pyz"
FOLLOW_KEYS = f"python3 {AGENT} keys --map {KEYS_MAP}"
"""Makes a running HAProxy know what `KEYS_MAP` says, without a reload."""
KEYS_STAMP = "flexi-keys"
"""Of `KEYS_MAP` as HAProxy was last told it (flexi.operations.applying)."""


def keys_map(consumers: tuple[Consumer, ...]) -> str:
    """The content of `KEYS_MAP`."""
    return render("gateway/keys.map.j2", consumers=consumers)
