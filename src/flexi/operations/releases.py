"""Releases side by side in one directory, `current` a link to the one in use and `previous` to the one before.

Ollama and the chat switch, go back and clean up by the same steps; what else each of them does is theirs.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from pyinfra import host
from pyinfra.api import QuoteString, StringCommand
from pyinfra.api.operation import OperationMeta

from flexi.facts.releases import OllamaReleases, Releases
from flexi.operations.prediction import predicted

Commands = Generator[StringCommand, None, None]


def switch(fact: type[OllamaReleases], release: str, before: Sequence[StringCommand] = ()) -> Commands:
    """Point `current` at `release` in one atomic step; `previous` remembers what it was.

    The commands `before` run where a release is replaced.
    """
    current = host.get_fact(fact).current
    if current == release:
        host.noop(f"{release} is current")
        return
    if current is not None:
        yield from before
        yield from _link(fact, "previous", current)
    yield from _link(fact, "current", release)


def previous_of(releases: Releases) -> str | None:
    """Return the release that a host can go back to; None where there is none."""
    previous = releases.previous
    return previous if previous != releases.current and previous in releases.installed else None


def swap(fact: type[OllamaReleases], previous: str, current: str) -> Commands:
    """Make `previous` the current release, and `current` the previous one."""
    # This one first: a run that ends between the two has gone back, and repeated it changes nothing.
    yield from _link(fact, "current", previous)
    yield from _link(fact, "previous", current)


def remove_old(fact: type[OllamaReleases], release: str, after: Sequence[OperationMeta]) -> Commands:
    """Remove releases that are neither `release`, nor current, nor the previous one.

    `after` is the switch to `release`: what is current before it is the previous one afterwards.
    """
    releases = host.get_fact(fact)
    kept = {release, releases.current, None if predicted(after) else releases.previous}
    for old in sorted(set(releases.installed) - kept):
        yield StringCommand("rm", "-rf", QuoteString(f"{fact.root}/{old}"))


def _link(fact: type[OllamaReleases], name: str, release: str) -> Commands:
    link = f"{fact.root}/{name}"
    yield StringCommand("ln", "-sfn", QuoteString(release), QuoteString(f"{link}.new"))
    yield StringCommand("mv", "-fT", QuoteString(f"{link}.new"), QuoteString(link))
