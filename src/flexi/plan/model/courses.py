"""Course bots in the plan: plain data, as in `flexi.plan.model.site`."""

from __future__ import annotations

from typing import Literal

from flexi.catalog.frozen import Frozen

COURSES_FILE = "/etc/flexi/courses.json"
"""On the chat's host: what bots there should be."""
COURSES_STORE = "/var/lib/flexi-courses"
"""On the chat's host: the material, each file under its SHA-256."""


class AccessPlan(Frozen):
    """Who may use something; everyone, or those who are named."""

    everyone: bool
    groups: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()


class MaterialPlan(Frozen):
    """A file of a course on the admin's machine."""

    name: str
    """Below the course's `material/`."""
    path: str
    """Absolute."""
    size: int
    """Bytes."""
    kind: str
    """Media type."""


class CoursePlan(Frozen):
    """A course bot, everything filled in."""

    id: str
    title: str
    model: str
    temperature: float
    language: Literal["de", "en"]
    system_prompt: str
    welcome: str
    questions: tuple[str, ...]
    access: AccessPlan
    material: tuple[MaterialPlan, ...]


class VisibleModel(Frozen):
    """A model that users of the chat may reach."""

    name: str
    access: AccessPlan
    listed: bool
    """Whether the page offers it; the model behind a bot need not be."""
