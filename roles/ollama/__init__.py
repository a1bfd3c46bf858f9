"""Ollama: one pinned release, one hardened instance for each GPU group, each with a home and a store of its own."""

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.operations import apt, files, server, systemd
from pyinfra.operations.util import any_changed

from flexi.operations.ollama import current_release, environment_file, release
from flexi.plan.model import OllamaPlan

HOMES = "/var/lib/ollama"
DEVICE_GROUPS = ("video", "render")


@deploy("Ollama")
def install(plan: OllamaPlan) -> None:
    for group in host.loop(("ollama", *DEVICE_GROUPS)):
        server.group(name=f"Make the group {group}", group=group, system=True)
    server.user(
        name="Make the user that runs the instances",
        user="ollama",
        group="ollama",
        groups=list(DEVICE_GROUPS),
        home=HOMES,
        shell="/usr/sbin/nologin",
        system=True,
        ensure_home=False,
    )
    files.directory(name="Make the directory of the homes", path=HOMES, mode="0755")
    files.directory(name="Make the directory of the environments", path="/etc/ollama", mode="0755")

    apt.packages(name="Install what unpacks a release", packages=list(plan.packages), no_recommends=True)
    release(name=f"Unpack Ollama {plan.version}, its digest checked", plan=plan)
    switched = current_release(name=f"Make {plan.version} the current release", version=plan.version)
    unit = files.put(
        name="Write the instances' unit",
        src="templates/ollama/ollama@.service",
        dest="/etc/systemd/system/ollama@.service",
        mode="0644",
    )
    systemd.daemon_reload(name="Let systemd read the instances' unit", _if=any_changed(unit))

    for instance in host.loop(plan.instances):
        for directory in host.loop((instance.home, instance.store)):
            files.directory(
                name=f"Make {directory}",
                path=directory,
                user="ollama",
                group="ollama",
                mode="0700",
            )
        environment = environment_file(name=f"Write {instance.environment_file}", instance=instance)
        systemd.service(
            name=f"Restart {instance.unit} with what is new",
            service=instance.unit,
            restarted=True,
            _if=any_changed(switched, unit, environment),
        )
        systemd.service(
            name=f"Start {instance.unit}",
            service=instance.unit,
            running=True,
            enabled=True,
        )
