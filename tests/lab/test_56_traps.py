"""What breaks GPU servers by night, on hosts of ours and on hosts without our pins, as doctor and verify see it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from lab_site import Site, another, failures_of, flexi, until
from sites import pair

NIGHT = "sudo apt-get -qq update && sudo unattended-upgrade -v"
ADMIN = "sudo DEBIAN_FRONTEND=noninteractive apt-get -y -q dist-upgrade"
STATE = "dpkg -l; apt-mark showhold; head -n1 /proc/driver/nvidia/version; nvidia-smi -L"


@pytest.fixture(scope="module")
def hosts(site: Site) -> Iterator[Site]:
    """Two servers with the same models; the archives of today and the lab's own site afterwards."""
    path = another(site, pair(), "traps")
    done = flexi("deploy", str(path), "--allow-reboot", timeout_s=900)
    assert done.status == 0, done.text[-3000:]
    yield site
    site.lab.archive("today")
    site.back_to()


@pytest.fixture
def day(hosts: Site) -> Iterator[Site]:
    yield hosts
    hosts.lab.archive("today")


def traps(site: Site) -> str:
    return str(site.file.with_name("traps.yaml"))


def found(site: Site, host: str) -> set[str]:
    """Ids of what the doctor finds on a host."""
    path = site.file.with_name("traps.yaml")
    return {finding["id"] for finding in site.doctor(path) if finding["host"] == host}


def mended(site: Site, *more: str) -> None:
    """The deploy makes it right again, and doctor and verify agree."""
    done = flexi("deploy", traps(site), *more, timeout_s=900)
    assert done.status == 0, done.text[-4000:]
    path = site.file.with_name("traps.yaml")
    assert failures_of(path) == []
    assert site.doctor(path) == []


def test_nvidias_own_repository_does_not_replace_the_driver(day: Site) -> None:
    """It outranks Ubuntu's by version and by NVIDIA's own preferences; our pins keep its driver out."""
    with_cuda = day.file.with_name("traps.yaml")
    text = with_cuda.read_text()
    with_cuda.write_text(text.replace("gpus: {model: A40, count: 2}", 'gpus: {model: A40, count: 2}\n    cuda: "12.2"'))
    try:
        assert flexi("deploy", str(with_cuda), timeout_s=600).status == 0
        before = day.ssh("server-b", STATE).stdout
        assert day.ssh("server-b", ADMIN, timeout_s=300).status == 0
        assert day.ssh("server-b", STATE).stdout == before
        refused = day.ssh("server-b", "sudo DEBIAN_FRONTEND=noninteractive apt-get -y -q install cuda-drivers")
        assert refused.status != 0
        assert found(day, "server-b") == set()
        assert day.ssh("server-b", "sudo rm /etc/apt/preferences.d/flexi-cuda").status == 0
        assert "vendor-coming" in found(day, "server-b") or "pins-missing" in found(day, "server-b")
        mended(day)
    finally:
        with_cuda.write_text(text)


def test_a_kernel_without_modules_is_held_back_and_named_where_it_came(day: Site) -> None:
    day.lab.archive("kernel-without-modules")
    before = day.ssh("server-b", STATE).stdout
    assert day.ssh("server-b", f"{NIGHT}; {ADMIN}", timeout_s=300).status == 0
    assert day.ssh("server-b", STATE).stdout == before
    update = flexi("deploy", traps(day), "--update", "--allow-reboot", timeout_s=600)
    assert update.status == 1
    assert "has no modules of this driver branch yet: nothing was updated" in update.text
    assert day.ssh("server-b", STATE).stdout == before
    # Past our holds, as an admin's own hand would bring it.
    image = "apt-cache depends linux-image-generic | sed -n 's/.*Depends: \\(linux-image-5[^ ]*\\)/\\1/p'"
    newest = day.ssh("server-b", image).stdout.split()[0]
    assert day.ssh("server-b", f"sudo apt-get -y -q install {newest}").status == 0
    assert "kernel-without-modules" in found(day, "server-b")
    refused = flexi("deploy", traps(day), timeout_s=600)
    assert refused.status == 1
    assert "boots next and no archive of this host has" in refused.text
    assert day.answers("llama3:8b")
    assert day.ssh("server-b", f"sudo apt-get -y -q purge {newest}").status == 0
    mended(day)


def test_a_new_kernel_comes_with_its_modules_on_request(day: Site) -> None:
    """The held meta packages are updated by the deploy alone, one server after the other, and as foretold."""
    day.lab.archive("kernel")
    for host in ("server-a", "server-b"):
        assert day.ssh(host, "sudo apt-get -qq update").status == 0
    path = day.file.with_name("traps.yaml")
    running = {host: day.ssh(host, "cat /proc/sys/kernel/osrelease").stdout for host in ("server-a", "server-b")}
    changes = day.as_foretold("--data", "update=yes", "--data", "allow_reboot=yes", site_file=path)
    assert {host for host, name in changes if "Reboot" in name} == {"server-a", "server-b"}
    for host, old in running.items():
        assert day.ssh(host, "cat /proc/sys/kernel/osrelease").stdout > old
        assert "535." in day.ssh(host, "head -n1 /proc/driver/nvidia/version").stdout
    assert failures_of(path) == []
    assert day.doctor(path) == []
    assert day.as_foretold("--data", "update=yes", "--data", "allow_reboot=yes", site_file=path) == set()


def test_an_ollama_too_new_for_the_driver_is_named_as_the_cpu(day: Site) -> None:
    """Somebody switches the release by hand: it finds the driver too old, and says so in its log only."""
    newest = another(day, pair(branch="580-server", version="0.32.15"), "traps-newest")
    fetched = flexi("check", str(newest))
    assert fetched.status == 0
    url = "http://10.87.0.2/ollama/v0.32.15/ollama-linux-amd64.tar.zst"
    by_hand = (
        f"curl -fsS {url} -o /tmp/new.zst && sudo mkdir -p /opt/ollama/0.32.15 && "
        "zstd -dc /tmp/new.zst | sudo tar -xf - -C /opt/ollama/0.32.15 && "
        "sudo ln -sfn 0.32.15 /opt/ollama/current && sudo systemctl restart ollama@b"
    )
    assert day.ssh("server-b", by_hand).status == 0
    until(lambda: {"cpu-fallback", "ollama-too-new"} & found(day, "server-b"), 60, "the doctor names it")
    assert any("server-b" in failure for failure in failures_of(day.file.with_name("traps.yaml")))
    assert day.answers("phi3:3.8b"), "the agent keeps it out, the other server answers"
    mended(day)


def test_a_replaced_card_is_explained_and_accepted_with_one_command(day: Site) -> None:
    machine = day.lab.machine("server-b")
    new = machine.replace_gpu(1)
    until(lambda: day.ssh("server-b", "nvidia-smi -L").status == 0, 60, "the machine is up again")
    assert new in day.ssh("server-b", "nvidia-smi -L").stdout
    assert "gpu-replaced" in found(day, "server-b")
    refused = flexi("deploy", traps(day), timeout_s=600)
    assert refused.status == 1
    assert f"{new} is in its place" in refused.text
    assert "--accept-gpus server-b" in refused.text
    mended(day, "--accept-gpus", "server-b")
    assert new in day.ssh("server-b", "cat /etc/ollama/b.env").stdout


def test_a_host_leaves_and_comes_back(day: Site) -> None:
    """It keeps its driver and its models, and nothing of flexi; the other one serves on."""
    told = flexi("remove", traps(day), "server-b", "--dry", timeout_s=600)
    assert told.status == 0, told.text[-3000:]
    assert re.search(r"would remove .*/etc/ollama, .*/opt/ollama", told.text)
    assert "/var/lib/ollama" not in told.text
    assert day.answers("phi3:3.8b")
    assert day.ssh("server-b", "systemctl is-active ollama@b.service; ls /etc/flexi/drain.d").stdout == "active\n"
    done = flexi("remove", traps(day), "server-b", "--yes", timeout_s=600)
    assert done.status == 0, done.text[-3000:]
    left = day.ssh(
        "server-b",
        "apt-mark showhold; sudo nft list tables; ls -d /etc/flexi /opt/flexi /opt/ollama /etc/ollama 2>/dev/null; "
        "systemctl list-units 'ollama@*' flexi-agent.service flexi-firewall.service --plain --no-legend",
    )
    assert left.stdout == ""
    assert "535." in day.ssh("server-b", "head -n1 /proc/driver/nvidia/version").stdout
    assert day.ssh("server-b", "sudo ls /var/lib/ollama/b/models/manifests").status == 0
    assert day.answers("phi3:3.8b")
    mended(day, "--allow-reboot")
