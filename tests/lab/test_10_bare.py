"""A lab of its own: bare hosts before anything is deployed, and what is left when it is taken down."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest
from lab_site import Site, flexi

from flexi.lab.lifecycle import Lab

WATCHED = "/etc /opt /usr /var/lib"
SNAPSHOT = f"sudo find {WATCHED} -xdev -not -path '/var/lib/systemd/*' -printf '%p %T@ %s\\n' | sort | sha256sum"


@pytest.fixture(scope="module")
def bare() -> Iterator[Lab]:
    lab = Lab(f"bare{os.getpid()}")
    try:
        lab.up()
        yield lab
    finally:
        lab.down()


def test_a_dry_run_on_bare_hosts_changes_nothing(bare: Lab) -> None:
    site = Site(bare)
    hosts = [host.name for host in site.plan.hosts]
    before = {name: site.ssh(name, SNAPSHOT).stdout for name in hosts}
    assert all(before.values())
    done = flexi("deploy", str(site.file), "--dry")
    assert done.status == 0, done.text[-4000:]
    assert "Reboot into the driver" in done.text
    assert {name: site.ssh(name, SNAPSHOT).stdout for name in hosts} == before


def test_verify_of_bare_hosts_is_red_and_has_reasons(bare: Lab) -> None:
    report = Site(bare).verify()
    assert report["failed"] > 10
    reasons = [check["reason"] for check in report["checks"] if check["outcome"] == "failed"]
    assert all(reasons)
    assert not any("Traceback" in reason for reason in reasons)


def remains(lab_id: str) -> str:
    """Everything on this machine that still names the lab."""
    commands = (
        ["ip", "-o", "link"],
        ["ip", "netns", "list"],
        ["cat", "/proc/self/mountinfo"],
        ["nft", "list", "tables"],
        ["ps", "-eo", "args"],
    )
    found = []
    for command in commands:
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found += [f"{command[0]}: {line}" for line in text.splitlines() if lab_id in line and "pytest" not in line]
    return "\n".join(found)


def test_down_leaves_nothing(bare: Lab) -> None:
    assert remains(bare.naming.id), "this test cannot see the lab at all"
    for _ in ("what is up", "what is down already"):
        done = flexi("lab", "down", "--name", bare.name)
        assert done.status == 0, done.text
        assert remains(bare.naming.id) == ""
    assert not bare.directory.exists()
