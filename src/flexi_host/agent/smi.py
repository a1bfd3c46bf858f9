"""What nvidia-smi answers, and what that says of each card: the one parser and the one judgement.

The agent, the gate of an instance, the facts of a deploy, the doctor's probe and the health checks all come here. Who
runs nvidia-smi passes on its text and its exit status, untouched. Collected answers: tests/unit/smi.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

PROGRAM = "nvidia-smi"
FIELDS = (
    "index",
    "uuid",
    "name",
    "memory.total",
    "memory.used",
    "utilization.gpu",
    "temperature.gpu",
    "driver_version",
    "ecc.errors.uncorrected.volatile.total",
)
"""Columns of the query, in their order. Every driver since 450 knows them."""
FORMAT = "--format=csv,noheader,nounits"
RECOVERY = "gpu_recovery_action"
MIG = "mig.mode.current"
HEALTH_FIELDS = ("uuid", MIG, RECOVERY)
"""Columns of a second query, which a driver may refuse: MIG since 450 (A100), the recovery action since 570."""
RECOVERY_SINCE = 565
"""The oldest driver branch that is asked for the recovery action; `nvidia-smi -q` of 565.57.01 shows it."""
INIT_FAILED = "Failed to initialize NVML"
"""The driver as a whole does not work: no card will answer alone either."""
UNKNOWN_FIELD = "is not a valid field to query"
MIB = 2**20

HARMLESS = frozenset(
    {
        "",
        "n/a",
        "not supported",
        "insufficient permissions",
        "requested functionality has been deprecated",
        "function not found",
    }
)
"""Words in the place of a value, without brackets and in lower case, that say nothing of the card: it does not count
this, the caller may not see it, or the driver no longer (NVML_ERROR_DEPRECATED, drivers 570 to 595) or not yet
(NVML_ERROR_FUNCTION_NOT_FOUND) has it. Every other word is a fault of the card."""
NO_ACTION = "none"
"""Value of the recovery action of a healthy card; the others of nvml.h ask for a reset, a reboot or a drain."""
INFOROM = 14
"""Exit status for "infoROM is corrupted" (`man nvidia-smi`, RETURN VALUE); the cards compute all the same."""
TEXTS = frozenset({"uuid", "name", "driver_version", "pci.bus_id"})
"""Columns whose value is any text; those of all others are numbers or one of a few words."""
WORDS = frozenset({"enabled", "disabled", "active", "not active", "on", "off", "yes", "no"})

_ROW = re.compile(r"\s*\d+\s*,\s*(?:(?:GPU|MIG)-[^,\s]*|\[[^]]*\]|N/A|ERR!)\s*(?:,|$)", re.IGNORECASE)
_ROW_WITHOUT_UUID = re.compile(r"\s*\d+\s*,")
_LISTED = re.compile(r"GPU (\d+): (.*?) \(UUID: ((?:GPU|MIG)-[^)\s]+)\)?\s*$")
_SLICE = re.compile(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: MIG-")
_VERSION = re.compile(r"(\d+)\.")
_NUMBER = re.compile(r"(\d+)(?:[.,]\d+)?(?: ?(?:%|[A-Za-z]{1,3}))?$")
_COMPLAINT = re.compile(
    r"warning|error|unable|fail|lost|corrupt|not found|no devices|requires? reset|insufficient|couldn't|mismatch|"
    r"cannot|denied|terminat|timed? ?out",
    re.IGNORECASE,
)
"""What makes a line a complaint where nvidia-smi ends well; a wrapper's banner is none."""
_HEADER = re.compile(r"\s*index\s*,\s*(?:gpu_)?uuid\b", re.IGNORECASE)
_VIRTUAL = re.compile(r"(?:.*-)?\d+(?:-\d+)?[qcab]$", re.IGNORECASE)
"""End of a vGPU's name: `GRID A100-10C`, `NVIDIA A40-48Q`, `GRID A100-1-5C` (vGPU types, NVIDIA vGPU user guide)."""


@dataclass(frozen=True)
class Gpu:
    """A card of nvidia-smi's list, usable or not."""

    index: int
    uuid: str
    name: str
    memory_total: int | None = None
    """Bytes; None, here and below, where the card does not tell."""
    memory_used: int | None = None
    utilization_percent: int | None = None
    temperature_c: int | None = None
    driver_version: str = ""
    ecc_uncorrected: int | None = None
    """Uncorrected memory errors since the driver was loaded."""
    pci: str = ""
    persistence: bool | None = None
    fault: str | None = None
    """Why nothing can compute on it, in nvidia-smi's words; None where it can."""
    split: bool = False
    """It is in MIG mode: an instance gets one slice of it, or none."""

    @property
    def called(self) -> str:
        """`GPU 1 (GPU-ab12cd34)`."""
        return f"GPU {self.index} ({short(self.uuid)})"


class Named(Protocol):
    """As much of a card as tells which one it is."""

    @property
    def name(self) -> str: ...
    @property
    def called(self) -> str: ...
    @property
    def memory_total(self) -> int | None: ...
    @property
    def fault(self) -> str | None: ...
    @property
    def split(self) -> bool: ...


@dataclass(frozen=True)
class Cards:
    """The judgement of an answer."""

    gpus: tuple[Gpu, ...] = ()
    """Each card once, by its UUID, in the order of the indices."""
    errors: tuple[str, ...] = ()
    """Complaints about the driver or a card that has no line."""
    warnings: tuple[str, ...] = ()
    """Complaints that keep no card from computing."""

    @property
    def usable(self) -> tuple[Gpu, ...]:
        return tuple(gpu for gpu in self.gpus if gpu.fault is None)

    def gpu(self, uuid: str) -> Gpu | None:
        return next((gpu for gpu in self.gpus if gpu.uuid == uuid), None)


@dataclass(frozen=True)
class Expected:
    """The cards of a host as the site file has them."""

    model: str
    memory_mib: int | None
    """Memory of one card that the plan counts with; None where nothing is known of it."""
    memory_said: bool = False
    """The site file states the memory: less than the card has is then on purpose."""


def query(fields: Sequence[str] = FIELDS) -> tuple[str, ...]:
    """The arguments that ask for `fields` of every card."""
    return (f"--query-gpu={','.join(fields)}", FORMAT)


def health_fields(driver_version: str) -> tuple[str, ...]:
    """The columns of the second query that this driver may know; an unknown version may know all."""
    branch = _VERSION.match(driver_version)
    return ("uuid", MIG) if branch and int(branch.group(1)) < RECOVERY_SINCE else HEALTH_FIELDS


def is_lost(gpu: Gpu) -> bool:
    """Whether the card's fault is that it fell off the bus (`[GPU is lost]`)."""
    return gpu.fault is not None and "lost" in gpu.fault.lower()


def judge(text: str, status: int, fields: Sequence[str] = FIELDS, health: str = "") -> Cards:
    """The cards in nvidia-smi's answer to `query(fields)` or `nvidia-smi -L`, and what it complains of.

    Args:
        text: its standard output and error output, of one call or of several.
        status: its exit status; negative or above 128 where a signal ended it.
        fields: the columns that it was asked for.
        health: its answer to `query(HEALTH_FIELDS)`, or to fewer of these columns; empty without one.
    """
    gpus: dict[str, Gpu] = {}
    complaints: list[str] = []
    parent: str | None = None
    for raw in text.splitlines():
        line = raw.replace("\0", "").rstrip()
        gpu = _row(line, fields) or _listed(line)
        if gpu is not None:
            parent = gpu.uuid
            # A line that says less never hides one that says more: the same card may have been asked for twice.
            before = gpus.get(gpu.uuid)
            if before is None or (before.fault is None and gpu.fault is not None):
                gpus[gpu.uuid] = gpu
        elif _SLICE.match(line):
            if parent in gpus:
                gpus[parent] = replace(gpus[parent], split=True)
        elif line.strip() and not _HEADER.match(line) and (status not in (0, INFOROM) or _COMPLAINT.search(line)):
            complaints.append(" ".join(line.split()))
    for uuid, action, split in _health(health):
        if uuid in gpus:
            gpus[uuid] = replace(gpus[uuid], fault=gpus[uuid].fault or action, split=gpus[uuid].split or bool(split))
    complaints = list(dict.fromkeys(complaints))
    warnings = [line for line in complaints if _harmless_complaint(line)]
    errors = [line for line in complaints if line not in warnings]
    if status and not complaints:
        end = _ended(status)
        (warnings if gpus else errors).append(end)
    elif not gpus and not errors:
        errors = [*warnings, f"nvidia-smi shows no GPU (exit status {status})"]
        warnings = []
    return Cards(tuple(sorted(gpus.values(), key=lambda gpu: (gpu.index, gpu.uuid))), tuple(errors), tuple(warnings))


def unknown_field(text: str) -> str | None:
    """The column that this driver's nvidia-smi does not know, where it says so."""
    match = re.search(rf'"([\w.]+)" {UNKNOWN_FIELD}', text)
    return match.group(1) if match else None


def other(gpu: Named, expected: Expected) -> str | None:
    """Why the card is not the one of the site file, in words; None where it is, or where its fault hides its name."""
    if gpu.fault is not None:
        return None
    mib = None if gpu.memory_total is None else gpu.memory_total // MIB
    said = f"{expected.model}" + (f" with {expected.memory_mib} MiB" if expected.memory_mib else "")
    found = gpu.name + (f" with {mib} MiB" if mib is not None else "")
    if gpu.split:
        return f"{gpu.called} is split by MIG ({found}): an instance gets one slice of it, the site file says {said}"
    if not _same_name(gpu.name, expected.model) or not _same_memory(mib, expected):
        return f"{gpu.called} is a {found}, the site file says {said}"
    return None


def short(uuid: str) -> str:
    """`GPU-ab12cd34-…` -> `GPU-ab12cd34`: enough to tell cards apart."""
    return uuid[:12]


def plain(word: str) -> str:
    """A word in the place of a value without its brackets: `[GPU requires reset]` -> `GPU requires reset`."""
    return word.strip().strip("[]").strip()


def number(text: str) -> int | None:
    """A whole number, also with decimals (`45.00`, `45,00`) or a unit behind it (`46068 MiB`); None for words."""
    match = _NUMBER.match(text.strip())
    return int(match.group(1)) if match else None


def _row(line: str, fields: Sequence[str]) -> Gpu | None:
    """A line of `--query-gpu`; None for any other. One that is cut off, or has words for values, is a faulty card."""
    if not (_ROW if "uuid" in fields else _ROW_WITHOUT_UUID).match(line):
        return None
    values = _columns(line, fields)
    faults = [_fault(field, value) for field, value in values.items()]
    fault = next((words for words in faults if words), None)
    if len(values) < len(fields):
        fault = fault or "its line is cut off"
    index, total, used = int(values["index"]), number(values.get("memory.total", "")), values.get("memory.used", "")
    uuid = values.get("uuid", "")
    return Gpu(
        index=index,
        # A card without a UUID still takes a place, and no group can have it.
        uuid=uuid if uuid.upper().startswith(("GPU-", "MIG-")) else f"index-{index}",
        name=values.get("name", ""),
        memory_total=None if total is None else total * MIB,
        memory_used=_bytes(used),
        utilization_percent=number(values.get("utilization.gpu", "")),
        temperature_c=number(values.get("temperature.gpu", "")),
        driver_version=values.get("driver_version", ""),
        ecc_uncorrected=number(values.get("ecc.errors.uncorrected.volatile.total", "")),
        pci=values.get("pci.bus_id", "").lower(),
        persistence={"enabled": True, "disabled": False}.get(values.get("persistence_mode", "").lower()),
        fault=fault,
        split=uuid.upper().startswith("MIG-") or " MIG " in f" {values.get('name', '')} ",
    )


def _columns(line: str, fields: Sequence[str]) -> dict[str, str]:
    """The line's values by column. nvidia-smi separates by a comma and a blank and quotes nothing: what is too much
    belongs to the name, unless it is blank; a decimal comma has no blank behind it."""
    parts = [part.strip() for part in re.split(r",(?:\s+|$|(?=,))", line.strip())]
    if len(parts) < len(fields):
        parts = [part.strip() for part in line.split(",")]
    while len(parts) > len(fields) and not parts[-1]:
        parts.pop()
    extra = len(parts) - len(fields)
    if extra > 0 and "name" in fields:
        at = fields.index("name")
        parts[at : at + extra + 1] = [", ".join(parts[at : at + extra + 1])]
    return dict(zip(fields, parts, strict=False))


def _fault(field: str, value: str) -> str | None:
    """What a value says of a fault of its card; None where it is a value, or harmless."""
    word = plain(value)
    bracketed = value.strip().startswith("[")
    if word.lower() in HARMLESS:
        # A card that hides its own UUID can be given to nobody; that is said where a group looks for it.
        return None
    if word.upper().startswith("ERR!"):
        return f"nvidia-smi shows {word}"
    if field in TEXTS:
        return word if bracketed or word.lower() in ("unknown error", "gpu is lost", "gpu requires reset") else None
    if number(value) is not None or word.lower() in WORDS or word.lower().startswith("0x"):
        return word if bracketed and number(word) is None else None
    return word


def _listed(line: str) -> Gpu | None:
    """A card's line of `nvidia-smi -L`: `GPU 0: NVIDIA A40 (UUID: GPU-…)`."""
    match = _LISTED.match(line)
    if not match:
        return None
    return Gpu(int(match[1]), match[3], match[2], split=match[3].startswith("MIG-"))


def _health(text: str) -> Iterable[tuple[str, str | None, bool]]:
    """(UUID, recovery action, whether it is split) of each line of the second query. The columns are told apart by
    their values, since a driver may know only one of them."""
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if not 2 <= len(parts) <= 3 or not parts[0].startswith("GPU-"):
            continue
        action, split = None, False
        for value in parts[1:]:
            word = plain(value)
            if word.lower() in ("enabled", "disabled"):
                split = word.lower() == "enabled"
            elif word.lower() not in HARMLESS and word.lower() != NO_ACTION:
                action = word if value.startswith("[") else f"the driver asks for recovery: {word}"
        yield parts[0], action, split


def _harmless_complaint(line: str) -> bool:
    return line.lower().startswith("warning") or "inforom" in line.lower()


def _ended(status: int) -> str:
    if status == INFOROM:
        return "infoROM is corrupted (exit status 14)"
    signal = -status if status < 0 else status - 128
    if status < 0 or 128 < status < 160:
        return f"nvidia-smi was ended by signal {signal}"
    return f"nvidia-smi ends with exit status {status}"


def _bytes(text: str) -> int | None:
    mib = number(text)
    return None if mib is None else mib * MIB


# -- one card and the site file's ----------------------------------------------------------------------------------

TELLING = frozenset({"ti", "super", "d", "laptop", "mobile"})
"""Words that make another card of one with the same name before them and, now and then, the same memory."""
BRANDS = frozenset({"nvidia", "tesla", "quadro", "geforce", "generation", "gpu", "edition"})
"""Words of a name that tell no two cards apart."""
TOLERANCE = 0.08
"""ECC in the memory itself takes a sixteenth (RTX A6000: 49140 MiB without, 46068 with), drivers a little."""


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[\s\-/_]+", name.lower()) if word and word not in BRANDS]


def _same_name(card: str, wanted: str) -> bool:
    """Whether every word of the site file's name is in the card's, as a word or as neighbours written in one.

    `80GB` may be missing (`NVIDIA H100 PCIe`): the memory is compared anyway. A vGPU or a slice is the card only of
    which the site file says so.
    """
    have, want = _words(card), _words(wanted)
    virtual = "mig" in have or "grid" in have or _VIRTUAL.match(card.strip())
    if (virtual and have != want) or not TELLING.intersection(have).issubset(want):
        return False
    joined = {"".join(have[begin:end]) for begin in range(len(have)) for end in range(begin + 1, len(have) + 1)}
    missing = [word for word in want if word not in joined and not re.fullmatch(r"\d+g(?:i?b)?", word)]
    sizes = [word for word in want if re.fullmatch(r"\d+gb", word)]
    others = [word for word in have if re.fullmatch(r"\d+gb", word)]
    return "".join(want) in joined or (bool(want) and not missing and not (sizes and others and sizes != others))


def _same_memory(mib: int | None, expected: Expected) -> bool:
    if mib is None or expected.memory_mib is None:
        return True
    if mib < expected.memory_mib * (1 - TOLERANCE):
        return False
    return expected.memory_said or mib <= expected.memory_mib * (1 + TOLERANCE)
