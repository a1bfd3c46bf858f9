"""The second gateway: the address that both share, and the order that lets one of them always serve."""

from collections.abc import Sequence
from functools import partial

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.api.operation import OperationMeta

from flexi.configs.rendering import render
from flexi.operations import keepalived, rollout, units
from flexi.plan.model.site import Plan
from roles.services import managed_service

SETTINGS = "/etc/keepalived/keepalived.conf"


@deploy("Failover")
def share(plan: Plan) -> list[OperationMeta]:
    """Share the floating address; returns the operations that may move it."""
    here = plan.host(host.name).gateway
    failover = here.failover
    if failover is None:
        units.absent(
            name="Share no address any more",
            pattern=keepalived.UNIT,
            keep=(),
            only_with=keepalived.STARTED_BY_FLEXI_FILE,
        )
        return []
    settings = keepalived.write_settings(
        name="Write who shares the floating address, checked by keepalived",
        dest=SETTINGS,
        address=failover.own_address,
        content=partial(_settings, plan),
    )
    service = managed_service(
        keepalived.UNIT,
        restart_name="Have keepalived follow its settings",
        start_name="Start keepalived",
        watch=(SETTINGS,),
        command=f"systemctl reload-or-restart {keepalived.UNIT}",
        after=[settings],
    )
    return [settings, *service]


def _settings(plan: Plan, interface: str) -> str:
    return render(
        "gateway/keepalived.conf.j2",
        name=host.name,
        interface=interface,
        gateway=plan.gateway,
        failover=plan.host(host.name).gateway.failover,
    )


def number(plan: Plan) -> int | None:
    """Return this gateway's turn: the standby goes first, while the other serves. None on other hosts."""
    order = plan.gateway.hosts[::-1]
    return order.index(host.name) if host.name in order else None


def numbers(plan: Plan) -> range:
    """Return the numbers of all turns, the same on every host."""
    return range(len(plan.gateway.hosts))


@deploy("Failover")
def begin(plan: Plan, turn: int) -> None:
    """Wait for the gateways before: every host calls it for every turn. A gateway that is alone waits for nobody."""
    if len(plan.gateway.hosts) > 1:
        mine = number(plan)
        rollout.wait_for_turn(
            name=f"Wait for gateway {turn + 1}",
            number=turn,
            own_turn=-1 if mine is None else mine,
            row=rollout.GATEWAYS,
        )


@deploy("Failover")
def end(plan: Plan, after: Sequence[OperationMeta]) -> None:
    """Wait until this gateway serves again; `after` are the operations that change what serves."""
    if len(plan.gateway.hosts) > 1:
        keepalived.wait_until_gateway_serves(
            name="See that this gateway serves before the other one is changed",
            probe_command=f"curl -fsSk -m 5 -o /dev/null {plan.gateway.loopback_url}",
            after=after,
        )
