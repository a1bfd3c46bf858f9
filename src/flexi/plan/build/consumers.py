"""Classes of consumers in the plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexi.catalog.consumers import HEALTH_CONSUMER
from flexi.plan.model.gateway import ClassPlan

if TYPE_CHECKING:
    from flexi.site.schema.gateway import ConsumerClass


HEALTH_CLASS = ClassPlan(
    name=HEALTH_CONSUMER,
    models=None,
    at_once=1000,
    per_minute=None,
    per_hour=None,
    per_day=None,
    priority="interactive",
    networks=(),
    options="fixed",
)


def consumer_class(name: str, rules: ConsumerClass) -> ClassPlan:
    """The class `name` of the site file."""
    return ClassPlan(
        name=name,
        models=None if rules.models == "all" else rules.models,
        at_once=rules.at_once,
        per_minute=rules.per_minute,
        per_hour=rules.per_hour,
        per_day=rules.per_day,
        priority=rules.priority,
        networks=rules.networks,
        options=rules.options,
        max_answer_tokens=rules.max_answer_tokens,
    )
