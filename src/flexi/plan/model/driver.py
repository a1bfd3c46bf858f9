"""The plan's part for the NVIDIA driver."""

from __future__ import annotations

from flexi.catalog.frozen import Frozen as _Frozen
from flexi.catalog.platforms import PinPlan


class DriverPlan(_Frozen):
    branch: str
    """As the site file names it, e.g. `535-server`."""
    major: int
    packages: tuple[str, ...]
    holds: tuple[str, ...]
    """Package names to `apt-mark hold` once they are installed."""
    pins: tuple[PinPlan, ...]
    version_package: str
    """The package whose version is the driver's, e.g. `nvidia-utils-535-server`."""
    kernel: str
    """The kernel's flavour, e.g. `generic`: the releases of its kernels (`uname -r`) end with it, and HWE's with the
    flavour that they are of (`generic`)."""
    module_package: str
    """`{release}` in it stands for a kernel's release: the package that brings the driver's modules for that kernel,
    prebuilt (Ubuntu) or by way of its headers (Debian, DKMS). Installed for each kernel before it is booted."""
    kernel_packages: tuple[str, ...]
    """Follow the newest kernel of the flavour: a kernel update upgrades those of them that are installed, together."""
    wanted_version: str | None
    """The one version of `version_package` that will do, as apt writes it; None where any of the branch will."""
