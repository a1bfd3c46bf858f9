"""Moodle's provider, by Moodle's own PHP."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import FactBase, FunctionCommand, QuoteString, StringCommand, operation

from flexi.moodle import provider
from flexi.moodle.provider import Report
from flexi.operations.refusal import refuse
from flexi.plan.model.moodle import MoodlePlan


class MoodleProvider(FactBase[Report]):
    """What a deploy would change in Moodle."""

    def command(self, plan: MoodlePlan, new_key: bool) -> StringCommand:
        return _shell(plan, apply=False, new_key=new_key)

    def process(self, output: list[str]) -> Report:
        return provider.read(output)


@operation(is_idempotent=True)
def provider_set_up(plan: MoodlePlan, new_key: bool = False) -> Generator[StringCommand | FunctionCommand, None, None]:
    """Make the provider what the plan says. Moodle refuses as a whole what it cannot be."""
    found = host.get_fact(MoodleProvider, plan=plan, new_key=new_key)
    if found.problems:
        yield refuse("; ".join(found.problems))
    elif found.changes:
        # A problem that shows only now fails the run.
        yield _shell(plan, apply=True, new_key=new_key, check=True)
    else:
        host.noop("Moodle is set up as the site file says")


def _shell(plan: MoodlePlan, *, apply: bool, new_key: bool, check: bool = False) -> StringCommand:
    script = provider.script(plan, apply=apply, new_key=new_key)
    if check:
        script = (
            f"said=$({script})\nprintf '%s\\n' \"$said\" >&2\nprintf '%s\\n' \"$said\" | grep -q '\"problems\":\\[\\]'"
        )
    return StringCommand("sh", "-c", QuoteString(script))
