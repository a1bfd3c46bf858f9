"""Moodle's provider, by Moodle's own PHP."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import FactBase, FunctionCommand, QuoteString, StringCommand, operation

from flexi.moodle import provider
from flexi.moodle.provider import Report
from flexi.operations.host_failure import fail_host
from flexi.plan.model.moodle import MoodlePlan


class MoodleProvider(FactBase[Report]):
    """Changes that a deploy would make in Moodle."""

    def command(self, moodle: MoodlePlan, new_key: bool) -> StringCommand:
        return _shell(moodle, apply=False, new_key=new_key)

    def process(self, output: list[str]) -> Report:
        return provider.read(output)


@operation(is_idempotent=True)
def configure_provider(
    moodle: MoodlePlan, new_key: bool = False
) -> Generator[StringCommand | FunctionCommand, None, None]:
    """Configure the provider as the plan says. Moodle refuses as a whole what it cannot be."""
    found = host.get_fact(MoodleProvider, moodle=moodle, new_key=new_key)
    if found.problems:
        yield fail_host("; ".join(found.problems))
    elif found.changes:
        # A problem that shows only now fails the run.
        yield _shell(moodle, apply=True, new_key=new_key, check=True)
    else:
        host.noop("Moodle is set up as the site file says")


def _shell(moodle: MoodlePlan, *, apply: bool, new_key: bool, check: bool = False) -> StringCommand:
    script = provider.script(moodle, apply=apply, new_key=new_key)
    if check:
        script = (
            f"said=$({script})\nprintf '%s\\n' \"$said\" >&2\nprintf '%s\\n' \"$said\" | grep -q '\"problems\":\\[\\]'"
        )
    return StringCommand("sh", "-c", QuoteString(script))
