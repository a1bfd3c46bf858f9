"""Restarts and reloads that follow from state, never from what this very run changed.

A run can die between writing a file and restarting what reads it; "changed in this run" would then never restart it.
So each action leaves a stamp, a digest of the files it was carried out with, and is due while files and stamp differ.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from pyinfra import host
from pyinfra.api import FunctionCommand, QuoteString, StringCommand, operation
from pyinfra.api.operation import OperationMeta

from flexi.components.stamps import stamp_digest_command, stamp_write_command
from flexi.facts.stamps import Stamp
from flexi.operations import drain
from flexi.operations.prediction import changed


@operation()
def on_change(
    service: str,
    watch: Sequence[str],
    command: str | None = None,
    after: Sequence[OperationMeta] = (),
    interrupts: drain.Interruption | None = None,
) -> Generator[StringCommand | FunctionCommand, None, None]:
    """Run the shell `command` unless it last succeeded with the present content of the files `watch`.

    `service` names the stamp, and the unit that `systemctl restart` is run for where there is no `command`. A unit file
    among those watched makes systemd read its units first. A missing file counts as empty: on a bare host the files
    come earlier in the same run, in the operations `after`. What these change is applied in any case: whoever edited a
    file may have restarted with it. Instances that the command `interrupts` are drained before.
    """
    stamp = host.get_fact(Stamp, what=service, inputs=watch)
    if stamp.stamped == stamp.present and not changed(after):
        host.noop(f"{service} runs with what is there")
        return
    yield from drain.running_instances(interrupts)
    reads_units = any(path.startswith("/etc/systemd/system/") for path in watch)
    reload_units = "systemctl daemon-reload\n" if reads_units else ""
    # The digest is taken first: a file that changes meanwhile makes the action due again.
    action = command or f"systemctl restart {service}"
    script = f"set -e\nnow=$({stamp_digest_command(watch)})\n{reload_units}{action}\n{stamp_write_command(service)}"
    yield StringCommand("sh", "-c", QuoteString(script))
