"""A host's turn: what may interrupt its service happens between `begin` and `end`, one serving host after the other."""

from collections.abc import Sequence

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.api.operation import OperationMeta

from flexi.facts.ollama import ActiveInstances
from flexi.operations.draining import returned
from flexi.operations.turns import turn_begun, turn_number, turns
from flexi.plan.model.site import HostPlan, Plan


def number(plan: Plan, name: str) -> int:
    """The host's place in the order: hosts that serve nobody yet go first and together."""
    return turn_number(name, [other.name for other in plan.hosts], serving=bool(host.get_fact(ActiveInstances)))


def numbers(plan: Plan) -> range:
    """All turns, the same on every host."""
    return turns([host.name for host in plan.hosts])


@deploy("Turn")
def begin(turn: int, mine: int) -> None:
    """Every host calls it for every turn: that is where the others wait."""
    turn_begun(name=f"Wait for turn {turn}", number=turn, mine=mine)


@deploy("Turn")
def end(plan: HostPlan, after: Sequence[OperationMeta]) -> None:
    """`after` are the operations that drain instances."""
    returned(
        name="Give the instances back to the gateway once they serve",
        instances=plan.ollama.instances if plan.ollama else (),
        gpu_count=plan.gpu_count,
        driver=plan.driver.major if plan.driver else None,
        after=after,
    )


@deploy("Turn")
def leave(after: Sequence[OperationMeta]) -> None:
    """The end of the turn of a host that serves no longer; `after` are the operations that drained it."""
    returned(name="Let the next host begin", instances=(), gpu_count=0, driver=None, after=after)
