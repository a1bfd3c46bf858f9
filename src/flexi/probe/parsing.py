"""From the probe's text to a `HostTruth`. Pure; a line that it does not understand is left out."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from flexi.probe.model import (
    Candidate,
    Certificate,
    Disk,
    Gpu,
    HostTruth,
    Instance,
    Loaded,
    Module,
    Package,
    PciCard,
    Pin,
    Process,
    Unit,
    Xid,
)
from flexi_host.agent import smi
from flexi_host.agent.smi import Cards

PARTS = ("system", "kernel", "packages", "service", "gpus")
TIMED_OUT = (124, 137)
"""Exit status of timeout(1) where the command had to be ended, and where it had to be killed."""
MIB = 2**20
Lines = Mapping[str, Sequence[str]]


def parse(text: str) -> HostTruth:
    """What the probe printed, also where it was cut off. ValueError where it is no answer of the probe at all."""
    lines = _by_name(text)
    if "probe" not in lines:
        raise ValueError("this is not what the probe prints")
    parts = lines["read"]
    smi_status = _int(_one(lines, "smi_status"))
    cards = _cards(lines) or Cards()
    return HostTruth(
        hung_in="gpus" if smi_status in TIMED_OUT else next((part for part in PARTS if part not in parts), None),
        started=_float(_one(lines, "time")),
        ended=_float(_one(lines, "time_end")),
        os=_os(lines["os_release"]),
        kernel=_one(lines, "kernel") or "",
        boot_id=_one(lines, "boot_id") or "",
        uptime_s=_float((_one(lines, "uptime") or "").partition(" ")[0]),
        reboot_required=bool(lines["reboot_required"]),
        reboot_packages=tuple(dict.fromkeys(lines["reboot_package"])),
        tried=tuple(lines["tried"]),
        disks=tuple(_disks(lines["disk"], lines["inodes"])),
        foreign_files=tuple(lines["foreign"]),
        driver=driver_version("\n".join(lines["driver"])),
        modules_loaded=tuple(line.split()[0] for line in lines["loaded"] if line.split()),
        device_nodes=tuple(lines["node"]),
        pci=tuple(PciCard(*[*line.split(), ""][:2]) for line in lines["pci"] if line.split()),
        modules=tuple(Module(*fields) for fields in _fields(lines["module"], 4)),
        dkms=tuple(lines["dkms"]),
        secure_boot=_secure_boot(_one(lines, "efi"), _one(lines, "secure_boot") or ""),
        enrolled_keys=tuple(lines["enrolled_key"]),
        xids=tuple(_xids(lines["xid"])),
        packages=tuple(_packages(lines["package"])),
        half_installed=tuple(lines["half_installed"]),
        candidates=tuple(_candidates(lines["policy"], lines["source"], lines["candidate"])),
        pins=tuple(_pins(lines["pin"])),
        blacklist=tuple(_blacklist(lines["blacklist"])),
        needrestart=bool(lines["needrestart"]),
        deployed=bool(lines["flexi"]),
        drained={group: reason.strip() for group, reason in _fields(lines["drain"], 2)},
        releases=tuple(lines["release"]),
        release_current=_one(lines, "release_current") or None,
        release_previous=_one(lines, "release_previous") or None,
        certificates=tuple(_certificates(lines["certificate"])),
        agent=_object("\n".join(lines["agent"])),
        instances=tuple(_instances(lines)),
        units=tuple(_units(lines["unit"])),
        smi_status=smi_status,
        smi_words=cards.errors,
        smi_warnings=cards.warnings,
        gpus=tuple(_gpus(cards, lines["throttle"])),
        processes=tuple(_processes(lines["process"])),
    )


def _by_name(text: str) -> dict[str, list[str]]:
    """The values of NAME=VALUE lines, by name."""
    lines: dict[str, list[str]] = defaultdict(list)
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            lines[name].append(value)
    return lines


def driver_version(text: str) -> str | None:
    """The version in `/proc/driver/nvidia/version`, also that of the open modules (`… for x86_64  580.65.06 …`)."""
    match = re.search(r"\b(\d{3}\.\d+(?:\.\d+)*)\b", text)
    return match.group(1) if match else None


def _one(lines: Lines, name: str) -> str | None:
    values = lines.get(name) or [""]
    return values[0].strip() or None


def _fields(lines: Iterable[str], count: int) -> list[list[str]]:
    split = (line.split("|", count - 1) for line in lines)
    return [fields for fields in split if len(fields) == count]


def _int(text: str | None) -> int | None:
    text = (text or "").strip()
    return int(text) if text.isdigit() else None


def _float(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _os(lines: Sequence[str]) -> str:
    values = {key: value.strip("\"'") for key, _, value in (line.partition("=") for line in lines)}
    return f"{values.get('ID', '')}-{values.get('VERSION_ID', '')}".strip("-")


def _disks(spaces: Sequence[str], inodes: Sequence[str]) -> Iterable[Disk]:
    """`df -P`: file system, blocks of 1024 bytes, used, free, percent, mount point."""

    def rows(lines: Sequence[str]) -> dict[str, list[str]]:
        split = (line.split(None, 5) for line in lines)
        return {fields[5]: fields for fields in split if len(fields) == 6}

    counted = rows(inodes)
    for mount, fields in rows(spaces).items():
        used = counted.get(mount, [""] * 6)[4]
        yield Disk(mount, (_int(fields[3]) or 0) * 1024, _int(fields[4].rstrip("%")), _int(used.rstrip("%")))


def _secure_boot(efi: str | None, words: str) -> bool | None:
    """mokutil's words, or the variable's data byte (UEFI specification, global variable SecureBoot: 1 is on)."""
    if not efi:
        return False
    if words == "SecureBoot enabled" or words.split() == ["SecureBoot", "byte", "1"]:
        return True
    return False if words.startswith("SecureBoot") else None


def _xids(lines: Iterable[str]) -> Iterable[Xid]:
    for line in lines:
        match = re.search(r"NVRM: Xid \((?:PCI:)?([0-9a-fA-F:.]+)\): (\d+), ?(.*)", line)
        if match:
            yield Xid(match.group(1).lower(), int(match.group(2)), match.group(3).strip(), _float(line.split(" ")[0]))


def _packages(lines: Iterable[str]) -> Iterable[Package]:
    for want, state, name, version, section, summary in _fields(lines, 6):
        yield Package(name, version, want == "hold", state, section, summary)


def _candidates(policy: Sequence[str], sources: Sequence[str], shown: Sequence[str]) -> Iterable[Candidate]:
    labels = _labels(sources)
    records = _records(shown)
    name, installed, candidate, version = "", "", "", ""
    archives: dict[str, list[str]] = {}

    def finish() -> Candidate:
        record = records.get((name, candidate), {})
        summary = record.get("Description-en") or record.get("Description", "")
        found = archives.get(candidate, [])
        known = tuple(dict.fromkeys(archives.get(installed, [])))
        return Candidate(
            name, installed, candidate or None, found[0] if found else None, known, record.get("Section", ""), summary
        )

    for line in [*policy, "end:"]:
        if line[:1] not in ("", " ") and line.endswith(":"):
            if name:
                yield finish()
            name, installed, candidate, version, archives = line[:-1], "", "", "", {}
        elif match := re.match(r"  (Installed|Candidate): (.*)", line):
            value = "" if match.group(2) == "(none)" else match.group(2)
            if match.group(1) == "Installed":
                installed = value
            else:
                candidate = value
        elif match := re.match(r"(?: {5}| \*\*\* )(\S+) -?\d+$", line):
            version = match.group(1)
        elif (match := re.match(r" +-?\d+ (\S.*)", line)) and version:
            label = labels.get(match.group(1).strip())
            if label is not None:
                archives.setdefault(version, []).append(label)


def _labels(sources: Sequence[str]) -> dict[str, str]:
    """Archive, as `apt-cache policy` prints it behind a priority -> its label."""
    labels, archive = {}, ""
    for line in sources:
        if match := re.match(r" *-?\d+ (\S.*)", line):
            archive = match.group(1).strip()
        elif match := re.match(r" +release .*\bl=([^,]*)", line):
            labels[archive] = match.group(1)
    return labels


def _records(lines: Sequence[str]) -> dict[tuple[str, str], dict[str, str]]:
    records: dict[tuple[str, str], dict[str, str]] = {}
    record: dict[str, str] = {}
    for line in [*lines, ""]:
        key, _, value = line.partition(": ")
        if key:
            record.setdefault(key.rstrip(":"), value)
        elif record:
            records[record.get("Package", ""), record.get("Version", "")] = record
            record = {}
    return records


def _pins(lines: Sequence[str]) -> Iterable[Pin]:
    stanza: dict[str, str] = {}
    key = ""
    for line in [*lines, ""]:
        if line[:1].isspace() and line.strip() and key:
            stanza[key] += " " + line.strip()
        elif line.strip():
            key, _, value = line.partition(":")
            stanza[key] = value.strip()
        elif stanza:
            if match := re.match(r"-?\d+", stanza.get("Pin-Priority", "")):
                packages = " ".join(stanza.get("Package", "").split())
                yield Pin(packages, " ".join(stanza.get("Pin", "").split()), int(match.group(0)))
            stanza, key = {}, ""


def _blacklist(lines: Iterable[str]) -> Iterable[str]:
    for line in lines:
        if match := re.fullmatch(r'Unattended-Upgrade::Package-Blacklist:: "(.*)";', line.strip()):
            yield match.group(1)


def _certificates(lines: Iterable[str]) -> Iterable[Certificate]:
    """`openssl x509 -enddate` prints `notAfter=Nov 23 11:00:00 2027 GMT`."""
    for file, words in _fields(lines, 2):
        try:
            end = datetime.strptime(words.removeprefix("notAfter="), "%b %d %H:%M:%S %Y GMT")
        except ValueError:
            yield Certificate(file, None)
        else:
            yield Certificate(file, end.replace(tzinfo=UTC).timestamp())


def _instances(lines: Lines) -> Iterable[Instance]:
    answers = {(group, what): text for group, what, text in _fields(lines["answer"], 3)}
    for group, gpus, address in _fields(lines["instance"], 3):
        version = _object(answers.get((group, "version"), ""))
        log = lines.get(f"compute_{group}", ())
        libraries = (re.search(r"\blibrary=(\w+)", line) for line in log)
        yield Instance(
            group=group,
            uuids=tuple(uuid for uuid in gpus.split(",") if uuid),
            address=address,
            version=str(version["version"]) if version and "version" in version else None,
            loaded=_loaded(_object(answers.get((group, "ps"), ""))),
            libraries=tuple(match.group(1) for match in libraries if match),
        )


def _loaded(answer: dict[str, Any] | None) -> tuple[Loaded, ...] | None:
    if answer is None:
        return None
    return tuple(
        Loaded(
            str(entry.get("name", "")),
            int(entry.get("size") or 0),
            int(entry.get("size_vram") or 0),
            str(entry.get("expires_at", "")),
        )
        for entry in answer.get("models") or []
        if isinstance(entry, dict)
    )


def _units(lines: Sequence[str]) -> Iterable[Unit]:
    known: dict[str, Unit] = {}
    values: dict[str, str] = {}
    for line in [*lines, ""]:
        if line:
            key, _, value = line.partition("=")
            values[key] = value
        elif values.get("Id"):
            active = values.get("ActiveState", "")
            since = _int(values.get("ActiveEnterTimestampMonotonic"))
            known[values["Id"]] = Unit(
                name=values["Id"],
                load=values.get("LoadState", ""),
                active=active,
                sub=values.get("SubState", ""),
                boot=values.get("UnitFileState", ""),
                restarts=_int(values.get("NRestarts")) or 0,
                active_since_s=since / 1e6 if since and active == "active" else None,
            )
            values = {}
    return known.values()


def parse_cards(text: str) -> Cards | None:
    """What `the_cards` of smi.sh printed; None where nvidia-smi is not installed."""
    return _cards(_by_name(text))


def _cards(lines: Lines) -> Cards | None:
    status = _int(_one(lines, "smi_status"))
    if status is None:
        return None
    fields = tuple((_one(lines, "smi_fields") or "").split(","))
    answers = ("\n".join(lines.get(name, ())) for name in ("smi", "smi_health"))
    text, health = answers
    return smi.judge(text, status, fields, health)


def _gpus(cards: Cards, throttle: Sequence[str]) -> Iterable[Gpu]:
    """The cards as the doctor sees them, with what slows them down."""
    reasons = {}
    for line in throttle:
        uuid, _, mask = line.partition(",")
        if re.fullmatch(r"0x[0-9a-fA-F]+", mask.strip()):
            reasons[uuid.strip()] = int(mask.strip(), 16)
    for gpu in cards.gpus:
        yield Gpu(
            index=gpu.index,
            uuid=gpu.uuid,
            name=gpu.name,
            pci=gpu.pci,
            memory_total=gpu.memory_total,
            memory_used=gpu.memory_used,
            temperature_c=gpu.temperature_c,
            persistence=gpu.persistence,
            ecc_uncorrected=gpu.ecc_uncorrected,
            throttle=reasons.get(gpu.uuid),
            fault=gpu.fault,
            split=gpu.split,
        )


def _processes(lines: Sequence[str]) -> Iterable[Process]:
    for uuid, pid, used, name, cgroup in _fields(lines, 5):
        number, memory = _int(pid), _int(used)
        if number is not None:
            yield Process(uuid, number, None if memory is None else memory * MIB, name, cgroup)
