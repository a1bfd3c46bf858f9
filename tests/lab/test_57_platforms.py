"""The life of a GPU host on Debian 12 and on Ubuntu 24.04, under those distributions' own package names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_site import Figure, Site, another, failures_of, flexi, until
from load import Load
from sites import others

SERVERS = ("server-c", "server-d")
NIGHT = (
    "sudo apt-get -qq update && sudo unattended-upgrade -v; sudo DEBIAN_FRONTEND=noninteractive apt-get -y -q upgrade"
)
# What runs and what boots next. Tools that kernels are built with are not held: they fit older headers as well.
STATE = (
    "dpkg -l '*nvidia*' 'linux-image-*' 'linux-headers-*' 'linux-modules-*' libcuda1; apt-mark showhold; "
    "head -n1 /proc/driver/nvidia/version; nvidia-smi -L; cat /proc/sys/kernel/osrelease"
)
PERMITTED = ("--data", "allow_reboot=yes")


@pytest.fixture(scope="module")
def hosts(site: Site) -> Iterator[Site]:
    """Both machines, bare, beside the lab's own."""
    site.lab.up(more=SERVERS)
    yield site
    site.lab.archive("today")
    site.back_to()


@pytest.fixture
def day(hosts: Site) -> Iterator[Site]:
    yield hosts
    hosts.lab.archive("today")


def path_of(site: Site, name: str = "others", **changed: object) -> Path:
    return another(site, others(**changed), name)  # type: ignore[arg-type]


def deployed(path: Path, *more: str) -> None:
    done = flexi("deploy", str(path), *more, timeout_s=900)
    assert done.status == 0, done.text[-4000:]
    assert failures_of(path) == []


def test_a_bare_host_and_the_same_again(day: Site) -> None:
    path = path_of(day)
    refused = flexi("deploy", str(path), "--no-wait", timeout_s=600)
    assert refused.status == 1
    assert "needs a reboot" in refused.text
    deployed(path, "--allow-reboot")
    assert day.as_foretold(site_file=path) == set()
    assert day.doctor(path) == []
    held = day.ssh("server-c", "apt-mark showhold").stdout.split()
    assert {"nvidia-kernel-dkms", "libcuda1", "linux-image-amd64"} <= set(held)
    assert "nvidia-utils-535-server" in day.ssh("server-d", "apt-mark showhold").stdout


def test_ubuntu_24_to_580_with_a_new_ollama_and_back(day: Site) -> None:
    """Driver and Ollama in one deploy each way. Before the nights: the branch's modules are for the kernel of today."""
    newer = path_of(day, "others-580", branch="580-server", version="0.32.15", hosts=("server-d",))
    state = "head -n1 /proc/driver/nvidia/version; readlink /opt/ollama/current; apt-mark showhold; dpkg -l | grep ^ii"
    for path, new, old, release in ((newer, 580, 535, "0.32.15"), (path_of(day), 535, 580, "0.24.0")):
        changes = day.as_foretold(*PERMITTED, site_file=path)
        assert {host for host, name in changes if "Reboot" in name} == {"server-d"}
        assert failures_of(path) == []
        now = day.ssh("server-d", state).stdout
        assert f"  {new}." in now.splitlines()[0]
        assert release in now.splitlines()[1]
        assert f"nvidia-utils-{new}-server" in now
        assert f"linux-modules-nvidia-{old}-server" not in now, "no modules of the other branch for any kernel"
    assert day.doctor(path_of(day)) == []


@pytest.mark.parametrize("archive", ["transitional", "kernel", "driver"])
def test_no_night_changes_what_runs(day: Site, archive: str) -> None:
    """Ubuntu ends the branch, a kernel comes, Debian has a newer build: all of it waits for the admin."""
    day.lab.archive(archive)
    for host in SERVERS:
        before = day.ssh(host, STATE).stdout
        night = day.ssh(host, NIGHT, timeout_s=300)
        assert night.status == 0, night.text[-3000:]
        assert day.ssh(host, STATE).stdout == before
    assert day.doctor(path_of(day)) == []


def test_a_new_kernel_comes_with_its_modules_on_request(day: Site, figure: Figure) -> None:
    path = path_of(day)
    day.lab.archive("kernel")
    for host in SERVERS:
        day.ssh(host, "sudo apt-get -qq update")
    old = {host: day.ssh(host, "cat /proc/sys/kernel/osrelease").stdout for host in SERVERS}
    with Load(day.url, day.key, "phi3:3.8b") as clients:
        changes = day.as_foretold("--data", "update=yes", *PERMITTED, site_file=path)
    figure(clients.report("kernel update of Debian 12 and Ubuntu 24.04"))
    assert clients.lost == {}
    assert {host for host, name in changes if "Reboot" in name} == set(SERVERS)
    for host in SERVERS:
        now = day.ssh(host, "cat /proc/sys/kernel/osrelease").stdout.strip()
        assert now != old[host].strip()
        # Packages of a kernel that was asked for by name would never go, and those of the newest are never superfluous.
        by_name = day.ssh(host, "apt-mark showmanual").stdout.split()
        assert not [name for name in by_name if name.endswith(now)]
        assert now not in day.ssh(host, "apt-get -s autoremove").stdout
    assert failures_of(path) == []
    assert day.doctor(path) == []


def test_a_newer_build_of_the_branch_comes_on_request(day: Site) -> None:
    """Debian's security build of 535; Ubuntu's 535 has none after its last one."""
    path = path_of(day)
    day.lab.archive("driver")
    for host in SERVERS:
        day.ssh(host, "sudo apt-get -qq update")
    old = day.ssh("server-c", "head -n1 /proc/driver/nvidia/version").stdout
    changes = day.as_foretold("--data", "update=yes", *PERMITTED, site_file=path)
    assert {host for host, _ in changes} == {"server-c"}
    assert day.ssh("server-c", "head -n1 /proc/driver/nvidia/version").stdout != old
    assert failures_of(path) == []


def test_ollama_up_and_back(day: Site) -> None:
    older = path_of(day, "others-older", version="0.23.4")
    deployed(older)
    done = flexi("rollback", str(older))
    assert done.status == 0, done.text[-3000:]
    assert all(day.ssh(host, "readlink /opt/ollama/current").stdout == "0.24.0\n" for host in SERVERS)
    assert failures_of(path_of(day)) == []


def test_a_library_that_differs_from_its_module_is_named(day: Site) -> None:
    path = path_of(day)
    for host in SERVERS:
        day.lab.machine(host).mismatch()
    try:
        found = {(finding["host"], finding["id"]) for finding in day.doctor(path)}
        assert {(host, "driver-mismatch") for host in SERVERS} <= found
    finally:
        for host in SERVERS:
            day.lab.machine(host).clear_faults()
    until(lambda: day.doctor(path) == [], 120, "the agents have noticed")


def test_a_replaced_card_is_accepted_with_one_command(day: Site) -> None:
    path = path_of(day)
    new = {host: day.lab.machine(host).replace_gpu(0) for host in SERVERS}
    found = {(finding["host"], finding["id"]) for finding in day.doctor(path)}
    assert {(host, "gpu-replaced") for host in SERVERS} <= found
    deployed(path, *(word for host in SERVERS for word in ("--accept-gpus", host)))
    assert all(day.ssh(host, f"cat /etc/ollama/{host[-1]}.env").stdout.count(uuid) == 1 for host, uuid in new.items())


def test_debian_refuses_a_branch_that_it_does_not_ship(day: Site) -> None:
    newer = path_of(day, "others-newer", branch="580-server")
    done = flexi("check", str(newer))
    assert done.status == 2
    assert "debian-12" in done.stderr


def test_they_leave(day: Site) -> None:
    for host in SERVERS:
        done = flexi("remove", str(path_of(day)), host, "--yes", timeout_s=600)
        assert done.status == 0, done.text[-3000:]
        assert day.ssh(host, "apt-mark showhold; ls -d /etc/flexi /opt/ollama 2>/dev/null").stdout == ""
