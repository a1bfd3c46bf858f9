"""Before anything is deployed."""

from __future__ import annotations

from lab_site import Site, flexi

from flexi.lab.lab import Lab

WATCHED = "/etc /opt /usr /var/lib"
SNAPSHOT = f"sudo find {WATCHED} -xdev -not -path '/var/lib/systemd/*' -printf '%p %T@ %s\\n' | sort | sha256sum"


def test_a_dry_run_on_bare_hosts_changes_nothing(machines: Lab) -> None:
    site = Site(machines)
    hosts = [host.name for host in site.plan.hosts]
    before = {name: site.ssh(name, SNAPSHOT).stdout for name in hosts}
    assert all(before.values())
    done = flexi("deploy", str(site.file), "--dry")
    assert done.status == 0, done.text[-4000:]
    assert "Reboot into the driver" in done.text
    assert {name: site.ssh(name, SNAPSHOT).stdout for name in hosts} == before


def test_verify_of_bare_hosts_is_red_and_has_reasons(machines: Lab) -> None:
    report = Site(machines).verify()
    assert report["failed"] > 10
    reasons = [check["reason"] for check in report["checks"] if check["outcome"] == "failed"]
    assert all(reasons)
    assert not any("Traceback" in reason for reason in reasons)
