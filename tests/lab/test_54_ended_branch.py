"""The night on which Ubuntu ended branch 535: a host of ours keeps its driver, one without our pins loses it.

And the way back: the deploy says that the build is gone and changes nothing, until the site file names an archive that
still has it. Before test_56, which brings a newer kernel: that day's archive has none of its modules, and apt would
keep everything back. `flexi test` hands the files to its labs in the order of their numbers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest
from lab_site import Site, changed, flexi, until

REAL = "535.309.01-0ubuntu0.22.04.1"
DRIVER = "dpkg-query -W -f='${Package} ${Version}\\n' 'nvidia-*' 'libnvidia-*' 'linux-modules-nvidia-*' 'linux-image-*'"
NIGHT = """
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update && apt-get -y -qq dist-upgrade && unattended-upgrade
"""
UNPROTECTED = "apt-mark unhold $(apt-mark showhold); rm -f /etc/apt/preferences.d/flexi-*"

SNAPSHOT = """\
mirrors:
  apt:
    - name: snapshot
      platform: ubuntu-22.04
      uri: http://10.87.0.2/snapshots/today/ubuntu
      suites: [jammy]
      components: [main, restricted]
      key: snapshot.gpg
      snapshot: true
"""


def as_root(site: Site, host: str, script: str) -> str:
    done = site.ssh(host, "sudo sh -s", timeout_s=600, stdin=script)
    assert done.status == 0, done.text[-3000:]
    return done.stdout


def works(site: Site, host: str) -> bool:
    return site.ssh(host, "nvidia-smi -L").status == 0


@pytest.fixture(scope="module")
def night(site: Site) -> Iterator[Site]:
    """The archive of the day after; put back for whoever comes next."""
    site.lab.archive("transitional")
    yield site
    site.lab.archive("today")
    done = flexi("deploy", str(site.file), "--allow-reboot", timeout_s=900)
    assert done.status == 0, done.text[-3000:]


def test_a_host_of_ours_sleeps_well(night: Site) -> None:
    known = night.doctor()
    before = as_root(night, "server-a", DRIVER)
    assert REAL in before
    as_root(night, "server-a", NIGHT)
    assert as_root(night, "server-a", DRIVER) == before
    assert works(night, "server-a")
    assert [finding for finding in night.doctor() if finding not in known] == []


def test_a_host_without_our_pins_loses_its_driver_and_gets_it_back(night: Site) -> None:
    as_root(night, "server-b", UNPROTECTED + NIGHT)
    lost = as_root(night, "server-b", DRIVER)
    assert "libnvidia-compute-580-server" in lost
    assert f"nvidia-utils-535-server {REAL}" not in lost
    assert not works(night, "server-b")
    named = flexi("doctor", str(night.file), "--json")
    assert named.status == 1
    assert any("transitional" in json.dumps(finding) for finding in json.loads(named.stdout)["findings"]), named.stdout

    refused = flexi("deploy", str(night.file), "--allow-reboot", "--limit", "server-b", timeout_s=900)
    assert refused.status == 1
    words = " ".join(refused.text.split())
    assert f"nvidia-utils-535-server {REAL} any more" in words
    assert "mirrors.apt" in words
    assert "580-server" in words
    assert as_root(night, "server-b", DRIVER) == lost

    vendor = night.lab.directory / "www" / "snapshots"
    shutil.copy(vendor.resolve().parent / "keys/ubuntu.gpg", night.file.parent / "snapshot.gpg")
    path = changed(night, "mirrors:\n", SNAPSHOT, "snapshot")
    done = flexi("deploy", str(path), "--allow-reboot", "--limit", "server-b", timeout_s=900)
    assert done.status == 0, done.text[-3000:]
    again = as_root(night, "server-b", DRIVER)
    assert f"libnvidia-compute-535-server {REAL}" in again
    assert "libnvidia-compute-580-server" not in [line.split()[0] for line in again.splitlines() if line.split()[1:]]
    until(lambda: works(night, "server-b"), 60, "the driver is back")
    as_root(night, "server-b", NIGHT)
    assert as_root(night, "server-b", DRIVER) == again
    assert flexi("verify", str(path)).status == 0
