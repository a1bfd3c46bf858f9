"""The doctor's judgement of each host: `verify` is not content with a site that the doctor is not content with."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from flexi import doctor
from flexi.doctor import Examination
from flexi.plan.model.site import HostPlan, Plan


@pytest.fixture(scope="session")
def examination(plan: Plan) -> Examination:
    """All hosts at once, and the service."""
    return doctor.examine(plan.site, plan, (), Console(file=io.StringIO()))


def test_doctor(host_plan: HostPlan, examination: Examination) -> None:
    """the doctor finds nothing wrong with it"""
    found = [finding for finding in examination.errors if finding.host == host_plan.name]
    more = f"; and {len(found) - 1} more" if found[1:] else ""
    assert not found, f"{found[0].kind.id}: {found[0].what}{more}"
