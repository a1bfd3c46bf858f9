"""What is true on a host: one read-only probe, and what it learnt as plain data.

`PROBE` is POSIX sh text for root; `parse` makes a `HostTruth` of what it prints. Who runs it is no matter of this
package: `flexi.doctor` does over SSH. The facts of roles ask less, more often, and read it by the same functions.
"""

from __future__ import annotations

from pathlib import Path

from flexi.probe.model import (
    Candidate,
    Certificate,
    Disk,
    Gpu,
    HostTruth,
    Instance,
    Loaded,
    Module,
    Package,
    PciCard,
    Pin,
    Process,
    Unit,
    Xid,
    booting_next,
    is_library,
    is_mismatch,
    kernel_releases,
    release_key,
    upstream,
)
from flexi.probe.parsing import driver_version, parse, parse_cards

SMI = Path(__file__).with_name("smi.sh").read_text(encoding="utf-8")
"""POSIX sh text that defines `the_cards FIELDS`, which prints nvidia-smi's answers for `parse_cards`."""
PROBE = SMI + Path(__file__).with_name("probe.sh").read_text(encoding="utf-8")

__all__ = [
    "PROBE",
    "SMI",
    "Candidate",
    "Certificate",
    "Disk",
    "Gpu",
    "HostTruth",
    "Instance",
    "Loaded",
    "Module",
    "Package",
    "PciCard",
    "Pin",
    "Process",
    "Unit",
    "Xid",
    "booting_next",
    "driver_version",
    "is_library",
    "is_mismatch",
    "kernel_releases",
    "parse",
    "parse_cards",
    "release_key",
    "upstream",
]
