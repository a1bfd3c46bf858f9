"""From what is true to what is wrong. Pure."""

from __future__ import annotations

from . import driver, gpus, host, kinds, service
from .case import Case, Finding
from .kinds import KINDS

RULES = (host.diagnose, driver.diagnose, gpus.diagnose, service.diagnose)
CAUSES = (
    kinds.MISMATCH,
    kinds.NOT_LOADED,
    kinds.NOUVEAU,
    kinds.SMI_FAILS,
    kinds.GPU_MISSING,
    kinds.GPU_UNUSABLE,
    kinds.GPU_REPLACED,
    kinds.UVM_MISSING,
)
"""What keeps the gate of an instance shut: that it tries again and again follows from it."""


def diagnose(case: Case) -> list[Finding]:
    """Everything that is wrong with a host that answered: errors first, then in the order of the documentation."""
    found = [finding for rule in RULES for finding in rule(case)]
    if any(finding.kind in CAUSES for finding in found):
        found = [finding for finding in found if finding.kind is not kinds.LOOP]
    if not case.truth.complete:
        found.append(case.finding(kinds.HANGS, f"the look at its {case.truth.hung_in} gave no answer in time"))
    elif not any(finding.kind.severity == "error" for finding in found):
        found += service.model_faults(case)
    order = list(KINDS)
    return sorted(found, key=lambda finding: (finding.kind.severity != "error", order.index(finding.kind.id)))
