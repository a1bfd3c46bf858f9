"""Where things lie on a gateway, for the role that writes them and for commands that change one of them alone."""

from __future__ import annotations

from flexi.configs.rendering import render
from flexi.plan.model.chat import ChatPlan
from flexi.plan.model.gateway import GatewayPlan
from flexi.site.consumers import Consumer

MAPS = "/etc/haproxy/flexi"
KEYS_MAP = f"{MAPS}/keys.map"
AGENT = "/opt/flexi/flexi-agent.pyz"
FOLLOW_KEYS = f"python3 {AGENT} keys --map {KEYS_MAP}"
"""Makes a running HAProxy know what `KEYS_MAP` says, without a reload."""
KEYS_STAMP = "flexi-keys"
"""Of `KEYS_MAP` as HAProxy was last told it (flexi.operations.restart)."""

HEALTH_HEADER = "/etc/flexi/health.header"
"""For curl's `-H @FILE`: the key of the health checks, root's alone."""
CERTIFICATE = f"{MAPS}/gateway.pem"


def curl_here(gateway: GatewayPlan, path: str, chat: ChatPlan | None = None) -> str:
    """Return curl's arguments for a path of the gateway on its own host, as clients ask: by name where it has TLS, and
    trusting the deployed certificate alone; with `chat` by the chat's name."""
    trust = f"--cacert {CERTIFICATE} " if gateway.tls else ""
    if chat is not None:
        return f"--connect-to ::127.0.0.1:{chat.port} {trust}{chat.url}{path}"
    if gateway.tls:
        return f"--connect-to ::127.0.0.1:{gateway.port} {trust}https://{gateway.name}:{gateway.port}{path}"
    return f"http://127.0.0.1:{gateway.port}{path}"


def keys_map(consumers: tuple[Consumer, ...]) -> str:
    """The content of `KEYS_MAP`."""
    return render("gateway/keys.map.j2", consumers=consumers)
