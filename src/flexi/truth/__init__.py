"""What is true on a host: one read-only probe, and what it learnt as plain data.

`PROBE` is POSIX sh text for root; `parse` makes a `HostTruth` of what it prints. Who runs it is no matter of this
package: `flexi.doctor` does over SSH, `flexi.facts.HostFacts` within pyinfra.
"""

from __future__ import annotations

from pathlib import Path

from .model import (
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
    release_key,
    upstream,
)
from .parsing import parse

PROBE = Path(__file__).with_name("probe.sh").read_text(encoding="utf-8")

__all__ = [
    "PROBE",
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
    "parse",
    "release_key",
    "upstream",
]
