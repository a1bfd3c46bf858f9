"""How an operation fails one host with a sentence, while the others go on.

An exception in an operation's generator would end pyinfra's run for every host, with a traceback.
"""

from __future__ import annotations

from pyinfra import logger
from pyinfra.api import FunctionCommand
from pyinfra.api.host import Host
from pyinfra.api.state import State


def refuse(reason: str) -> FunctionCommand:
    """A command that fails this host and says why."""
    return FunctionCommand(say, (reason,), {})


def say(state: State, host: Host, reason: str) -> bool:
    """Tell the reason; the False makes pyinfra count the operation as failed on this host."""
    host.log_styled(reason, fg="red", log_func=logger.error)
    return False
