"""A host's turn: what may interrupt its service happens between `begin` and `end`, one serving host after the other."""

from collections.abc import Sequence

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.api.operation import OperationMeta

from flexi.facts.ollama import ActiveInstances
from flexi.operations import drain, rollout
from flexi.plan.model.site import HostPlan, Plan


def number(plan: Plan, host_plan: HostPlan) -> int:
    """Return the host's turn: hosts that serve nobody yet go first and together."""
    return rollout.turn_number(
        host_plan.name, [other.name for other in plan.hosts], serving=bool(host.get_fact(ActiveInstances))
    )


def numbers(plan: Plan) -> range:
    """Return the numbers of all turns, the same on every host."""
    return rollout.turn_numbers([host.name for host in plan.hosts])


@deploy("Turn")
def begin(turn: int, own_turn: int) -> None:
    """Wait for the hosts before: every host calls it for every turn."""
    rollout.wait_for_turn(name=f"Wait for turn {turn}", number=turn, own_turn=own_turn)


@deploy("Turn")
def end(host_plan: HostPlan, after: Sequence[OperationMeta]) -> None:
    """Verify the instances and give them back; `after` are the operations that drain them."""
    drain.release_when_ready(
        name="Give the instances back to the gateway once they serve",
        instances=host_plan.ollama.instances if host_plan.ollama else (),
        gpu_count=host_plan.gpu_count,
        driver=host_plan.driver.major if host_plan.driver else None,
        after=after,
    )


@deploy("Turn")
def end_for_good(after: Sequence[OperationMeta]) -> None:
    """End the turn of a host that serves no longer; `after` are the operations that drained it."""
    drain.release_when_ready(name="Let the next host begin", instances=(), gpu_count=0, driver=None, after=after)
