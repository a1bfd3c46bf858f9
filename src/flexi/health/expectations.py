"""What every host is held to, besides its plan: for the health checks and the doctor alike."""

from __future__ import annotations

from flexi.plan.build import needs
from flexi.plan.model.site import HostPlan

MAX_CLOCK_OFFSET_S = 5
"""Far below the five minutes at which Kerberos and signed tokens fail, far above what a slow SSH answer explains."""
MAX_DISK_USE_PERCENT = 90

TIME_DAEMONS = tuple(unit for units in needs.TIME_DAEMONS.values() for unit in units)
"""Units of which one has to keep the clock; flexi's own choice first."""
STARTS_BY_ITSELF = ("enabled", "enabled-runtime", "static")
"""What `UnitFileState` may be of a unit that has to come back after a reboot (`man systemctl`, is-enabled)."""


def units(host_plan: HostPlan) -> list[str]:
    """Services that run on the host and come back after a reboot."""
    names = ["flexi-firewall.service"]
    if host_plan.driver:
        names.append("nvidia-persistenced.service")
    if host_plan.ollama:
        names += [instance.unit for instance in host_plan.ollama.instances] + ["flexi-agent.service"]
    if "gateway" in host_plan.roles:
        names += ["haproxy.service", "flexi-catalogue.service", "flexi-guard.service"]
        names += ["flexi-ledger.service", "flexi-ledger.socket"]
    if host_plan.chat:
        names += ["flexi-chat.service", "flexi-chat-cleaning.timer", "flexi-courses.timer"]
        if host_plan.chat.front_packages:
            names.append("flexi-chat-front.service")
        if host_plan.chat.database and host_plan.chat.database.server:
            names.append("postgresql.service")
        if host_plan.chat.database and host_plan.chat.database.redis_package:
            names.append("flexi-chat-redis.service")
    if host_plan.gateway and host_plan.gateway.failover:
        names.append("keepalived.service")
    if host_plan.gateway and "certbot" in host_plan.gateway.packages:
        names.append("certbot.timer")
    return names
