"""The NVIDIA driver that runs, and the boot that it runs since."""

from __future__ import annotations

from dataclasses import dataclass

from pyinfra.api import FactBase, StringCommand
from pyinfra.api.command import QuoteString

from flexi.facts.host import _CARDS
from flexi.probe import booting_next, driver_version, is_mismatch, kernel_releases, parse_cards


@dataclass(frozen=True)
class DriverState:
    """State of the NVIDIA driver in the kernel and in user space.

    `running` is the loaded kernel module's version or None, `smi_error` the first complaint of nvidia-smi.
    """

    running: str | None
    nouveau: bool
    smi_error: str | None
    boot_id: str
    tried_boot_id: str | None
    """The boot that our last reboot led to, where it did not help: a second one would not help either."""
    kernel: str = ""
    """Release of the running kernel."""
    kernels: tuple[str, ...] = ()
    """Releases of the installed kernels' packages, oldest first; the last one boots next."""
    tried_kernel: str | None = None
    """The kernel that this reboot was to start and did not; None where it was the driver that did not come."""

    @property
    def next_kernel(self) -> str | None:
        """Release of the kernel that the next boot starts, where it is another one than the running."""
        newest = booting_next(self.kernels, self.kernel)
        return newest if newest != self.kernel else None

    @property
    def mismatch(self) -> bool:
        """True where the library was changed under the loaded module: the one error of nvidia-smi that a boot fixes."""
        return self.smi_error is not None and is_mismatch([self.smi_error])

    @property
    def running_major(self) -> int | None:
        return int(self.running.split(".")[0]) if self.running else None


REBOOT_MARK = "/var/lib/flexi/driver-boot-id"
"""File with what our last reboot did not fix: the id of the boot that it led to and, where the driver was right and
only an older kernel was started, on a second line the kernel that was wanted."""

_DRIVER_STATE = f"""
echo "running=$(cat /proc/driver/nvidia/version 2>/dev/null | head -n1)"
echo "nouveau=$([ -d /sys/module/nouveau ] && echo 1 || echo 0)"
echo "boot_id=$(cat /proc/sys/kernel/random/boot_id)"
echo "tried=$(cat {REBOOT_MARK} 2>/dev/null | tr '\\n' ' ')"
echo "kernel=$(cat /proc/sys/kernel/osrelease)"
dpkg-query -W -f='${{db:Status-Status}} ${{Package}}\\n' 'linux-image-*' 2>/dev/null | sed -n 's/^installed /image=/p'
"""


class NvidiaDriver(FactBase[DriverState]):
    """The running driver, and what nvidia-smi complains of."""

    def command(self) -> StringCommand:
        return StringCommand("sh", "-c", QuoteString(f"{_DRIVER_STATE.strip()}\n{_CARDS}true"))

    def process(self, output: list[str]) -> DriverState:
        pairs = [line.split("=", 1) for line in output if "=" in line]
        values = dict(pair for pair in pairs if pair[0] != "image")
        tried = values.get("tried", "").split()
        cards = parse_cards("\n".join(output))
        errors = cards.errors if cards else ("nvidia-smi is not installed",)
        return DriverState(
            running=driver_version(values.get("running", "")),
            nouveau=values.get("nouveau", "0") not in ("", "0"),
            smi_error=errors[0] if errors else None,
            boot_id=values.get("boot_id", ""),
            tried_boot_id=tried[0] if tried else None,
            tried_kernel=tried[1] if tried[1:] else None,
            kernel=values.get("kernel", ""),
            kernels=kernel_releases(pair[1].strip() for pair in pairs if pair[0] == "image"),
        )


class BootId(FactBase[str]):
    """Changes with every boot (`man 5 proc`), unlike the uptime also inside a container."""

    def command(self) -> StringCommand:
        return StringCommand("cat /proc/sys/kernel/random/boot_id")

    def process(self, output: list[str]) -> str:
        return output[0].strip()
