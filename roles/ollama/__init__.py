"""Ollama: one pinned release, one hardened instance for each GPU group, each with a home and a store of its own."""

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.api.operation import OperationMeta
from pyinfra.operations import files, server, systemd

from flexi.operations import drain, ollama, packages, restart, stores, units
from flexi.plan.model.ollama import InstancePlan
from flexi.plan.model.site import HostPlan, Plan

HOMES = "/var/lib/ollama"
UNIT = "/etc/systemd/system/ollama@.service"
DEVICE_GROUPS = ("video", "render")


@deploy("Ollama")
def prepare(host_plan: HostPlan) -> None:
    """Unpack the planned release beside the one in use: that takes long and interrupts nobody."""
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
    for directory in host.loop((HOMES, "/etc/ollama", ollama.RELEASES)):
        files.directory(name=f"Make {directory}", path=directory, mode="0755")
    packages.present(name="Install what unpacks a release", names=host_plan.ollama.packages)
    ollama.unpack_release(name=f"Unpack Ollama {host_plan.ollama.version}, its digest checked", ollama=host_plan.ollama)


@deploy("Ollama")
def stop_former_instances(host_plan: HostPlan) -> list[OperationMeta]:
    """Stop what the plan no longer has here; returns the operations that interrupt."""
    instances = host_plan.ollama.instances if host_plan.ollama else ()
    return [
        units.absent(
            name="Stop instances that the plan no longer has here",
            pattern="ollama@*.service",
            keep=[instance.unit for instance in instances],
            drain_timeout_s=host_plan.maintenance.drain_timeout_s,
        )
    ]


@deploy("Ollama")
def install(host_plan: HostPlan) -> list[OperationMeta]:
    """Switch to the planned release and settings; returns the operations that interrupt instances."""
    wanted = host_plan.ollama
    switch = ollama.switch_release(name=f"Make {wanted.version} the current release", version=wanted.version)
    unit = files.put(
        name="Write the instances' unit",
        src="templates/ollama/ollama@.service",
        dest=UNIT,
        mode="0644",
    )
    restarts = []
    for instance in host.loop(wanted.instances):
        for directory in host.loop((instance.home, instance.store)):
            files.directory(
                name=f"Make {directory}",
                path=directory,
                user="ollama",
                group="ollama",
                mode="0700",
            )
        environment = ollama.write_environment(
            name=f"Write {instance.environment_file}",
            instance=instance,
            gpu_count=host_plan.gpu_count,
            expected=host_plan.expected_gpus,
            place=host_plan.gpu_place,
        )
        restarts.append(_restart(host_plan, instance, [switch, unit, environment]))
        systemd.service(
            name=f"Start {instance.unit}",
            service=instance.unit,
            running=True,
            enabled=True,
        )
    ollama.remove_old_releases(name="Remove releases that nobody goes back to", version=wanted.version, after=[switch])
    return restarts


@deploy("Ollama")
def roll_back(host_plan: HostPlan) -> list[OperationMeta]:
    """Switch to the release before; returns the operations that interrupt instances."""
    switch = ollama.roll_back(
        name="Make the previous release current", version=host_plan.ollama.version, major=host_plan.driver.major
    )
    return [_restart(host_plan, instance, [switch]) for instance in host.loop(host_plan.ollama.instances)]


def _restart(host_plan: HostPlan, instance: InstancePlan, after: list[OperationMeta]) -> OperationMeta:
    return restart.on_change(
        name=f"Restart {instance.unit} with what is new",
        service=instance.unit,
        watch=(UNIT, instance.environment_file, ollama.CURRENT_DIGEST),
        # systemd counts restarts until it is reset: those of before the fix count no longer.
        command=f"systemctl reset-failed {instance.unit} 2>/dev/null || true\nsystemctl restart {instance.unit}",
        after=after,
        interrupts=drain.Interruption((instance.group,), host_plan.maintenance.drain_timeout_s),
    )


@deploy("Stores")
def remove_surplus(plan: Plan, host_plan: HostPlan) -> None:
    """Delete models and stores that the site no longer wants here, last: what has moved serves elsewhere by then."""
    stores.remove_surplus(
        name="Remove models and stores that the site no longer wants here",
        host_plan=host_plan,
        plan=plan,
    )
