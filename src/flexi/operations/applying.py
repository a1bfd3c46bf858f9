"""Restarts and reloads that follow from state, never from what this very run changed.

A run can die between writing a file and restarting what reads it; "changed in this run" would then never restart it.
So each action leaves a stamp, a digest of the files it was carried out with, and is due while files and stamp differ.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from pyinfra import host
from pyinfra.api import FunctionCommand, QuoteString, StringCommand, operation
from pyinfra.api.operation import OperationMeta

from flexi.components.stamps import _write, stamp_digest_command
from flexi.facts.stamps import Stamp
from flexi.operations.draining import Interruption, drain
from flexi.operations.foresight import happened


@operation()
def applied(
    what: str,
    inputs: Sequence[str],
    command: str,
    after: Sequence[OperationMeta] = (),
    interrupts: Interruption | None = None,
) -> Generator[StringCommand | FunctionCommand, None, None]:
    """Run the shell `command` unless it last succeeded with the present content of the files `inputs`.

    `what` names the stamp. A unit file among the inputs makes systemd read its units first. A missing input counts
    as empty: on a bare host the files come earlier in the same run, in the operations `after`. What these change is
    applied in any case: whoever edited a file may have restarted with it.
    What the command `interrupts` is drained before it.
    """
    truth = host.get_fact(Stamp, what=what, inputs=inputs)
    if truth.stamped == truth.present and not happened(after):
        host.noop(f"{what} runs with what is there")
        return
    yield from drain(interrupts)
    reads_units = any(path.startswith("/etc/systemd/system/") for path in inputs)
    reload_units = "systemctl daemon-reload\n" if reads_units else ""
    # The digest is taken first: a file that changes meanwhile makes the action due again.
    script = f"set -e\nnow=$({stamp_digest_command(inputs)})\n{reload_units}{command}\n{_write(what)}"
    yield StringCommand("sh", "-c", QuoteString(script))
