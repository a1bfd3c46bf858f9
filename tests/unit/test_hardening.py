"""Every unit that flexi writes: closed as far as docs/hardening.md says, in words that systemd 249 knows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
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
PAGE = ROOT / "docs/hardening.md"

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


def directives(path: Path) -> set[str]:
    return set(re.findall(r"^([A-Za-z]+)=", path.read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("path", [*UNITS, *SOCKETS, DROP_IN, HAPROXY_DROP_IN], ids=lambda path: path.name)
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
        "char-nvidia",
        "char-nvidiactl",
        "char-nvidia-uvm",
    }
    assert "PrivateDevices=yes" not in text
