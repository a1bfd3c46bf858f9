"""Ollama: one pinned release, one hardened instance for each GPU group, each with a home and a store of its own."""

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.operations import files, server, systemd

from flexi.operations.applying import applied
from flexi.operations.ollama import CURRENT_DIGEST, RELEASES, current_release, environment_file, release
from flexi.operations.packages import installed
from flexi.plan.model import OllamaPlan

HOMES = "/var/lib/ollama"
UNIT = "/etc/systemd/system/ollama@.service"
DEVICE_GROUPS = ("video", "render")


@deploy("Ollama")
def install(plan: OllamaPlan, gpu_count: int) -> None:
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
    for directory in host.loop((HOMES, "/etc/ollama", RELEASES)):
        files.directory(name=f"Make {directory}", path=directory, mode="0755")

    installed(name="Install what unpacks a release", packages=plan.packages)
    release(name=f"Unpack Ollama {plan.version}, its digest checked", plan=plan)
    current_release(name=f"Make {plan.version} the current release", version=plan.version)
    files.put(
        name="Write the instances' unit",
        src="templates/ollama/ollama@.service",
        dest=UNIT,
        mode="0644",
    )

    for instance in host.loop(plan.instances):
        for directory in host.loop((instance.home, instance.store)):
            files.directory(
                name=f"Make {directory}",
                path=directory,
                user="ollama",
                group="ollama",
                mode="0700",
            )
        environment_file(name=f"Write {instance.environment_file}", instance=instance, gpu_count=gpu_count)
        applied(
            name=f"Restart {instance.unit} with what is new",
            what=instance.unit,
            inputs=(UNIT, instance.environment_file, CURRENT_DIGEST),
            command=f"systemctl restart {instance.unit}",
        )
        systemd.service(
            name=f"Start {instance.unit}",
            service=instance.unit,
            running=True,
            enabled=True,
        )
