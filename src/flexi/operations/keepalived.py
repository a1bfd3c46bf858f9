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
from flexi.facts.gateway import InterfaceWithAddress
from flexi.operations.host_failure import fail_host, report_failure
from flexi.operations.host_files import validated
from flexi.operations.prediction import changed
from flexi.operations.rollout import GATEWAYS, end_turn

Commands = Generator[StringCommand | FileUploadCommand | FunctionCommand, None, None]

UNIT = "keepalived.service"
STARTED_BY_FLEXI_FILE = f"{STAMPS}/{UNIT}"
"""There where flexi started it: a keepalived of the admin's own stays."""
CONFIG_TEST_COMMAND = "systemd-run --quiet --wait --pipe keepalived --config-test --use-file {}"
"""In a unit of its own: keepalived 2.2.7 ends a test of settings with scripts by a signal to its own process group,
and says 143 of what is right."""
SERVE_TIMEOUT_S = 30


@operation()
def write_settings(dest: str, address: str, content: Callable[[str], str]) -> Commands:
    """Write keepalived's settings to `dest`, checked by keepalived. `content` makes them for the network interface that
    has the host's own `address`, which nobody but the host knows."""
    interface = host.get_fact(InterfaceWithAddress, address=address)
    if interface is None:
        yield fail_host(f"no interface of this host has {address}: hosts.{host.name}.address must be one of its own")
        return
    yield from validated._inner(dest=dest, content=content(interface), check=CONFIG_TEST_COMMAND)


@operation()
def wait_until_gateway_serves(probe_command: str, after: Sequence[OperationMeta] = ()) -> Commands:
    """Wait until the shell command `ask` succeeds where an operation `after` changed something, and let the next
    gateway begin. One that does not serve fails, and the next is not touched."""
    if changed(after):
        yield FunctionCommand(_wait_until_serving, (probe_command,), {})
        return
    end_turn(host, GATEWAYS)
    host.noop("nothing was changed")


def _wait_until_serving(state: State, host: Host, ask: str) -> bool:
    end = time.monotonic() + SERVE_TIMEOUT_S
    while True:
        well, output = host.run_shell_command(ask, _sudo=True, print_output=False)
        if well:
            end_turn(host, GATEWAYS)
            return True
        if time.monotonic() > end:
            return report_failure(state, host, f"the gateway does not serve: {output.stderr or 'no answer'}")
        time.sleep(1)
