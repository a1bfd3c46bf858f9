"""The NVIDIA driver, headless and with signed modules, pinned, held, and running: a reboot only when it is not."""

from pyinfra.api import deploy
from pyinfra.operations import apt, files, server, systemd
from pyinfra.operations.util import any_changed

from flexi.operations.packages import held
from flexi.operations.system import running_driver
from flexi.plan.model import DriverPlan

INDEX_AGE_S = 3600


@deploy("Driver")
def install(plan: DriverPlan) -> None:
    files.template(
        name="Pin the driver's packages",
        src="templates/driver/preferences.j2",
        dest="/etc/apt/preferences.d/flexi-driver",
        mode="0644",
        pins=plan.pins,
    )
    nouveau = files.put(
        name="Keep nouveau from taking the cards",
        src="templates/driver/nouveau.conf",
        dest="/etc/modprobe.d/flexi-nouveau.conf",
        mode="0644",
    )
    files.put(
        name="Load the modules at boot",
        src="templates/driver/modules-load.conf",
        dest="/etc/modules-load.d/flexi-nvidia.conf",
        mode="0644",
    )
    apt.packages(
        name=f"Install the driver {plan.branch}",
        packages=list(plan.packages),
        update=True,
        cache_time=INDEX_AGE_S,
        no_recommends=True,
    )
    held(name="Hold the driver and the kernel that it is built for", packages=plan.holds)
    server.shell(
        name="Leave nouveau out of the initramfs",
        commands=["! command -v update-initramfs >/dev/null || update-initramfs -u"],
        _if=any_changed(nouveau),
    )
    # One host at a time, so that the site never stands still as a whole.
    running_driver(name="Reboot into the driver if another one runs", major=plan.major, _serial=True)
    systemd.service(
        name="Keep the driver loaded between uses",
        service="nvidia-persistenced.service",
        running=True,
        enabled=True,
    )
