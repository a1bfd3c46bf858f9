"""Failure of one host with a message, while the others go on; for operations.

An exception in an operation's generator would end pyinfra's run for every host, with a traceback.
"""

from __future__ import annotations

from pyinfra import logger
from pyinfra.api import FunctionCommand
from pyinfra.api.host import Host
from pyinfra.api.state import State


def fail_host(reason: str) -> FunctionCommand:
    """Return a command that fails this host and reports `reason`."""
    return FunctionCommand(report_failure, (reason,), {})


def report_failure(state: State, host: Host, reason: str) -> bool:
    """Report the reason; the False makes pyinfra count the operation as failed on this host."""
    host.log_styled(reason, fg="red", log_func=logger.error)
    return False
