"""The base of every host: its name, the time, and updates kept away from what flexi pins."""

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.operations import files, server

from flexi.configs.rendering import render
from flexi.operations import apt_sources, keepalived, packages, restart, units
from flexi.plan.model.base import BasePlan
from flexi.plan.model.site import HostPlan

APT_PROXY = "/etc/apt/apt.conf.d/52flexi-proxy"
APT_ONLY = "/etc/apt/apt.conf.d/51flexi-sources"
HOSTS_MARKER = "# {mark} flexi: hosts of the site"
GATEWAY_MARK = "/etc/haproxy/flexi/dialects.map"
GATEWAY_UNITS = (
    *("haproxy.service", "flexi-guard.socket", "flexi-guard.service", "flexi-catalogue.service"),
    *("flexi-ledger.socket", "flexi-ledger.service"),
)
SYSCTL = "/etc/sysctl.d/60-flexi.conf"
TIMESYNCD = "/etc/systemd/timesyncd.conf.d/flexi.conf"


@deploy("Base")
def install(host_plan: HostPlan) -> None:
    """Prepare the host for the roles that follow, and stop services of roles that it no longer has."""
    base = host_plan.base
    server.hostname(name="Set the host name", hostname=base.hostname)
    files.block(
        name="Know the site's hosts without DNS",
        path="/etc/hosts",
        content="\n".join(f"{address} {name}" for address, name in base.hosts_entries),
        marker=HOSTS_MARKER,
    )
    _apt_proxy(base)
    _upgrades(base)
    _repositories(base)
    packages.present(name="Install what the roles rely on", names=base.packages)
    _kernel_limits()
    _time(base)
    files.directory(name="Make flexi's configuration directory", path="/etc/flexi", mode="0755")
    files.directory(name="Make the directory of flexi's programs", path="/opt/flexi", mode="0755")
    _stop_former_roles(host_plan)


def _apt_proxy(base: BasePlan) -> None:
    if base.proxy:
        files.template(
            name="Let apt use the site's proxy",
            src="templates/base/apt-proxy.conf.j2",
            dest=APT_PROXY,
            mode="0644",
            settings=base.proxy.apt,
        )
    else:
        files.file(name="Let apt use no proxy of flexi's", path=APT_PROXY, present=False)


def _upgrades(base: BasePlan) -> None:
    """Keep the host's own upgrades from changing or restarting what serves.

    Before the first package: an upgrade that starts by itself meanwhile must already know its limits.
    """
    files.template(
        name="Keep unattended upgrades away from the driver, the kernel and CUDA",
        src="templates/base/unattended-upgrades.conf.j2",
        dest="/etc/apt/apt.conf.d/51flexi-unattended-upgrades",
        mode="0644",
        blacklist=base.unattended_blacklist,
    )
    files.put(
        name="Keep needrestart from restarting the service in the middle of a lecture",
        src="templates/base/needrestart.conf",
        dest="/etc/needrestart/conf.d/flexi.conf",
        mode="0644",
    )


def _kernel_limits() -> None:
    limits = files.put(
        name="Set kernel limits for many connections", src="templates/base/sysctl.conf", dest=SYSCTL, mode="0644"
    )
    restart.on_change(
        name="Apply the kernel limits",
        service="sysctl",
        watch=(SYSCTL,),
        command="systemctl restart systemd-sysctl.service",
        after=[limits],
    )


def _time(base: BasePlan) -> None:
    packages.time_daemon(name="Keep the time in sync, with the host's own daemon if it has one")
    if base.ntp_servers:
        servers = files.template(
            name="Name the site's time servers",
            src="templates/base/timesyncd.conf.j2",
            dest=TIMESYNCD,
            mode="0644",
            servers=base.ntp_servers,
        )
        restart.on_change(
            name="Ask the site's time servers",
            service="timesyncd",
            watch=(TIMESYNCD,),
            command="systemctl try-restart systemd-timesyncd.service",
            after=[servers],
        )


def _repositories(base: BasePlan) -> None:
    """Add the site's own apt repositories, before anything is installed from them."""
    packages.present(name="Install what looks at a repository's key", names=base.apt_tools)
    files.directory(name="Make the directory for signing keys", path="/etc/apt/keyrings", mode="0755")
    if base.apt_sources_only:
        files.directory(name="Make the directory of the site's repositories", path=base.apt_sources_only, mode="0755")
    for source in host.loop(base.apt_sources):
        if source.key:
            files.put(name=f"Write the key {source.keyring}", src=source.key, dest=source.keyring, mode="0644")
        elif source.key_url:
            packages.signing_key(
                name=f"Fetch the key {source.keyring}",
                url=source.key_url,
                dest=source.keyring,
                fingerprint=source.key_fingerprint,
            )
        apt_sources.add(
            name=f"Add the repository {source.uri}, if apt can read it beside the host's",
            dest=source.file,
            content=render("base/mirror.sources.j2", source=source),
            keep=base.apt_files,
        )
    apt_sources.remove_except(name="Remove repositories that the site no longer has", keep=base.apt_files)
    if base.apt_sources_only:
        files.template(
            name="Use the site's repositories and no others",
            src="templates/base/apt-only.conf.j2",
            dest=APT_ONLY,
            mode="0644",
            directory=base.apt_sources_only,
        )
    else:
        files.file(name="Use the host's own repositories too", path=APT_ONLY, present=False)


def _stop_former_roles(host_plan: HostPlan) -> None:
    if not host_plan.agent:
        units.absent(name="Stop the agent of a host without instances", pattern="flexi-agent.service", keep=())
    if not host_plan.chat:
        units.absent(name="Stop the course bots' timer where the chat was", pattern="flexi-courses.timer", keep=())
        units.absent(name="Stop the chat where it was", pattern="flexi-chat*", keep=())
    if "gateway" not in host_plan.roles:
        # First, so that the other gateway has the address before this one ends.
        units.absent(
            name=f"Stop {keepalived.UNIT} where the gateway was",
            pattern=keepalived.UNIT,
            keep=(),
            only_with=keepalived.STARTED_BY_FLEXI_FILE,
        )
        # Only where flexi made it one: a HAProxy of the admin's own stays.
        for unit in host.loop(GATEWAY_UNITS):
            units.absent(name=f"Stop {unit} where the gateway was", pattern=unit, keep=(), only_with=GATEWAY_MARK)
        files.file(name="Forget that the gateway was here", path=GATEWAY_MARK, present=False)
