"""The plan's part for changes that interrupt service."""

from __future__ import annotations

from flexi.catalog.frozen import Frozen as _Frozen
from flexi.catalog.windows import Window


class MaintenancePlan(_Frozen):
    """How a change that interrupts a host's service is made."""

    reboot_windows: tuple[Window, ...] = ()
    """When a reboot needs no permission."""
    drain_timeout_s: int = 300
    """How long answers that are being written may take to end before their instance is stopped."""
