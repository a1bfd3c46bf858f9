"""Ports on the hosts, in one place."""

from __future__ import annotations

FIRST_INSTANCE = 11434
"""Ollama's own port for the first group of a host, the next ones for its other groups."""
AGENT_CHECK = 11433
CATALOGUE = 11432
"""On the gateway's loopback."""
METRICS = 8405
"""On the gateway's loopback: HAProxy's figures. The port that HAProxy's documentation uses for them."""


def taken(groups: int, has_gpus: bool, ssh: int | None) -> dict[int, str]:
    """Ports in use on a host with `groups` groups, and by what; the gateway's own are left out."""
    ports = {CATALOGUE: "flexi's catalogue"}
    if ssh is not None:
        ports[ssh] = "SSH"
    if has_gpus:
        ports[AGENT_CHECK] = "flexi-agent"
    for index in range(groups):
        ports[FIRST_INSTANCE + index] = "an Ollama instance"
    return ports
