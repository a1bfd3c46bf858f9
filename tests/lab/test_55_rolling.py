"""Changes under load: servers are emptied one by one, and nobody who asks for a model of both loses an answer."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from lab_site import Figure, Site, another, failures_of, flexi
from load import Load
from sites import pair

MODEL = "phi3:3.8b"
SERVERS = ("server-a", "server-b")


@pytest.fixture(scope="module")
def both(site: Site) -> Iterator[Site]:
    """Both servers with the same models; the lab's own site again afterwards."""
    before = another(site, pair(), "pair")
    done = flexi("deploy", str(before), timeout_s=900)
    assert done.status == 0, done.text[-3000:]
    yield site
    site.back_to()


def load(site: Site) -> Load:
    return Load(site.url, site.key, MODEL)


def running(site: Site, host: str) -> str:
    return site.ssh(host, "head -n1 /proc/driver/nvidia/version; readlink /opt/ollama/current").stdout


def test_a_reboot_that_nobody_allowed_touches_nothing(both: Site) -> None:
    newer = another(both, pair(branch="580-server"), "pair-newer")
    before = [both.ssh(host, "cat /proc/sys/kernel/random/boot_id; dpkg -l | sha256sum").stdout for host in SERVERS]
    done = flexi("deploy", str(newer), "--no-wait")
    assert done.status == 1
    assert "needs a reboot" in done.text
    assert "--allow-reboot" in done.text
    after = [both.ssh(host, "cat /proc/sys/kernel/random/boot_id; dpkg -l | sha256sum").stdout for host in SERVERS]
    assert after == before


def test_a_rolling_reboot_loses_no_request(both: Site, figure: Figure) -> None:
    """Another driver branch on both servers: packages, a reboot, all models again, one server at a time."""
    newer = another(both, pair(branch="580-server"), "pair-newer")
    with load(both) as clients:
        changes = both.as_foretold("--data", "allow_reboot=yes", site_file=newer)
    figure(clients.report("rolling reboot"))
    reboots = {host for host, name in changes if "Reboot" in name}
    assert reboots == set(SERVERS)
    assert clients.lost == {}
    assert clients.answered > 50
    for host in SERVERS:
        assert "580." in running(both, host)
        held = both.ssh(host, "apt-mark showhold").stdout.split()
        assert "nvidia-utils-580-server" in held
        assert not any("-535-" in name for name in held)
    assert failures_of(newer) == []


def test_a_rolling_upgrade_of_ollama_loses_no_request(both: Site, figure: Figure) -> None:
    newest = another(both, pair(branch="580-server", version="0.32.15"), "pair-newest")
    with load(both) as clients:
        changes = both.as_foretold(site_file=newest)
    figure(clients.report("rolling Ollama upgrade"))
    assert {host for host, name in changes if "Restart ollama@" in name} == set(SERVERS)
    assert clients.lost == {}
    assert clients.answered > 50
    assert all("0.32.15" in running(both, host) for host in SERVERS)
    assert failures_of(newest) == []


def test_a_rollback_takes_seconds_and_no_download(both: Site, figure: Figure) -> None:
    """With the archive's server out of reach; the stores and their files are the same afterwards."""
    newest = another(both, pair(branch="580-server", version="0.32.15"), "pair-newest")
    reject = "ip daddr 10.87.0.2 tcp dport { 80, 5000 } reject"
    away = f"table inet away {{\n chain output {{\n type filter hook output priority 0;\n {reject}\n }}\n}}\n"
    listing = "sudo find /var/lib/ollama -path '*/models/*' -type f -printf '%p %i %s\\n' | sort"
    before = [both.ssh(host, listing).stdout for host in SERVERS]
    for host in SERVERS:
        assert both.ssh(host, "sudo nft -f /dev/stdin", stdin=away).status == 0
    try:
        with load(both) as clients:
            start = time.monotonic()
            done = flexi("rollback", str(newest))
            seconds = time.monotonic() - start
    finally:
        for host in SERVERS:
            both.ssh(host, "sudo nft delete table inet away")
    figure(clients.report(f"rollback in {seconds:.1f} s"))
    assert done.status == 0, done.text[-3000:]
    assert "ollama.version 0.32.15" in done.stdout
    assert clients.lost == {}
    assert all("0.24.0" in running(both, host) for host in SERVERS)
    assert [both.ssh(host, listing).stdout for host in SERVERS] == before


def test_a_rollback_is_repeated_without_harm_and_a_deploy_goes_forth(both: Site) -> None:
    """And after an upgrade that reached one host only, the other one stays where it is."""
    newest = another(both, pair(branch="580-server", version="0.32.15"), "pair-newest")
    links = "readlink /opt/ollama/current /opt/ollama/previous"
    back = [both.ssh(host, links).stdout for host in SERVERS]
    for limit in ((), ("--host", "server-b")):
        done = flexi("rollback", str(newest), *limit)
        assert done.status == 0, done.text[-3000:]
        assert [both.ssh(host, links).stdout for host in SERVERS] == back
    done = flexi("deploy", str(newest), "--limit", "server-b", timeout_s=900)
    assert done.status == 0, done.text[-3000:]
    assert "0.32.15" in running(both, "server-b")
    done = flexi("rollback", str(newest))
    assert done.status == 0, done.text[-3000:]
    assert [both.ssh(host, links).stdout for host in SERVERS] == back
    assert flexi("rollback", str(newest), "--host", "gateway").status == 2


def test_the_next_host_waits_for_one_that_does_not_come_back(both: Site, figure: Figure) -> None:
    """server-a loses a card in its reboot: it stays drained, server-b is not touched, and everybody is served."""
    older = another(both, pair(branch="535-server"), "pair-older")
    boot = both.ssh("server-b", "cat /proc/sys/kernel/random/boot_id").stdout
    fault = ("lab", "fault", "--name", both.lab.name, "server-a")
    assert flexi(*fault, "lost", "--gpu", "7", "--at-boot").status == 0
    try:
        with load(both) as clients:
            done = both.pyinfra("-y", "--json", "--data", "allow_reboot=yes", site_file=older)
        figure(clients.report("a server that does not come back"))
        assert done.status == 1
        assert "server-a did not come back right" in done.text
        assert sorted(json.loads(done.stdout)["results"]["failed_hosts"]) == list(SERVERS)
        assert both.ssh("server-b", "cat /proc/sys/kernel/random/boot_id").stdout == boot
        assert "flexi:" in both.ssh("server-a", "cat /etc/flexi/drain.d/a").stdout
        assert clients.lost == {}
    finally:
        flexi(*fault, "clear")
        flexi("lab", "reboot", "--name", both.lab.name, "server-a")
    both.back_to(older)
    assert both.ssh("server-a", "ls /etc/flexi/drain.d").stdout == ""
