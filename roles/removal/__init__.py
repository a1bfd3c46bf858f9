"""A host leaves the site: drained, stopped, and handed back as an ordinary server with its driver."""

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.api.operation import OperationMeta
from pyinfra.operations import files

from flexi.components import chat
from flexi.operations import deletion, keepalived, packages, units
from flexi.plan.model.site import HostPlan
from roles.base import GATEWAY_MARK, HOSTS_MARKER

SERVICES = (
    "flexi-agent.service",
    "flexi-share.socket",
    "flexi-gpu-nodes.service",
    "flexi-guard.socket",
    "flexi-guard.service",
    "flexi-catalogue.service",
    "flexi-ledger.socket",
    "flexi-ledger.service",
    "flexi-courses.timer",
    "flexi-chat-cleaning.timer",
    "flexi-chat-front.service",
    "flexi-chat.service",
    "flexi-chat-redis.service",
)
APACHE = "/etc/systemd/system/apache2.service"
"""Masked where Apache stood in front of the chat (roles/chat/sign_in.py)."""
FIREWALL = "flexi-firewall.service"
FILES = (
    "/etc/systemd/system/ollama@.service",
    "/etc/systemd/system/flexi-agent.service",
    "/etc/systemd/system/flexi-catalogue.service",
    "/etc/systemd/system/flexi-chat*",
    "/etc/systemd/system/flexi-courses.*",
    "/etc/systemd/system/flexi-firewall.service",
    "/etc/systemd/system/flexi-gpu-nodes.service",
    "/etc/systemd/system/flexi-guard*",
    "/etc/systemd/system/flexi-ledger.*",
    "/etc/systemd/system/haproxy.service.d/flexi.conf",
    "/etc/systemd/system/postgresql@.service.d/flexi.conf",
    "/etc/systemd/system/flexi-share*",
    "/etc/systemd/system/nvidia-persistenced.service.d/flexi.conf",
    "/etc/systemd/timesyncd.conf.d/flexi.conf",
    "/etc/apt/preferences.d/flexi-*",
    "/etc/apt/sources.list.d/flexi-*",
    "/etc/apt/flexi-sources.d",
    "/etc/apt/apt.conf.d/5?flexi-*",
    "/etc/apt/keyrings/flexi-*",
    "/etc/needrestart/conf.d/flexi.conf",
    "/etc/modprobe.d/flexi-*",
    "/etc/modules-load.d/flexi-*",
    "/etc/sysctl.d/60-flexi.conf",
    "/etc/flexi",
    "/etc/ollama",
    "/opt/flexi",
    "/opt/ollama",
    "/var/lib/flexi",
    "/var/lib/flexi-courses",
    "/var/lib/flexi-ledger",
    "/var/log/flexi",
)
STORES = (
    "/var/lib/ollama",
    "/var/lib/flexi-chat",
    "/var/lib/flexi-chat-before-restore.dump",
    "/var/lib/.flexi-backup-*",
    "/var/lib/.flexi-restore-*",
)


@deploy("Removal")
def stop(host_plan: HostPlan) -> OperationMeta:
    """Stop what serves: a gateway once the other one has the address, instances once the gateway sends nothing more.

    Returns the operation that drains them.
    """
    units.absent(
        name=f"Stop {keepalived.UNIT}", pattern=keepalived.UNIT, keep=(), only_with=keepalived.STARTED_BY_FLEXI_FILE
    )
    units.absent(name="Stop HAProxy", pattern="haproxy.service", keep=(), only_with=GATEWAY_MARK)
    drained = units.absent(
        name="Stop the instances, drained before",
        pattern="ollama@*.service",
        keep=(),
        drain_timeout_s=host_plan.maintenance.drain_timeout_s,
    )
    for unit in host.loop(SERVICES):
        units.absent(name=f"Stop {unit}", pattern=unit, keep=())
    return drained


@deploy("Removal")
def clean(purge: bool) -> None:
    """Remove the rest of flexi, with `purge` models and chats too. The driver and other packages stay, not on hold."""
    packages.holds_released(name="Let go of all packages", except_for=())
    units.absent(name="Take the firewall down", pattern=FIREWALL, keep=())
    units.unmask(name="Leave Apache to its package", path=APACHE, only_with=chat.SETTINGS)
    files.block(name="Forget the site's hosts", path="/etc/hosts", present=False, marker=HOSTS_MARKER)
    deletion.remove(name="Remove flexi's files", patterns=FILES)
    if purge:
        deletion.remove(name="Remove the models and the chats", patterns=STORES)
