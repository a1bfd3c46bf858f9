"""Absence of units that a plan no longer has on a host: a renamed group frees its GPUs, an old gateway its address."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from pyinfra import host
from pyinfra.api import FunctionCommand, QuoteString, StringCommand, operation
from pyinfra.facts.files import File, Link

from flexi.facts.host import UnitNames
from flexi.operations import drain


@operation()
def absent(
    pattern: str, keep: Sequence[str], only_with: str | None = None, drain_timeout_s: int | None = None
) -> Generator[StringCommand | FunctionCommand, None, None]:
    """Stop and disable the units that match `pattern` (`ollama@*.service`) and are not in `keep`. Their files stay.

    With `only_with`, only where this file is: the mark that flexi put them there. With `drain_timeout_s` they are
    instances, and drained first.
    """
    if only_with is not None and not host.get_fact(File, path=only_with):
        host.noop("flexi never put it here")
        return
    unwanted = [name for name in host.get_fact(UnitNames, pattern=pattern) if name not in keep]
    if not unwanted:
        host.noop("nothing is left over")
        return
    if drain_timeout_s is not None:
        groups = tuple(name.removeprefix("ollama@").removesuffix(".service") for name in unwanted)
        yield from drain.running_instances(drain.Interruption(groups, drain_timeout_s))
    yield StringCommand("systemctl", "disable", "--now", *(QuoteString(name) for name in unwanted))
    yield StringCommand("systemctl", "reset-failed", *(QuoteString(name) for name in unwanted), "||", "true")


@operation()
def unmask(path: str, only_with: str) -> Generator[StringCommand, None, None]:
    """Lift the mask of the unit at `path`, where it is one: a link to /dev/null. Only where the file `only_with` shows
    that flexi put it there."""
    link = host.get_fact(Link, path=path) if host.get_fact(File, path=only_with) else None
    if not link or link["link_target"] != "/dev/null":
        host.noop("flexi did not mask it")
        return
    yield StringCommand("rm", "-f", QuoteString(path))
    yield StringCommand("systemctl", "daemon-reload")
