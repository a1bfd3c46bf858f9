"""Every unit that flexi writes: closed as far as docs/admin/hardening.md says, in words that systemd 249 knows."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flexi.lab.vendor.ubuntu import PERSISTENCED_UNIT
from flexi.paths import ROOT

MAX_EXPOSURE = 2.5
OLDEST = 249
"""Ubuntu 22.04 (packages.ubuntu.com/jammy/systemd)."""
DROP_IN = ROOT / "templates/driver/nvidia-persistenced.conf"
HAPROXY_DROP_IN = ROOT / "templates/gateway/haproxy.conf"
UNITS = sorted((ROOT / "templates").rglob("*.service"))
SOCKETS = sorted((ROOT / "templates").rglob("*.socket*"))
TIMERS = sorted((ROOT / "templates").rglob("*.timer"))
DROP_INS = [DROP_IN, HAPROXY_DROP_IN, ROOT / "templates/chat/postgresql.conf"]
WRITTEN = [*UNITS, *SOCKETS, *TIMERS, *DROP_INS]
PAGE = ROOT / "docs/admin/hardening.md"

# Directive -> the systemd release that brought it, by systemd's NEWS (/usr/share/doc/systemd/NEWS.gz); 0 for what is
# older than its oldest entry on it and stands in the manual pages of systemd 183 already.
SINCE = {
    "Accept": 0,
    "After": 0,
    "AmbientCapabilities": 229,
    "AssertPathExistsGlob": 218,
    "Backlog": 0,
    "Before": 0,
    "CapabilityBoundingSet": 0,
    "CollectMode": 236,
    "Conflicts": 0,
    "DefaultDependencies": 0,
    "Description": 0,
    "DeviceAllow": 208,
    "DevicePolicy": 208,
    "DirectoryMode": 0,
    "Documentation": 0,
    "Environment": 0,
    "EnvironmentFile": 0,
    "ExecReload": 0,
    "ExecStart": 0,
    "ExecStartPost": 0,
    "ExecStartPre": 0,
    "ExecStop": 0,
    "Group": 0,
    "IPAddressAllow": 235,
    "IPAddressDeny": 235,
    "KillMode": 0,
    "KillSignal": 0,
    "LimitCORE": 0,
    "LimitMEMLOCK": 0,
    "LimitNOFILE": 0,
    "ListenDatagram": 0,
    "ListenStream": 0,
    "LoadCredential": 247,
    "LockPersonality": 235,
    "LogsDirectory": 235,
    "LogsDirectoryMode": 235,
    "MaxConnections": 0,
    "MemoryDenyWriteExecute": 231,
    "MemorySwapMax": 232,
    "Nice": 0,
    "MemoryMax": 231,
    "NoNewPrivileges": 187,
    "OnActiveSec": 0,
    "OnCalendar": 197,
    "OnUnitInactiveSec": 0,
    "Persistent": 212,
    "PrivateDevices": 209,
    "PrivateMounts": 239,
    "PrivateNetwork": 0,
    "PrivateTmp": 0,
    "PrivateUsers": 232,
    "ProcSubset": 247,
    "ProtectClock": 245,
    "ProtectControlGroups": 232,
    "ProtectHome": 214,
    "ProtectHostname": 242,
    "ProtectKernelLogs": 244,
    "ProtectKernelModules": 232,
    "ProtectKernelTunables": 232,
    "ProtectProc": 247,
    "ProtectSystem": 214,
    "ReadWritePaths": 231,
    "RandomizedDelaySec": 229,
    "RemainAfterExit": 0,
    "Requires": 0,
    "RemoveIPC": 232,
    "Requisite": 0,
    "Restart": 0,
    "RestartSec": 0,
    "RestrictAddressFamilies": 211,
    "RestrictNamespaces": 233,
    "RestrictRealtime": 231,
    "RestrictSUIDSGID": 242,
    "RuntimeDirectory": 211,
    "RuntimeDirectoryMode": 211,
    "Sockets": 0,
    "SocketGroup": 214,
    "SocketMode": 0,
    "SocketUser": 214,
    "StandardError": 0,
    "StandardInput": 0,
    "StandardOutput": 0,
    "StartLimitIntervalSec": 230,
    "StateDirectory": 235,
    "StateDirectoryMode": 235,
    "StopWhenUnneeded": 0,
    "SupplementaryGroups": 0,
    "SystemCallArchitectures": 209,
    "SystemCallErrorNumber": 209,
    "SystemCallFilter": 187,
    "TimeoutStartSec": 188,
    "TimeoutStopSec": 188,
    "TriggerLimitIntervalSec": 230,
    "Type": 0,
    "UMask": 0,
    "User": 0,
    "WantedBy": 0,
    "Wants": 0,
    "WatchdogSec": 0,
    "WorkingDirectory": 0,
}


CREDENTIALS = ("LoadCredential", "SetCredential")
CONTROL = ("ExecStartPost", "ExecReload")
"""Lines that got credentials later than ExecStartPre=."""
STOPPING = ("ExecStop", "ExecStopPost", "ExecCondition")
NEVER = 999
EXEC = ("ExecStart", "ExecStartPre", *CONTROL, *STOPPING)

Lines = list[tuple[str, str]]
"""Directive and value, in the unit's order."""


@dataclass(frozen=True)
class Meaning:
    """A use of directives that all exist in 249 and that does there what is not meant."""

    since: int
    """The release in which it does what is meant; NEVER where none does."""
    what: str
    source: str
    sample: str
    """A unit's lines that have it."""
    uses: Callable[[Lines], bool]


def _named(lines: Lines, *names: str) -> list[str]:
    return [value for name, value in lines if name in names]


def _of_credentials(*names: str) -> Callable[[Lines], bool]:
    """Any such line of a unit with credentials: what it reads may be named in a file of its own, as Apache's was."""
    return lambda lines: bool(_named(lines, *CREDENTIALS)) and bool(_named(lines, *names))


def _matches(pattern: str, *names: str) -> Callable[[Lines], bool]:
    return lambda lines: any(re.search(pattern, value) for value in _named(lines, *names))


def _many(name: str, most: int) -> Callable[[Lines], bool]:
    return lambda lines: bool(_named(lines, *CREDENTIALS)) and len(_named(lines, name)) > most


def _specifier(letters: str) -> Callable[[Lines], bool]:
    return lambda lines: any(re.search(f"(?<!%)(%%)*%[{letters}]", value) for _, value in lines)


MEANINGS = (
    Meaning(
        252,
        "credentials in ExecStartPre=: before, only ExecStart= had them",
        "systemd NEWS 252; systemd/systemd#24734",
        "LoadCredential=admin.conf:/etc/x\nExecStartPre=/usr/sbin/apache2 -t -f /etc/y",
        _of_credentials("ExecStartPre"),
    ),
    Meaning(
        254,
        "credentials in the second ExecStartPre= or ExecStart=: in a sandbox only the first could read them",
        "systemd/systemd#27275, #27279",
        "LoadCredential=a:/b\nExecStart=/bin/one\nExecStart=/bin/two",
        lambda lines: _many("ExecStartPre", 1)(lines) or _many("ExecStart", 1)(lines),
    ),
    Meaning(
        254,
        "credentials in ExecStartPost= and ExecReload=",
        "systemd/systemd#27279; #33953 for the race in ExecStartPost= until 256",
        "LoadCredential=a:/b\nExecReload=/bin/one",
        _of_credentials(*CONTROL),
    ),
    Meaning(
        NEVER,
        "credentials in ExecStop=, ExecStopPost=, ExecCondition=",
        "systemd/systemd#27279 (review), #34805",
        "SetCredential=a:b\nExecStop=/bin/one",
        _of_credentials(*STOPPING),
    ),
    Meaning(
        251,
        "LoadCredential= of a folder, or of a name without a path",
        "systemd NEWS 251: directories; /etc/credstore",
        "LoadCredential=a:secrets",
        _matches(r"^[^:]+(:[^/].*|:.*/)?$", "LoadCredential"),
    ),
    Meaning(
        251,
        "the specifiers %d, %q, %y and %Y; an unknown one makes the whole line void",
        "systemd NEWS 251",
        "ExecStart=/bin/x --file %d/a",
        _specifier("dqyY"),
    ),
    Meaning(
        251,
        "Restart= after a failed ExecCondition=: before, with Restart=always, it was tried again",
        "systemd NEWS 251",
        "ExecCondition=/bin/x\nRestart=always",
        lambda lines: bool(_named(lines, "ExecCondition")) and bool(_named(lines, "Restart")),
    ),
    Meaning(
        250,
        "a second name after a colon (a link) in RuntimeDirectory= and its like",
        "man systemd.exec of 250, RuntimeDirectory=",
        "StateDirectory=one:two",
        _matches(":", "RuntimeDirectory", "StateDirectory", "CacheDirectory", "LogsDirectory"),
    ),
    Meaning(
        253,
        "Type=notify-reload",
        "systemd NEWS 253",
        "Type=notify-reload",
        _matches("^notify-reload$", "Type"),
    ),
    Meaning(
        257,
        "values that a switch got later: PrivateTmp=disconnected, PrivateUsers=self, ProtectHostname=private",
        "man systemd.exec of 258; unverified which release from 256 on brought which",
        "PrivateTmp=disconnected",
        lambda lines: any(
            value.split(":")[0] in ("disconnected", "self", "identity", "full", "private")
            for value in _named(lines, "PrivateTmp", "PrivateUsers", "ProtectHostname", "ProtectControlGroups")
        ),
    ),
    Meaning(
        NEVER,
        "a program that loads a module or makes a node, in a unit with a device cgroup: names in DeviceAllow= were "
        "looked up before, and `+` lifts nothing of it",
        "src/core/bpf-devices.c, src/core/service.c (unit_prepare_exec) of 252",
        "DeviceAllow=char-nvidia-uvm rw\nExecStartPre=-+/usr/bin/nvidia-modprobe -u",
        lambda lines: (
            bool(_named(lines, "DeviceAllow", "DevicePolicy"))
            and _matches(r"modprobe|mknod|nvidia-smi -L", "ExecStartPre", "ExecCondition")(lines)
        ),
    ),
    Meaning(
        NEVER,
        "DevicePolicy=auto (the default) with ProtectClock=: its char-rtc is a DeviceAllow=, which shuts out all other "
        "devices; who makes or opens some says which",
        "src/core/unit.c (unit_patch_contexts), src/core/cgroup.c (cgroup_apply_devices) of 252",
        "CapabilityBoundingSet=CAP_MKNOD\nProtectClock=yes",
        lambda lines: (
            "CAP_MKNOD" in " ".join(_named(lines, "CapabilityBoundingSet"))
            and bool(_named(lines, "ProtectClock"))
            and not _named(lines, "DeviceAllow")
        ),
    ),
)

KNOWN_GROUPS = {"@system-service", "@privileged", "@resources", "@module"}
"""Groups of system calls that NEWS names up to 249 (231, 241)."""


def settings(text: str) -> Lines:
    """The lines of a unit; a template's own directives and comments are none."""
    return re.findall(r"^([A-Za-z]+)=(.*)$", text, re.MULTILINE)


def surprises(text: str) -> Iterator[str]:
    """What means something else, or nothing, in the oldest systemd."""
    lines = settings(text)
    for meaning in MEANINGS:
        if meaning.since > OLDEST and meaning.uses(lines):
            yield f"{meaning.what} ({meaning.source})"


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_a_unit_means_the_same_in_systemd_249(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert list(surprises(text)) == []
    groups = re.findall(r"@[a-z-]+", " ".join(_named(settings(text), "SystemCallFilter")))
    assert set(groups) <= KNOWN_GROUPS
    # -@:+! are all that 249 knows before a path (man systemd.service, table 1).
    assert all(re.match(r"[-@:+!]*/", value) for value in _named(settings(text), *EXEC))


@pytest.mark.parametrize("meaning", MEANINGS, ids=lambda meaning: meaning.what[:40])
def test_every_meaning_is_found(meaning: Meaning) -> None:
    assert [found for found in surprises(meaning.sample) if found.startswith(meaning.what)]


@pytest.mark.parametrize(
    "harmless",
    [
        "LoadCredential=admin.conf:/etc/flexi/a.conf\nExecStart=/usr/sbin/apache2 -f /etc/b",
        "ExecStartPre=/bin/a\nExecStartPre=/bin/b\nExecReload=/bin/c",
        "ExecStart=/bin/date +%%d",
        "RuntimeDirectory=one two",
        "PrivateTmp=yes\nPrivateUsers=yes",
        "DeviceAllow=char-* m\nExecStart=/opt/flexi/flexi-gpu-nodes",
        "CapabilityBoundingSet=CAP_MKNOD\nProtectClock=yes\nDeviceAllow=char-* m",
    ],
)
def test_what_means_the_same_is_not_complained_of(harmless: str) -> None:
    assert list(surprises(harmless)) == []


def test_the_units_before_are_found() -> None:
    """The two that brought this table, as they were."""
    front = "LoadCredential=admin.conf:/etc/flexi/chat-front-admin.conf\nExecStartPre=/usr/sbin/apache2 -t -f /etc/x\n"
    instance = "ExecStartPre=-+/usr/bin/nvidia-modprobe -u -c=0\nDevicePolicy=closed\nDeviceAllow=char-nvidia-uvm rw\n"
    persistence = "ExecStartPre=-+/usr/bin/nvidia-smi -L\nDevicePolicy=closed\n"
    found = list(itertools.chain.from_iterable(map(surprises, (front, instance, persistence))))
    assert len(found) == 3


def directives(path: Path) -> set[str]:
    return set(re.findall(r"^([A-Za-z]+)=", path.read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_systemd_249_knows_every_directive(path: Path) -> None:
    used = directives(path)
    assert used
    unknown = used - SINCE.keys()
    assert not unknown, f"look up in systemd's NEWS since when: {', '.join(sorted(unknown))}"
    assert not [name for name in used if SINCE[name] > OLDEST]


def test_what_is_newer_is_not_in_the_list() -> None:
    """NEWS of 250 to 252 bring these; a unit of ours must not rely on them."""
    newer = {
        "RestrictFileSystems",
        "RestrictNetworkInterfaces",
        "ExecSearchPath",
        "ExitType",
        "LoadCredentialEncrypted",
    }
    assert not newer & SINCE.keys()


def exposure(path: Path) -> list[tuple[str, str]]:
    """(setting, exposure) of everything that `systemd-analyze security` would have closed, and `total`."""
    name = path.name.replace("@.", "@x.")
    base = ["systemd-analyze", "security", "--offline=true", "--no-pager"]
    options = {"cwd": path.parent, "capture_output": True, "text": True, "timeout": 30}
    found = subprocess.run([*base, "--json=short", f"./{name}"], check=True, **options)  # type: ignore[call-overload]
    shown = subprocess.run([*base, f"./{name}"], check=True, **options)  # type: ignore[call-overload]
    total = re.search(r"Overall exposure level for \S+: ([\d.]+)", shown.stdout)
    assert total, shown.stdout
    items = [(item["name"], item["exposure"]) for item in json.loads(found.stdout) if not item["set"]]
    return [(item, weight) for item, weight in items if weight] + [("total", total.group(1))]


def offline() -> bool:
    if shutil.which("systemd-analyze") is None:
        return False
    help_ = subprocess.run(["systemd-analyze", "--help"], capture_output=True, text=True, check=False).stdout
    return "--offline" in help_


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Each unit as an instance, and the distribution's persistence daemon with our drop-in."""
    directory = tmp_path_factory.mktemp("units")
    for path in UNITS:
        (directory / path.name.replace("@.", "@x.")).write_text(path.read_text())
    whole = PERSISTENCED_UNIT + "\n" + DROP_IN.read_text()
    (directory / "nvidia-persistenced.service").write_text(whole)
    return sorted(directory.iterdir())


def documented() -> dict[str, set[str]]:
    """Setting -> units, as the page's table has it."""
    rows = {}
    for line in PAGE.read_text(encoding="utf-8").replace("\\|", "¦").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[0].startswith("`") and "=" in cells[0]:
            rows[cells[0].strip("`").replace("¦", "|")] = set(re.findall(r"`([^`]+)`", cells[1]))
            assert len(cells[2]) > 10, "why?"
    return rows


needs_offline = pytest.mark.skipif(not offline(), reason="this systemd cannot judge a unit offline (252 and later can)")


@needs_offline
def test_every_unit_is_closed(units: list[Path]) -> None:
    assert len(units) == len(UNITS) + 1
    measured = {path.name: dict(exposure(path))["total"] for path in units}
    assert not {name: total for name, total in measured.items() if float(total) > MAX_EXPOSURE}
    if "systemd 252 " in subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=True).stdout:
        rows = re.findall(r"^\| `([^`]+)`[^|]*\|[^|]*\| ([\d.]+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
        assert {f"{unit.replace('@', '@x')}.service": total for unit, total in rows} == measured


@needs_offline
def test_what_stays_open_is_explained(units: list[Path]) -> None:
    """And nothing is explained that is closed by now."""
    rows, open_ = documented(), {}
    for path in units:
        unit = path.name.removesuffix(".service").replace("@x", "@")
        for setting, _ in exposure(path)[:-1]:
            open_.setdefault(setting, set()).add(unit)
    assert rows == open_


def test_instances_reach_the_gpus_and_no_other_device() -> None:
    text = (ROOT / "templates/ollama/ollama@.service").read_text()
    assert "DevicePolicy=closed" in text
    assert set(re.findall(r"^DeviceAllow=(\S+) rw$", text, re.MULTILINE)) >= {
        "char-195",
        "char-nvidia-uvm",
    }
    assert "PrivateDevices=yes" not in text
