"""The second gateway: who has the address that both share, and that one of them always serves."""

from collections.abc import Sequence
from functools import partial

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.api.operation import OperationMeta
from pyinfra.operations import systemd

from flexi.configs.rendering import render
from flexi.operations.applying import applied
from flexi.operations.failover import KEEPALIVED, OURS, failover_settings, gateway_serves
from flexi.operations.retiring import retired
from flexi.operations.turns import GATEWAYS, turn_begun
from flexi.plan.model.site import Plan

SETTINGS = "/etc/keepalived/keepalived.conf"


@deploy("Failover")
def share(plan: Plan) -> list[OperationMeta]:
    """Returns the operations that may move the address."""
    here = plan.host(host.name).gateway
    failover = here.failover
    if failover is None:
        retired(name="Share no address any more", pattern=KEEPALIVED, keep=(), only_with=OURS)
        return []
    settings = failover_settings(
        name="Write who shares the floating address, checked by keepalived",
        dest=SETTINGS,
        address=failover.own_address,
        content=partial(_settings, plan),
    )
    moved = applied(
        name="Have keepalived follow its settings",
        what=KEEPALIVED,
        inputs=(SETTINGS,),
        command=f"systemctl reload-or-restart {KEEPALIVED}",
        after=[settings],
    )
    started = systemd.service(name="Start keepalived", service=KEEPALIVED, running=True, enabled=True)
    return [settings, moved, started]


def _settings(plan: Plan, interface: str) -> str:
    return render(
        "gateway/keepalived.conf.j2",
        name=host.name,
        interface=interface,
        gateway=plan.gateway,
        failover=plan.host(host.name).gateway.failover,
    )


def number(plan: Plan) -> int | None:
    """This gateway's place in the order: the standby goes first, while the other serves. None on other hosts."""
    order = plan.gateway.hosts[::-1]
    return order.index(host.name) if host.name in order else None


def numbers(plan: Plan) -> range:
    """All turns, the same on every host."""
    return range(len(plan.gateway.hosts))


@deploy("Failover")
def begin(plan: Plan, turn: int) -> None:
    """Every host calls it for every turn: that is where the others wait. A gateway that is alone waits for nobody."""
    if len(plan.gateway.hosts) > 1:
        mine = number(plan)
        turn_begun(name=f"Wait for gateway {turn + 1}", number=turn, mine=-1 if mine is None else mine, row=GATEWAYS)


@deploy("Failover")
def end(plan: Plan, after: Sequence[OperationMeta]) -> None:
    """`after` are the operations that change what serves."""
    if len(plan.gateway.hosts) > 1:
        gateway_serves(
            name="See that this gateway serves before the other one is changed",
            ask=f"curl -fsSk -m 5 -o /dev/null {plan.gateway.loopback_url}",
            after=after,
        )
