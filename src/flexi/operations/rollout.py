"""One host after the other: a change that interrupts service never meets two hosts that serve at once.

pyinfra runs an operation on all hosts before it comes to the next one, and goes on with what any host has next where
they differ. A turn is what one host, or several that serve nobody, do while all others wait at an operation that all
have: `turn_begun`, once for each number.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from weakref import WeakKeyDictionary

from pyinfra import host
from pyinfra.api import FunctionCommand, operation
from pyinfra.api.host import Host
from pyinfra.api.state import State

from flexi.operations.host_failure import fail_host

INSTANCES = "instances"
GATEWAYS = "gateways"
"""The two queues of turns: a host without a GPU does not keep a gateway from its turn, nor the other way round."""

_UNFINISHED_TURNS: WeakKeyDictionary[State, dict[str, dict[str, int]]] = WeakKeyDictionary()
"""For each run and row, the turns of the hosts that have begun theirs and not ended it."""


def turn_numbers(hosts: Sequence[str]) -> range:
    """Return the numbers of all turns: 0, one for each host, and a last one that is nobody's and ends them all."""
    return range(len(hosts) + 2)


def turn_number(name: str, hosts: Sequence[str], serving: bool) -> int:
    """Return 0, shared, for a host that serves nobody; for others a number each, in the order of the site file."""
    return 1 + list(hosts).index(name) if serving else 0


@operation()
def wait_for_turn(number: int, own_turn: int, row: str = INSTANCES) -> Generator[FunctionCommand, None, None]:
    """Wait for all hosts of lower numbers. Where it is this host's own turn and one of those has not come back right,
    fail it untouched."""
    if host.state.is_executing and number == own_turn:
        under_way = _row(host, row)
        stuck = [name for name, turn in under_way.items() if turn < number]
        if stuck:
            yield fail_host(
                f"not touched: {', '.join(stuck)} did not come back right, and one host less is enough. "
                "Mend it and deploy again"
            )
            return
        under_way[host.name] = number
    host.noop("the hosts before are well")


def end_turn(host: Host, row: str = INSTANCES) -> None:
    """Let the next turn begin; for an operation that has seen that the host is as it should be."""
    _row(host, row).pop(host.name, None)


def _row(host: Host, row: str) -> dict[str, int]:
    return _UNFINISHED_TURNS.setdefault(host.state, {}).setdefault(row, {})
