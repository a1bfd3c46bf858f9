"""What the service as a whole says (`flexi.status.problems`), as findings: for what no look at a host explains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flexi.plan.model.site import Plan
from flexi.status.problems import Problem, Subject

from . import kinds
from .case import Finding, finding

KINDS = {
    Subject.HOST: kinds.UNREACHABLE,
    Subject.UNIT: kinds.UNIT_DOWN,
    Subject.FIREWALL: kinds.FIREWALL_OPEN,
    Subject.AGENT: kinds.AGENT_SILENT,
    Subject.CARDS: kinds.GPU_OTHER,
    Subject.MODEL: kinds.MODEL_NOT_READY,
    Subject.GATEWAY: kinds.GATEWAY_DOWN,
    Subject.CLIENTS: kinds.GATEWAY_WRONG,
    Subject.SERVER: kinds.GATEWAY_WITHHOLDS,
    Subject.KEYS: kinds.KEYS_DIFFER,
    Subject.LEDGER: kinds.LEDGER_SILENT,
    Subject.CHAT: kinds.CHAT_DOWN,
    Subject.BOT: kinds.BOT_NOT_READY,
}
"""Kind of finding for each subject of a problem."""
_EXPLAINED = (Subject.MODEL, Subject.SERVER, Subject.CARDS)
"""Subjects that any error of their GPU host explains."""
_NO_LOOK = (kinds.UNREACHABLE, kinds.NO_ROOT, kinds.HANGS)


def findings(site: str, plan: Plan, problems: Sequence[Problem], known: Sequence[Finding]) -> Iterator[Finding]:
    """Turn problems into findings, but for those that `known` findings explain.

    A host that gives no answer explains everything on it, an error of a GPU host its models that are not ready, and a
    finding of the same kind about the same unit or thing itself.
    """
    silent = {one.host for one in known if one.kind in _NO_LOOK}
    broken = {one.host for one in known if one.kind.severity == "error"}
    home = {instance.group: instance.host for instance in plan.instances}
    for problem in problems:
        kind = KINDS[problem.subject]
        host = home.get(problem.group, problem.host)
        if problem.host in silent or (problem.subject in _EXPLAINED and host in broken | silent):
            continue
        if problem.unit.startswith("ollama@") and problem.host in broken:
            # The look at the host says why it does not start.
            continue
        same = [one for one in known if one.host == problem.host and one.kind is kind]
        if any(not problem.unit or problem.unit in one.what for one in same):
            continue
        host_plan = plan.host(problem.host)
        words = {"unit": problem.unit or "flexi-agent.service", "place": host_plan.gpu_place}
        yield finding(kind, site, host_plan, problem.what, **words)
