"""The NVIDIA driver, headless and with signed modules, pinned, held, and running: a reboot only when it is not."""

from pyinfra.api import deploy
from pyinfra.operations import files, systemd

from flexi.operations.applying import applied
from flexi.operations.packages import held, installed, obtainable, unheld_but
from flexi.operations.system import running_driver
from flexi.plan.model import DriverPlan

NOUVEAU = "/etc/modprobe.d/flexi-nouveau.conf"
PERSISTENCED = "/etc/systemd/system/nvidia-persistenced.service.d/flexi.conf"


@deploy("Driver")
def install(plan: DriverPlan) -> None:
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
    files.put(
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
    unheld_but(name="Let go of the packages of another branch", packages=plan.holds)
    installed(name=f"Install the driver {plan.branch}", packages=plan.packages)
    held(name="Hold the driver and the kernel that it is built for", packages=plan.holds)
    applied(
        name="Leave nouveau out of the initramfs",
        what="initramfs",
        inputs=(NOUVEAU,),
        command="! command -v update-initramfs >/dev/null || update-initramfs -u",
    )
    # One host at a time, so that the site never stands still as a whole.
    running_driver(name="Reboot into the driver if another one runs", major=plan.major, _serial=True)
    files.put(
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
    )
    systemd.service(
        name="Keep the driver loaded between uses",
        service="nvidia-persistenced.service",
        running=True,
        enabled=True,
    )
