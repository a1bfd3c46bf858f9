"""Ports on the hosts, in one place."""

from __future__ import annotations

FIRST_INSTANCE = 11434
"""Ollama's own port for the first group of a host, the next ones for its other groups."""
AGENT_CHECK = 11433
HTTP = 80
"""Where browsers ask first, and an ACME authority always (RFC 8555, 8.3)."""
HTTPS = 443
ACME_RESPONDER = 11430
"""On the gateway's loopback, while certbot is asked: where it answers an ACME authority."""
PEERS = 11431
"""Where gateways tell each other what consumers have used."""
CATALOGUE = 11432
"""On the gateway's loopback."""
METRICS = 8405
"""On the gateway's loopback: HAProxy's figures. The port that HAProxy's documentation uses for them."""
LEDGER = 8406
"""On the gateway's loopback: the ledger's figures and sums."""

CHAT = 8095
"""Open WebUI, where HAProxy reaches it."""
CHAT_BEHIND = 8096
"""On the chat's loopback: Open WebUI, where an Apache in front of it says who comes."""
CHAT_API = 8094
"""On a gateway's loopback: its API over plain HTTP, for the chat on the same host."""


def taken(groups: int, *, has_gpus: bool, is_gateway: bool, has_chat: bool) -> dict[int, str]:
    """Ports that flexi's own programs use on a host with `groups` groups, and for what.

    Left out are those that the site file chooses: SSH's and the one that users reach.
    """
    ports: dict[int, str] = {}
    if is_gateway:
        ports |= {
            ACME_RESPONDER: "certbot",
            PEERS: "the gateways' peers",
            CATALOGUE: "flexi's catalogue",
            METRICS: "HAProxy's metrics",
            LEDGER: "flexi's ledger",
        }
    if has_gpus:
        ports[AGENT_CHECK] = "flexi-agent"
    if has_chat:
        ports |= {CHAT: "the chat", CHAT_BEHIND: "the chat behind Apache", CHAT_API: "the chat's way to the models"}
    for index in range(groups):
        ports[FIRST_INSTANCE + index] = "an Ollama instance"
    return ports
