"""The simulated `nvidia-smi`: the options and fields that flexi and an admin's hand use, everything else refused.

Sources: `nvidia-smi --help-query-gpu`, `man nvidia-smi` (RETURN VALUE), published outputs of driver 535.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .driver import GPU_IS_LOST, INFOROM_CORRUPTED, NO_PERMISSION, NOT_FOUND, ComputeProcess, Driver, DriverError, Gpu

BAD_ARGUMENT = 2
PERSISTENCE_FILE = "run/flexi-lab/persistence.json"

# Watts and degrees that published outputs show for an idle card.
IDLE_W, IDLE_C, BUSY_C = 22.0, 34, 63
POWER_LIMIT_W = {"NVIDIA RTX A5000": 230.0, "NVIDIA A40": 300.0}
DEFAULT_POWER_LIMIT_W = 250.0

# Bits and names of nvml.h and `nvidia-smi --help-query-gpu`. Both spellings are taken; the header says `event` (535 and
# later: utkuozdemir/nvidia_gpu_exporter, issue 123).
EVENT_REASONS = {
    "gpu_idle": 0x1,
    "applications_clocks_setting": 0x2,
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal_slowdown": 0x20,
    "hw_thermal_slowdown": 0x40,
    "hw_power_brake_slowdown": 0x80,
}
IDLE_REASON = EVENT_REASONS["gpu_idle"]
THERMAL = EVENT_REASONS["sw_thermal_slowdown"] | EVENT_REASONS["hw_thermal_slowdown"]
THROTTLED_C = 95
"""Degrees of a card that its own protection slows down; made up."""

# CUDA that a driver branch brings (NVIDIA's CUDA toolkit release notes, table of driver versions).
CUDA_OF_BRANCH = {535: "12.2", 550: "12.4", 570: "12.8", 580: "13.0"}


class UsageError(Exception):
    """The command line is wrong; the message is for stdout, `code` the exit status."""

    def __init__(self, message: str, code: int = BAD_ARGUMENT) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Card:
    """A GPU with what only nvidia-smi tells of it."""

    gpu: Gpu
    driver_version: str
    persistence: bool
    busy: bool


Field_ = Callable[[Card], str]


def _has_reason(bit: int) -> Field_:
    return lambda card: "Active" if _reasons(card) & bit else "Not Active"


# Name -> (unit, value). The unit is in the header and, without `nounits`, behind each number.
FIELDS: dict[str, tuple[str, Field_]] = {
    "index": ("", lambda c: str(c.gpu.index)),
    "uuid": ("", lambda c: c.gpu.uuid),
    "name": ("", lambda c: c.gpu.name),
    "pci.bus_id": ("", lambda c: c.gpu.pci_bus_id),
    "driver_version": ("", lambda c: c.driver_version),
    "compute_cap": ("", lambda c: c.gpu.compute_cap),
    "persistence_mode": ("", lambda c: "Enabled" if c.persistence else "Disabled"),
    "memory.total": ("MiB", lambda c: str(c.gpu.memory_total_mib)),
    "memory.used": ("MiB", lambda c: str(c.gpu.memory_used_mib)),
    "memory.free": ("MiB", lambda c: str(c.gpu.memory_free_mib)),
    "utilization.gpu": ("%", lambda c: "100" if c.busy else "0"),
    "utilization.memory": ("%", lambda c: "60" if c.busy else "0"),
    "pstate": ("", lambda c: "P0" if c.busy else "P8"),
    "temperature.gpu": ("", lambda c: str(_heat(c))),
    "power.draw": ("W", lambda c: f"{_limit(c) * 0.9 if c.busy else IDLE_W:.2f}"),
    "power.limit": ("W", lambda c: f"{_limit(c):.2f}"),
    "ecc.mode.current": ("", lambda c: "Enabled" if _has_ecc(c) else "Disabled"),
    "ecc.mode.pending": ("", lambda c: "Enabled" if _has_ecc(c) else "Disabled"),
    "ecc.errors.corrected.volatile.total": ("", lambda c: "0" if _has_ecc(c) else "[N/A]"),
    "ecc.errors.uncorrected.volatile.total": ("", lambda c: str(c.gpu.ecc_uncorrected) if _has_ecc(c) else "[N/A]"),
    "ecc.errors.uncorrected.aggregate.total": ("", lambda c: str(c.gpu.ecc_uncorrected) if _has_ecc(c) else "[N/A]"),
    "clocks_event_reasons.active": ("", lambda c: f"0x{_reasons(c):016X}"),
    **{f"clocks_event_reasons.{name}": ("", _has_reason(bit)) for name, bit in EVENT_REASONS.items()},
}
FIELDS["mig.mode.current"] = ("", lambda c: "[N/A]")  # none of the lab's cards can be split
FIELDS["gpu_recovery_action"] = ("", lambda c: "Reset" if c.gpu.needs_reset else "None")
SINCE = {"gpu_recovery_action": 570}
"""Fields that older driver branches do not know (release notes of the data center driver 570)."""
REQUIRES_RESET = "[GPU requires reset]"
TOLD_BEFORE_A_RESET = frozenset(
    {"index", "uuid", "name", "pci.bus_id", "driver_version", "compute_cap", "persistence_mode", "memory.total"}
    | {"mig.mode.current", "gpu_recovery_action"}
)
"""What a card that requires a reset still tells; each other value is the words (reported outputs: tests/unit/smi)."""
ALIASES = {
    **{name.replace("_event_", "_throttle_"): name for name in FIELDS if name.startswith("clocks_event_reasons.")},
    "gpu_name": "name",
    "gpu_uuid": "uuid",
    "gpu_bus_id": "pci.bus_id",
}

APP_FIELDS: dict[str, tuple[str, Callable[[ComputeProcess], str]]] = {
    "pid": ("", lambda p: str(p.pid)),
    "process_name": ("", lambda p: _process_name(p.pid)),
    "name": ("", lambda p: _process_name(p.pid)),
    "gpu_uuid": ("", lambda p: p.gpu_uuid),
    "used_memory": ("MiB", lambda p: str(p.used_mib)),
    "used_gpu_memory": ("MiB", lambda p: str(p.used_mib)),
}


@dataclass
class Options:
    """The parsed command line."""

    list_gpus: bool = False
    query_gpu: str | None = None
    query_apps: str | None = None
    format: list[str] = field(default_factory=list)
    ids: str | None = None
    persistence: str | None = None


def parse(arguments: list[str]) -> Options:
    """Options of a command line; UsageError in nvidia-smi's words for anything unknown."""
    options = Options()
    names = {
        "--query-gpu": "query_gpu",
        "--query-compute-apps": "query_apps",
        "--format": "format",
        "--id": "ids",
        "-i": "ids",
        "--persistence-mode": "persistence",
        "-pm": "persistence",
    }
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.partition("=")
        if argument in ("-L", "--list-gpus"):
            options.list_gpus = True
        elif name in names:
            if not equals:
                if not rest:
                    raise UsageError(f"Option {name} is missing its value.")
                value = rest.pop(0)
            setattr(options, names[name], value.split(",") if name == "--format" else value)
        else:
            raise UsageError(
                f"Invalid combination of input arguments. Please run 'nvidia-smi -h' for help.\n(simulated: {argument})"
            )
    for word in options.format:
        if word not in ("csv", "noheader", "nounits"):
            raise UsageError(f'"{word}" is not a valid format option.')
    asked = options.query_gpu is not None or options.query_apps is not None
    if asked and "csv" not in options.format:
        raise UsageError('"--format=" switch is missing. "--format=csv" is supported.')
    return options


def run(arguments: list[str], driver: Driver) -> tuple[str, int]:
    """What nvidia-smi prints and its exit status."""
    try:
        options = parse(arguments)
        version = driver.version()
        gpus = _selected(driver.inventory(), options.ids)
        if options.persistence is not None:
            return _set_persistence(driver, gpus, options.persistence)
        if options.list_gpus:
            return _warned(*_list(gpus), gpus)
        if options.query_apps is not None:
            _refuse_lost(gpus)
            return _apps(driver, gpus, options), 0
        cards = _cards(driver, gpus, version)
        if options.query_gpu is not None:
            return _warned(_query(cards, options), 0, gpus)
        return _warned(_table(cards, driver, version), 0, gpus)
    except (DriverError, UsageError) as error:
        return f"{error}\n", error.code


def main(arguments: list[str]) -> int:
    text, status = run(arguments, Driver(Path("/")))
    sys.stdout.write(text)
    return status


def set_persistence(driver: Driver, enabled: bool) -> None:
    path = driver.root / PERSISTENCE_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"enabled": enabled}))


def _selected(gpus: list[Gpu], ids: str | None) -> list[Gpu]:
    if not gpus:
        raise UsageError("No devices were found", NOT_FOUND)
    if ids is None:
        return gpus
    chosen = []
    for entry in ids.split(","):
        found = [g for g in gpus if entry in (str(g.index), g.uuid, g.pci_bus_id)]
        if not found:
            raise UsageError("No devices were found", NOT_FOUND)
        chosen += found
    return chosen


def _warned(text: str, status: int, gpus: list[Gpu]) -> tuple[str, int]:
    """An answer with a warning behind it for each card whose infoROM is corrupted (NVIDIA/gpu-operator, issue 20)."""
    corrupted = [gpu for gpu in gpus if gpu.inforom_corrupted]
    text += "".join(f"WARNING: infoROM is corrupted at gpu {gpu.pci_bus_id[4:]}\n" for gpu in corrupted)
    return text, (status or INFOROM_CORRUPTED) if corrupted else status


def _lost_message(gpu: Gpu) -> str:
    return (
        f"Unable to determine the device handle for GPU{gpu.pci_bus_id[4:]}: GPU is lost.  "
        "Reboot the system to recover this GPU"
    )


def _refuse_lost(gpus: list[Gpu]) -> None:
    """One lost GPU makes every question about the whole host fail; `-i` of a healthy one still works."""
    for gpu in gpus:
        if gpu.lost:
            raise DriverError(_lost_message(gpu), GPU_IS_LOST)


def _list(gpus: list[Gpu]) -> tuple[str, int]:
    lines = [_lost_message(g) if g.lost else f"GPU {g.index}: {g.name} (UUID: {g.uuid})" for g in gpus]
    return "\n".join(lines) + "\n", GPU_IS_LOST if any(g.lost for g in gpus) else 0


def _cards(driver: Driver, gpus: list[Gpu], version: str) -> list[Card]:
    _refuse_lost(gpus)
    path = driver.root / PERSISTENCE_FILE
    persistence = path.exists() and bool(json.loads(path.read_text())["enabled"])
    busy = driver.busy()
    return [Card(gpu, version, persistence, gpu.uuid in busy) for gpu in gpus]


def _csv(header: list[str], rows: list[list[str]], options: Options) -> str:
    lines = [] if "noheader" in options.format else [header]
    return "".join(", ".join(line) + "\n" for line in lines + rows)


def _unit(value: str, unit: str, options: Options) -> str:
    return value if not unit or "nounits" in options.format or value.startswith("[") else f"{value} {unit}"


def _query(cards: list[Card], options: Options) -> str:
    names = [ALIASES.get(name.strip(), name.strip()) for name in (options.query_gpu or "").split(",")]
    for name in names:
        if name not in FIELDS or any(_branch(card.driver_version) < SINCE.get(name, 0) for card in cards):
            raise UsageError(f'Field "{name}" is not a valid field to query.\n')
    header = [f"{name} [{FIELDS[name][0]}]" if FIELDS[name][0] else name for name in names]
    rows = [[_unit(_value(card, name), FIELDS[name][0], options) for name in names] for card in cards]
    return _csv(header, rows, options)


def _value(card: Card, name: str) -> str:
    hidden = card.gpu.needs_reset and name not in TOLD_BEFORE_A_RESET
    return REQUIRES_RESET if hidden else FIELDS[name][1](card)


def _branch(version: str) -> int:
    return int(version.split(".")[0])


def _apps(driver: Driver, gpus: list[Gpu], options: Options) -> str:
    names = [name.strip() for name in (options.query_apps or "").split(",")]
    for name in names:
        if name not in APP_FIELDS:
            raise UsageError(f'Field "{name}" is not a valid field to query.\n')
    uuids = {gpu.uuid for gpu in gpus}
    header = [f"{name} [{APP_FIELDS[name][0]}]" if APP_FIELDS[name][0] else name for name in names]
    rows = [
        [_unit(APP_FIELDS[name][1](process), APP_FIELDS[name][0], options) for name in names]
        for process in driver.processes()
        if process.gpu_uuid in uuids
    ]
    return _csv(header, rows, options)


def _set_persistence(driver: Driver, gpus: list[Gpu], value: str) -> tuple[str, int]:
    if value not in ("0", "1", "DISABLED", "ENABLED"):
        raise UsageError(f"Invalid argument: {value}")
    if os.geteuid() != 0:
        return (
            f"Unable to set persistence mode for GPU {gpus[0].pci_bus_id}: Insufficient Permissions\n"
            "Terminating early due to previous error.\n",
            NO_PERMISSION,
        )
    enabled = value in ("1", "ENABLED")
    set_persistence(driver, enabled)
    word = "Enabled" if enabled else "Disabled"
    return "".join(f"{word} persistence mode for GPU {g.pci_bus_id}.\n" for g in gpus) + "All done.\n", 0


def _table(cards: list[Card], driver: Driver, version: str) -> str:
    cuda = CUDA_OF_BRANCH.get(int(version.split(".")[0]), "N/A")
    line = "+" + "-" * 39 + "+" + "-" * 22 + "+" + "-" * 22 + "+"
    heading = f"NVIDIA-SMI {version}"
    out = [
        time.strftime("%a %b %e %H:%M:%S %Y"),
        "+" + "-" * 85 + "+",
        f"| {f'{heading:<34}Driver Version: {version:<13}CUDA Version: {cuda}':<83} |",
        line.replace("+", "|", 1)[:-1] + "|",
        f"| {'GPU  Name':<24}{'Persistence-M':<13} | {'Bus-Id':<13}{'Disp.A':>7} | {'Volatile Uncorr. ECC':>20} |",
        f"| {'Fan  Temp   Perf':<20}{'Pwr:Usage/Cap':>17} | {'Memory-Usage':>20} | {'GPU-Util  Compute M.':>20} |",
        line.replace("-", "=").replace("+", "|"),
    ]
    for card in cards:
        gpu = card.gpu
        ecc = FIELDS["ecc.errors.uncorrected.volatile.total"][1](card)
        ecc = "Off" if ecc == "[N/A]" else ecc
        power = f"{float(FIELDS['power.draw'][1](card)):.0f}W / {_limit(card):.0f}W"
        memory = f"{gpu.memory_used_mib}MiB / {gpu.memory_total_mib}MiB"
        heat = f"{FIELDS['temperature.gpu'][1](card)}C"
        out += [
            f"| {gpu.index:>3}  {gpu.name:<27}{'On' if card.persistence else 'Off':>5} "
            f"| {gpu.pci_bus_id:<16} {'Off':>3} | {ecc:>20} |",
            f"| {'N/A':>3} {heat:>5}    {'P0' if card.busy else 'P8':<7}{power:>17} | {memory:>20} "
            f"| {FIELDS['utilization.gpu'][1](card) + '%':>8} {'Default':>11} |",
            line,
        ]
    shown = {card.gpu.uuid: card.gpu.index for card in cards}
    processes = [p for p in driver.processes() if p.gpu_uuid in shown]
    frame = "+" + "-" * 85 + "+"
    out += [
        "",
        frame,
        f"| {'Processes:':<83} |",
        f"| {' GPU        PID   Type   Process name':<70}{'GPU Memory':>13} |",
    ]
    out.append(frame.replace("-", "=").replace("+", "|"))
    for process in processes:
        left = f"{shown[process.gpu_uuid]:>4} {process.pid:>10}      C   {_process_name(process.pid)[:45]}"
        out.append(f"| {left:<70}{process.used_mib:>10}MiB |")
    if not processes:
        out.append(f"| {' No running processes found':<83} |")
    return "\n".join([*out, frame]) + "\n"


def _reasons(card: Card) -> int:
    return card.gpu.throttled | (0 if card.busy or card.gpu.throttled else IDLE_REASON)


def _heat(card: Card) -> int:
    if card.gpu.throttled & THERMAL:
        return THROTTLED_C
    return BUSY_C if card.busy else IDLE_C


def _process_name(pid: int) -> str:
    """The program's path; nvidia-smi says so where it may not look."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace") or "[Not Found]"
    except OSError:
        return "[Not Found]"


def _limit(card: Card) -> float:
    return POWER_LIMIT_W.get(card.gpu.name, DEFAULT_POWER_LIMIT_W)


def _has_ecc(card: Card) -> bool:
    """The data-centre cards have ECC on; workstation cards leave the factory with it off."""
    return not card.gpu.name.startswith("NVIDIA RTX") or card.gpu.ecc_uncorrected > 0
