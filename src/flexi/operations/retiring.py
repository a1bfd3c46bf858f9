"""What a plan no longer has on a host is stopped: a renamed group frees its GPUs, an old gateway its address."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from pyinfra import host, logger
from pyinfra.api import FunctionCommand, QuoteString, StringCommand, operation
from pyinfra.facts.files import File, Link

from flexi.facts.apt import AptSourceFiles
from flexi.facts.host import Paths, UnitNames
from flexi.operations.draining import Interruption, drain
from flexi.operations.emptying import removal


@operation()
def retired(
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
        yield from drain(Interruption(groups, drain_timeout_s))
    yield StringCommand("systemctl", "disable", "--now", *(QuoteString(name) for name in unwanted))
    yield StringCommand("systemctl", "reset-failed", *(QuoteString(name) for name in unwanted), "||", "true")


@operation()
def sources_retired(keep: Sequence[str]) -> Generator[StringCommand, None, None]:
    """Remove apt sources that flexi wrote (`flexi-*.sources`) and that are not in `keep`, by their full paths."""
    unwanted = [path for path in host.get_fact(AptSourceFiles) if path not in keep]
    if not unwanted:
        host.noop("nothing is left over")
        return
    yield StringCommand("rm", "-f", *(QuoteString(path) for path in unwanted))


@operation()
def forgotten(patterns: Sequence[str]) -> Generator[StringCommand, None, None]:
    """Remove the files and directories that the shell `patterns` (our own constants) match, whole. Of a directory that
    is a mount point the empty directory stays. Each is named before."""
    there = host.get_fact(Paths, patterns=patterns)
    if not there:
        host.noop("nothing is there")
        return
    if not host.state.is_executing:
        host.log_styled(f"would remove {', '.join(there)}", fg="yellow", log_func=logger.warning)
    yield StringCommand("sh", "-c", QuoteString(removal(there)))
    if any(path.startswith("/etc/systemd/") for path in there):
        yield StringCommand("systemctl", "daemon-reload")


@operation()
def unmasked(path: str, only_with: str) -> Generator[StringCommand, None, None]:
    """Lift the mask of the unit at `path`, where it is one: a link to /dev/null. Only where the file `only_with` shows
    that flexi put it there."""
    link = host.get_fact(Link, path=path) if host.get_fact(File, path=only_with) else None
    if not link or link["link_target"] != "/dev/null":
        host.noop("flexi did not mask it")
        return
    yield StringCommand("rm", "-f", QuoteString(path))
    yield StringCommand("systemctl", "daemon-reload")
