"""The block that services share: write the unit files, restart where something is new, start now and at every boot."""

from collections.abc import Sequence
from dataclasses import dataclass

from pyinfra import host
from pyinfra.api.operation import OperationMeta
from pyinfra.operations import files, systemd

from flexi.operations import drain, restart

UNIT_DIRECTORY = "/etc/systemd/system"


@dataclass(frozen=True)
class UnitFile:
    """A file that systemd reads: a unit, or a drop-in of one."""

    name: str
    """Name of the operation that writes it."""
    src: str
    dest: str


def managed_service(
    service: str,
    *,
    restart_name: str,
    start_name: str,
    unit_files: Sequence[UnitFile] = (),
    watch: Sequence[str] | None = None,
    stamp: str | None = None,
    command: str | None = None,
    after: Sequence[OperationMeta] = (),
    interrupts: drain.Interruption | None = None,
) -> list[OperationMeta]:
    """Write unit files, restart `service` where the files it reads are new, start it, and enable it for every boot.

    `watch` are the files it reads, by default its unit files; their order is part of the stamp, so keep it. `command`
    and `stamp` are those of `restart.on_change`. Returns the operations that restart and start it.
    """
    written = [
        files.put(name=unit_file.name, src=unit_file.src, dest=unit_file.dest, mode="0644")
        for unit_file in host.loop(unit_files)
    ]
    restarted = restart.on_change(
        name=restart_name,
        service=stamp or service,
        watch=tuple(unit_file.dest for unit_file in unit_files) if watch is None else tuple(watch),
        command=command or f"systemctl restart {service}",
        after=[*after, *written],
        interrupts=interrupts,
    )
    started = systemd.service(name=start_name, service=service, running=True, enabled=True)
    return [restarted, started]
