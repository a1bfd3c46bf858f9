"""The plan's part for flexi-agent."""

from __future__ import annotations

from flexi.catalog.frozen import Frozen as _Frozen


class AgentPlan(_Frozen):
    check_port: int
    """Where HAProxy's agent-check asks `<group> <model>`."""
    interval_s: int
    """How often every instance is looked at and keep-alive is re-asserted where it was lost."""
