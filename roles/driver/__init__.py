"""The NVIDIA driver, headless and with signed modules, pinned, held, and running: a reboot only when it is not."""

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.api.operation import OperationMeta
from pyinfra.operations import files, systemd

from flexi.operations.applying import applied
from flexi.operations.cards import cards_expected
from flexi.operations.draining import Interruption
from flexi.operations.packages import (
    driver_installed,
    held,
    kernel_modules,
    modules_obtainable,
    obtainable,
    unheld_but,
    updated,
)
from flexi.operations.rebooting import reboot_permitted, rebooted
from flexi.plan.model.driver import DriverPlan
from flexi.plan.model.site import HostPlan

NOUVEAU = "/etc/modprobe.d/flexi-nouveau.conf"
NODES = "flexi-gpu-nodes.service"
NODES_UNIT = f"/etc/systemd/system/{NODES}"
NODES_PROGRAM = "/opt/flexi/flexi-gpu-nodes"
PERSISTENCED = "/etc/systemd/system/nvidia-persistenced.service.d/flexi.conf"


@deploy("Driver")
def permit(plan: HostPlan) -> None:
    """Before anything else: a host with other cards than the site file's, or one that would need a reboot which is not
    allowed, is left as it is."""
    assert plan.driver is not None
    cards_expected(
        name="See that the cards are those of the site file",
        expected=plan.expected_gpus,
        place=plan.gpu_place,
    )
    reboot_permitted(
        name="See that no reboot is due, or that it is allowed",
        driver=plan.driver,
        maintenance=plan.maintenance,
        update=bool(host.data.get("update")),
    )


@deploy("Driver")
def permit_still(plan: HostPlan) -> None:
    """Before the host's turn: the hosts before may have taken longer than the window is open."""
    assert plan.driver is not None
    reboot_permitted(
        name="See that a reboot which is due is still allowed",
        driver=plan.driver,
        maintenance=plan.maintenance,
        update=bool(host.data.get("update")),
        untouched="What serves here was left as it is",
    )


@deploy("Driver")
def prepare(plan: DriverPlan) -> None:
    """What interrupts nobody, and fails before anything does."""
    if plan.wanted_version:
        obtainable(
            name=f"Make sure that {plan.wanted_version} can be had",
            package=plan.version_package,
            version=plan.wanted_version,
        )
    files.template(
        name="Pin the driver's packages",
        src="templates/driver/preferences.j2",
        dest="/etc/apt/preferences.d/flexi-driver",
        mode="0644",
        pins=plan.pins,
    )
    modules_obtainable(name="Make sure that modules for the kernel that boots next can be had", driver=plan)


@deploy("Driver")
def install(plan: HostPlan) -> list[OperationMeta]:
    """Returns the operations that interrupt the host's instances."""
    driver = plan.driver
    assert driver is not None
    instances = plan.ollama.instances if plan.ollama else ()
    interrupts = Interruption(tuple(i.group for i in instances), plan.maintenance.drain_timeout_s)
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
    unheld_but(name="Let go of the packages of another branch", packages=driver.holds)
    packages = driver_installed(name=f"Install the driver {driver.branch}", driver=driver, interrupts=interrupts)
    interruptions = [packages]
    if host.data.get("update"):
        update = updated(
            name="Update the driver and the kernel within their branch",
            driver=driver,
            maintenance=plan.maintenance,
            interrupts=interrupts,
        )
        interruptions.append(update)
    kernel_modules(
        name="Have modules for the kernel that boots next", module_package=driver.module_package, after=interruptions
    )
    held(
        name="Hold the driver and the kernel that it is built for",
        packages=driver.holds,
        coming=driver.packages,
        after=interruptions,
    )
    applied(
        name="Leave nouveau out of the initramfs",
        what="initramfs",
        inputs=(NOUVEAU,),
        command="! command -v update-initramfs >/dev/null || update-initramfs -u",
        after=[nouveau],
    )
    reboot = rebooted(
        name="Reboot into the driver and the kernel if others run",
        driver=driver,
        maintenance=plan.maintenance,
        interrupts=interrupts,
        update=bool(host.data.get("update")),
        after=interruptions,
    )
    nodes = [
        files.put(
            name="Write what loads the modules and makes the cards' nodes",
            src="templates/driver/flexi-gpu-nodes",
            dest=NODES_PROGRAM,
            mode="0755",
        ),
        files.put(name=f"Write {NODES}", src=f"templates/driver/{NODES}", dest=NODES_UNIT, mode="0644"),
    ]
    # Not enabled: each start of an instance, of the agent and of the persistence daemon asks for it.
    applied(
        name="Make the cards' nodes with what is new",
        what=NODES,
        inputs=(NODES_UNIT, NODES_PROGRAM),
        command=f"systemctl start {NODES}",
        after=nodes,
    )
    persistence = files.put(
        name="Let the persistence daemon keep the cards awake",
        src="templates/driver/nvidia-persistenced.conf",
        dest=PERSISTENCED,
        mode="0644",
    )
    applied(
        name="Restart the persistence daemon with what is new",
        what="nvidia-persistenced.service",
        inputs=(PERSISTENCED,),
        command="systemctl restart nvidia-persistenced.service",
        after=[persistence],
    )
    systemd.service(
        name="Keep the driver loaded between uses",
        service="nvidia-persistenced.service",
        running=True,
        enabled=True,
    )
    return [*interruptions, reboot]
