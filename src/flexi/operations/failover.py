"""Two gateways: the settings of the one that shares its address, and the order in which they are changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence

from pyinfra import host
from pyinfra.api import FileUploadCommand, FunctionCommand, StringCommand, operation
from pyinfra.api.host import Host
from pyinfra.api.operation import OperationMeta
from pyinfra.api.state import State

from flexi.components.stamps import STAMPS
from flexi.facts.gateway import InterfaceOf
from flexi.operations.foresight import happened
from flexi.operations.refusal import refuse, say
from flexi.operations.system import validated_file
from flexi.operations.turns import GATEWAYS, end_turn

Commands = Generator[StringCommand | FileUploadCommand | FunctionCommand, None, None]

KEEPALIVED = "keepalived.service"
OURS = f"{STAMPS}/{KEEPALIVED}"
"""There where flexi started it: a keepalived of the admin's own stays."""
CHECK = "systemd-run --quiet --wait --pipe keepalived --config-test --use-file {}"
"""In a unit of its own: keepalived 2.2.7 ends a test of settings with scripts by a signal to its own process group,
and says 143 of what is right."""
SERVES_WITHIN_S = 30


@operation()
def failover_settings(dest: str, address: str, content: Callable[[str], str]) -> Commands:
    """Write keepalived's settings to `dest`, checked by keepalived. `content` makes them for the network interface that
    has the host's own `address`, which nobody but the host knows."""
    interface = host.get_fact(InterfaceOf, address=address)
    if interface is None:
        yield refuse(f"no interface of this host has {address}: hosts.{host.name}.address must be one of its own")
        return
    yield from validated_file._inner(dest=dest, content=content(interface), check=CHECK)


@operation()
def gateway_serves(ask: str, after: Sequence[OperationMeta] = ()) -> Commands:
    """Wait until the shell command `ask` succeeds where an operation `after` changed something, and let the next
    gateway begin. One that does not serve fails, and the next is not touched."""
    if happened(after):
        yield FunctionCommand(_wait, (ask,), {})
        return
    end_turn(host, GATEWAYS)
    host.noop("nothing was changed")


def _wait(state: State, host: Host, ask: str) -> bool:
    end = time.monotonic() + SERVES_WITHIN_S
    while True:
        well, output = host.run_shell_command(ask, _sudo=True, print_output=False)
        if well:
            end_turn(host, GATEWAYS)
            return True
        if time.monotonic() > end:
            return say(state, host, f"the gateway does not serve: {output.stderr or 'no answer'}")
        time.sleep(1)
