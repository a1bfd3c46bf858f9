"""The host's cards against the site file's: the plan's memory rests on them."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from pyinfra import host
from pyinfra.api import FunctionCommand, operation

from flexi.facts.gpus import NvidiaGpus
from flexi.operations.host_failure import fail_host
from flexi_host.agent import smi
from flexi_host.agent.smi import Expected, Gpu


def wrong_cards(present: Sequence[Gpu], expected: Expected | None, host_name: str, place: str) -> str | None:
    """Say why these are not the cards that the plan counts with, and what to do; None where they are."""
    others = [words for gpu in present if expected and (words := smi.other(gpu, expected))]
    if not others:
        return None
    more = f"; {len(others) - 1} more of its cards differ" if len(others) > 1 else ""
    remedy = f"correct hosts.{host_name}.gpus there, or put the planned cards in"
    return f"{others[0]} ({place}){more}: {remedy}"


@operation()
def require_planned(
    expected: Expected | None, place: str, untouched: str = "Nothing was changed here"
) -> Generator[FunctionCommand, None, None]:
    """Fail the host before it is changed where its cards are not those of the site file.

    A host whose driver shows no card yet passes; what comes later in the deploy asks again. `place` is where the site
    file says which cards they are.
    """
    present = host.get_fact(NvidiaGpus)
    words = wrong_cards(present, expected, host.name, place)
    if words is None:
        host.noop("the cards are those of the site file, or no driver shows them yet")
        return
    yield fail_host(f"{words}. {untouched}")
