"""The NVIDIA driver, headless and with signed modules, pinned, held, and running: a reboot only when it is not."""

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.api.operation import OperationMeta
from pyinfra.operations import files

from flexi.operations import cards, drain, driver, packages, reboot, restart
from flexi.plan.model.site import HostPlan
from roles.services import UnitFile, managed_service

NOUVEAU = "/etc/modprobe.d/flexi-nouveau.conf"
NODES = "flexi-gpu-nodes.service"
NODES_UNIT = f"/etc/systemd/system/{NODES}"
NODES_PROGRAM = "/opt/flexi/flexi-gpu-nodes"
PERSISTENCED = "/etc/systemd/system/nvidia-persistenced.service.d/flexi.conf"


@deploy("Driver")
def permit(host_plan: HostPlan) -> None:
    """Fail the host before anything else where its cards are others than the site file's, or where it would need a
    reboot that is not allowed."""
    cards.require_planned(
        name="See that the cards are those of the site file",
        expected=host_plan.expected_gpus,
        place=host_plan.gpu_place,
    )
    reboot.fail_unless_allowed(
        name="See that no reboot is due, or that it is allowed",
        driver=host_plan.driver,
        maintenance=host_plan.maintenance,
        update=bool(host.data.get("update")),
    )


@deploy("Driver")
def permit_still(host_plan: HostPlan) -> None:
    """Ask again before the host's turn: the hosts before may have taken longer than the window is open."""
    reboot.fail_unless_allowed(
        name="See that a reboot which is due is still allowed",
        driver=host_plan.driver,
        maintenance=host_plan.maintenance,
        update=bool(host.data.get("update")),
        untouched="What serves here was left as it is",
    )


@deploy("Driver")
def prepare(host_plan: HostPlan) -> None:
    """Do what interrupts nobody, and fail before anything does."""
    wanted = host_plan.driver
    if wanted.wanted_version:
        driver.require_version(
            name=f"Make sure that {wanted.wanted_version} can be had",
            package=wanted.version_package,
            version=wanted.wanted_version,
        )
    files.template(
        name="Pin the driver's packages",
        src="templates/driver/preferences.j2",
        dest="/etc/apt/preferences.d/flexi-driver",
        mode="0644",
        pins=wanted.pins,
    )
    driver.require_kernel_modules(
        name="Make sure that modules for the kernel that boots next can be had", driver=wanted
    )


@deploy("Driver")
def install(host_plan: HostPlan) -> list[OperationMeta]:
    """Install, hold and start the driver; returns the operations that interrupt the host's instances."""
    instances = host_plan.ollama.instances if host_plan.ollama else ()
    groups = tuple(instance.group for instance in instances)
    interrupts = drain.Interruption(groups, host_plan.maintenance.drain_timeout_s)
    nouveau = _module_settings()
    interruptions = _packages(host_plan, interrupts)
    restart.on_change(
        name="Leave nouveau out of the initramfs",
        service="initramfs",
        watch=(NOUVEAU,),
        command="! command -v update-initramfs >/dev/null || update-initramfs -u",
        after=[nouveau],
    )
    rebooted = reboot.if_needed(
        name="Reboot into the driver and the kernel if others run",
        driver=host_plan.driver,
        maintenance=host_plan.maintenance,
        interrupts=interrupts,
        update=bool(host.data.get("update")),
        after=interruptions,
    )
    _nodes()
    managed_service(
        "nvidia-persistenced.service",
        unit_files=[
            UnitFile(
                "Let the persistence daemon keep the cards awake",
                "templates/driver/nvidia-persistenced.conf",
                PERSISTENCED,
            )
        ],
        restart_name="Restart the persistence daemon with what is new",
        start_name="Keep the driver loaded between uses",
    )
    return [*interruptions, rebooted]


def _nodes() -> None:
    """Write and run the unit that loads the modules and makes the cards' nodes. It is not enabled: each start of an
    instance, of the agent and of the persistence daemon asks for it."""
    written = [
        files.put(
            name="Write what loads the modules and makes the cards' nodes",
            src="templates/driver/flexi-gpu-nodes",
            dest=NODES_PROGRAM,
            mode="0755",
        ),
        files.put(name=f"Write {NODES}", src=f"templates/driver/{NODES}", dest=NODES_UNIT, mode="0644"),
    ]
    restart.on_change(
        name="Make the cards' nodes with what is new",
        service=NODES,
        watch=(NODES_UNIT, NODES_PROGRAM),
        command=f"systemctl start {NODES}",
        after=written,
    )


def _module_settings() -> OperationMeta:
    """Write which kernel modules are loaded and which never; returns the operation that the initramfs depends on."""
    nouveau = files.put(
        name="Keep nouveau from taking the cards",
        src="templates/driver/nouveau.conf",
        dest=NOUVEAU,
        mode="0644",
    )
    files.put(
        name="Load the modules at boot",
        src="templates/driver/modules-load.conf",
        dest="/etc/modules-load.d/flexi-nvidia.conf",
        mode="0644",
    )
    return nouveau


def _packages(host_plan: HostPlan, interrupts: drain.Interruption) -> list[OperationMeta]:
    """Install and hold the driver's packages; returns the operations that interrupt the host's instances."""
    wanted = host_plan.driver
    packages.holds_released(name="Let go of the packages of another branch", except_for=wanted.holds)
    installed = driver.install(name=f"Install the driver {wanted.branch}", driver=wanted, interrupts=interrupts)
    interruptions = [installed]
    if host.data.get("update"):
        updated = driver.update(
            name="Update the driver and the kernel within their branch",
            driver=wanted,
            maintenance=host_plan.maintenance,
            interrupts=interrupts,
        )
        interruptions.append(updated)
    driver.install_kernel_modules(
        name="Have modules for the kernel that boots next", module_package=wanted.module_package, after=interruptions
    )
    packages.hold(
        name="Hold the driver and the kernel that it is built for",
        names=wanted.holds,
        coming=wanted.packages,
        after=interruptions,
    )
    return interruptions
