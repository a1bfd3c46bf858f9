"""Ollama: one pinned release, one hardened instance for each GPU group, each with a home and a store of its own."""

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.api.operation import OperationMeta
from pyinfra.operations import files, server, systemd

from flexi.operations.applying import applied
from flexi.operations.draining import Interruption
from flexi.operations.ollama import (
    CURRENT_DIGEST,
    RELEASES,
    current_release,
    environment_file,
    previous_release,
    release,
    releases_kept,
)
from flexi.operations.packages import installed
from flexi.operations.retiring import retired
from flexi.operations.stores import surplus_removed
from flexi.plan.model.ollama import InstancePlan, OllamaPlan
from flexi.plan.model.site import HostPlan, Plan

HOMES = "/var/lib/ollama"
UNIT = "/etc/systemd/system/ollama@.service"
DEVICE_GROUPS = ("video", "render")


@deploy("Ollama")
def fetch(plan: OllamaPlan) -> None:
    """What takes long and interrupts nobody: the release lies beside the one in use."""
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


@deploy("Ollama")
def retire(plan: HostPlan) -> list[OperationMeta]:
    """Stop what the plan no longer has here; returns the operations that interrupt."""
    instances = plan.ollama.instances if plan.ollama else ()
    return [
        retired(
            name="Stop instances that the plan no longer has here",
            pattern="ollama@*.service",
            keep=[instance.unit for instance in instances],
            drain_timeout_s=plan.maintenance.drain_timeout_s,
        )
    ]


@deploy("Ollama")
def install(plan: HostPlan) -> list[OperationMeta]:
    """Switch to the planned release and settings; returns the operations that interrupt instances."""
    ollama = plan.ollama
    assert ollama is not None
    switch = current_release(name=f"Make {ollama.version} the current release", version=ollama.version)
    unit = files.put(
        name="Write the instances' unit",
        src="templates/ollama/ollama@.service",
        dest=UNIT,
        mode="0644",
    )
    restarts = []
    for instance in host.loop(ollama.instances):
        for directory in host.loop((instance.home, instance.store)):
            files.directory(
                name=f"Make {directory}",
                path=directory,
                user="ollama",
                group="ollama",
                mode="0700",
            )
        environment = environment_file(
            name=f"Write {instance.environment_file}",
            instance=instance,
            gpu_count=plan.gpu_count,
            expected=plan.expected_gpus,
            place=plan.gpu_place,
        )
        restarts.append(_restart(plan, instance, [switch, unit, environment]))
        systemd.service(
            name=f"Start {instance.unit}",
            service=instance.unit,
            running=True,
            enabled=True,
        )
    releases_kept(name="Remove releases that nobody goes back to", version=ollama.version, after=[switch])
    return restarts


@deploy("Ollama")
def roll_back(plan: HostPlan) -> list[OperationMeta]:
    """Switch to the release before; returns the operations that interrupt instances."""
    assert plan.ollama is not None
    assert plan.driver is not None
    switch = previous_release(
        name="Make the previous release current", version=plan.ollama.version, major=plan.driver.major
    )
    return [_restart(plan, instance, [switch]) for instance in host.loop(plan.ollama.instances)]


def _restart(plan: HostPlan, instance: InstancePlan, after: list[OperationMeta]) -> OperationMeta:
    return applied(
        name=f"Restart {instance.unit} with what is new",
        what=instance.unit,
        inputs=(UNIT, instance.environment_file, CURRENT_DIGEST),
        # systemd counts restarts until it is told otherwise: those of before the mend are nobody's fault any more.
        command=f"systemctl reset-failed {instance.unit} 2>/dev/null || true\nsystemctl restart {instance.unit}",
        after=after,
        interrupts=Interruption((instance.group,), plan.maintenance.drain_timeout_s),
    )


@deploy("Stores")
def tidy(plan_host: HostPlan, plan: Plan) -> None:
    """The last phase of a deploy: what has moved serves at its new place by then."""
    surplus_removed(
        name="Remove models and stores that the site no longer wants here",
        plan_host=plan_host,
        plan=plan,
    )
