"""The machine below it all: its clock, disks, services and certificates."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from flexi.health import expectations

from . import kinds
from .case import Case, Finding
from .service import looping

DAY_S = 86400
SOON_DAYS = 21


def diagnose(case: Case) -> Iterator[Finding]:
    truth = case.truth
    if truth.os and truth.os != case.plan.platform:
        what = f"{truth.os} runs here, the site file says {case.plan.platform}"
        yield case.finding(kinds.WRONG_PLATFORM, what, platform=truth.os)
    if not truth.deployed:
        yield case.finding(kinds.NOT_DEPLOYED, "flexi was never deployed here")
    yield from _clock(case)
    yield from _disks(case)
    for file in truth.foreign_files:
        store = file.partition("/models")[0]
        what = f"{file} does not belong to the user ollama"
        yield case.finding(kinds.STORE_OWNER, what, store=shlex.quote(store))
    if truth.half_installed:
        what = "dpkg was interrupted: " + ", ".join(truth.half_installed[:4])
        yield case.finding(kinds.HALF_INSTALLED, what)
    if truth.deployed:
        yield from _units(case)
        yield from _certificates(case)


def _time_daemon(case: Case) -> str | None:
    """The unit that keeps the clock right and comes back after a reboot."""
    for name in expectations.TIME_DAEMONS:
        unit = case.truth.unit(name)
        if unit is not None and unit.active == "active" and unit.boot in expectations.STARTS_BY_ITSELF:
            return name
    return None


def _clock(case: Case) -> Iterator[Finding]:
    daemon = _time_daemon(case)
    if abs(case.clock_offset_s) > expectations.MAX_CLOCK_OFFSET_S:
        side = "ahead of" if case.clock_offset_s > 0 else "behind"
        what = f"the clock is {abs(case.clock_offset_s):.0f} s {side} this machine's"
        yield case.finding(kinds.CLOCK_OFF, what, daemon=daemon or expectations.TIME_DAEMONS[0])
    if case.truth.deployed and daemon is None:
        what = f"none of {', '.join(expectations.TIME_DAEMONS)} is active and enabled"
        yield case.finding(kinds.CLOCK_FREE, what)


def _disks(case: Case) -> Iterator[Finding]:
    most = expectations.MAX_DISK_USE_PERCENT
    for disk in case.truth.disks:
        mount = shlex.quote(disk.mount)
        if disk.used_percent is not None and disk.used_percent > most:
            what = f"{disk.mount} is {disk.used_percent} % full, {disk.free / 2**30:.1f} GiB are free"
            yield case.finding(kinds.DISK_SHORT, what, mount=mount)
        if disk.inodes_used_percent is not None and disk.inodes_used_percent > most:
            what = f"{disk.inodes_used_percent} % of the inodes of {disk.mount} are used"
            yield case.finding(kinds.INODES_SHORT, what, mount=mount)


def _units(case: Case) -> Iterator[Finding]:
    for name in expectations.units(case.plan):
        unit = case.truth.unit(name)
        if unit is not None and looping(case, unit):
            continue
        if unit is None or unit.active not in ("active", "activating", "reloading"):
            state = f"{unit.active}, {unit.boot or 'not installed'}" if unit else "not known to systemd"
            yield case.finding(kinds.UNIT_DOWN, f"{name} is {state}", unit=name)
        elif unit.boot not in expectations.STARTS_BY_ITSELF:
            yield case.finding(kinds.UNIT_NOT_ENABLED, f"{name} is {unit.boot or 'not installed'}")


def _certificates(case: Case) -> Iterator[Finding]:
    for certificate in case.truth.certificates:
        if certificate.expires is None:
            what = f"{certificate.file} holds no certificate that can be read"
            yield case.finding(kinds.CERTIFICATE_EXPIRED, what, file=certificate.file)
            continue
        days = (certificate.expires - case.now) / DAY_S
        if days <= 0:
            what = f"{certificate.file} expired {-days:.0f} days ago"
            yield case.finding(kinds.CERTIFICATE_EXPIRED, what, file=certificate.file)
        elif days < SOON_DAYS:
            what = f"{certificate.file} ends in {days:.0f} days"
            yield case.finding(kinds.CERTIFICATE_ENDS, what, file=certificate.file)
