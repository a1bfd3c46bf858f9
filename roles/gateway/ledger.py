"""The ledger: the gateway's record of its requests; nothing else of them reaches a disk."""

import json
from io import StringIO

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.api.operation import OperationMeta
from pyinfra.operations import files

from flexi.configs.agent import ledger_config
from flexi.operations import restart
from flexi.plan.model.site import Plan
from roles.agent import PACKAGE
from roles.services import managed_service
from roles.users import service_user

USER = "flexi-ledger"
CONFIG = "/etc/flexi/ledger.json"
UNITS = "/etc/systemd/system"
UNIT = f"{UNITS}/flexi-ledger.service"
SOCKET = f"{UNITS}/flexi-ledger.socket"
HAPROXY_DROP_IN = f"{UNITS}/haproxy.service.d/flexi.conf"


@deploy("Gateway's memory")
def keep_off_the_disk() -> None:
    """Forbid HAProxy core dumps before its package starts it. One that runs gets the limit without losing a stream: its
    workers inherit it from their master."""
    drop_in = files.put(
        name="Keep HAProxy's memory off the disk",
        src="templates/gateway/haproxy.conf",
        dest=HAPROXY_DROP_IN,
        mode="0644",
    )
    master = "$(systemctl show -p MainPID --value haproxy.service)"
    restart.on_change(
        name="Let a running HAProxy know",
        service="haproxy-memory",
        watch=(HAPROXY_DROP_IN,),
        command=f'[ "{master}" = 0 ] || prlimit --pid "{master}" --core=1:1',
        after=[drop_in],
    )


@deploy("Ledger")
def install(plan: Plan, package: OperationMeta) -> None:
    """Run the ledger, after the guard, whose user owns the socket. `package` is the operation that writes the agent, of
    which the ledger is a program."""
    service_user(USER, "the ledger's")
    config = files.put(
        name="Write the ledger's configuration",
        src=StringIO(json.dumps(ledger_config(plan), indent=2) + "\n"),
        dest=CONFIG,
        mode="0644",
        create_remote_dir=False,
    )
    socket, unit = (
        files.put(
            name=f"Write the ledger's {kind}",
            src=f"templates/gateway/flexi-ledger.{kind}",
            dest=f"{UNITS}/flexi-ledger.{kind}",
            mode="0644",
        )
        for kind in host.loop(("socket", "service"))
    )
    # The socket takes the ledger with it (Requires=): a record that waits is lost with it, so only for a new one.
    managed_service(
        "flexi-ledger.socket",
        restart_name="Restart the ledger's socket with what is new",
        start_name="Start the ledger's socket",
        watch=(SOCKET,),
        after=[socket],
    )
    managed_service(
        "flexi-ledger.service",
        restart_name="Restart the ledger with what is new",
        start_name="Start the ledger",
        watch=(PACKAGE, CONFIG, UNIT),
        after=[package, config, unit],
    )
