"""What every host needs before anything else: its name, the time, and updates kept away from what flexi pins."""

from pyinfra.api import deploy
from pyinfra.operations import apt, files, server, systemd
from pyinfra.operations.util import any_changed

from flexi.plan.model import HostPlan

APT_CACHE_S = 24 * 3600


@deploy("Base")
def install(plan: HostPlan) -> None:
    base = plan.base
    server.hostname(name="Set the host name", hostname=base.hostname)
    files.block(
        name="Know the site's hosts without DNS",
        path="/etc/hosts",
        content="\n".join(f"{address} {name}" for address, name in base.hosts_entries),
        marker="# {mark} flexi: hosts of the site",
    )
    # Before the first package: an upgrade that starts by itself meanwhile must already know its limits.
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
    apt.packages(
        name="Install what the roles rely on",
        packages=list(base.packages),
        update=True,
        cache_time=APT_CACHE_S,
        no_recommends=True,
    )
    limits = files.put(
        name="Set kernel limits for many connections",
        src="templates/base/sysctl.conf",
        dest="/etc/sysctl.d/60-flexi.conf",
        mode="0644",
    )
    systemd.service(
        name="Apply the kernel limits",
        service="systemd-sysctl.service",
        restarted=True,
        _if=any_changed(limits),
    )
    if base.ntp_servers:
        ntp = files.template(
            name="Name the site's time servers",
            src="templates/base/timesyncd.conf.j2",
            dest="/etc/systemd/timesyncd.conf.d/flexi.conf",
            mode="0644",
            servers=base.ntp_servers,
        )
        systemd.service(
            name="Restart time synchronisation",
            service="systemd-timesyncd.service",
            restarted=True,
            _if=any_changed(ntp),
        )
    systemd.service(
        name="Keep the time in sync",
        service="systemd-timesyncd.service",
        running=True,
        enabled=True,
    )
    files.directory(name="Make flexi's configuration directory", path="/etc/flexi", mode="0755")
