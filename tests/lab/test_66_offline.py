"""A site without internet: a bundle is made, a bare machine's ways to everything are closed, and it is deployed."""

from __future__ import annotations

import base64
import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab_site import Done, flexi, run, until

from flexi.lab import image
from flexi.lab.lifecycle import Lab
from flexi.lab.network import uplink_number
from flexi.lab.platforms import PLATFORMS

UBUNTU = PLATFORMS["ubuntu-22.04"]

SITE = """\
site: {{name: offline}}
ssh: {{user: admin, config: ../ssh_config}}
mirrors: {{{mirrors}}}
driver: {{branch: 535-server}}
ollama: {{version: 0.24.0}}
hosts:
  server-b:
    address: 10.87.0.12
    gpus: {{model: A40, count: 2}}
    cuda: "12.2"
    groups:
      big: {{gpus: [0], models: [llama3:8b, phi3:3.8b]}}
      small: {{gpus: [1], models: [phi3:3.8b]}}
gateway: {{host: server-b, name: flexi.offline.test}}
"""

# Only answers to what came from outside, and itself: no archive, no registry, no other machine, also after a reboot.
CLOSED = """table inet away {
  chain output {
    type filter hook output priority 0; policy accept;
    oif "lo" accept
    ct state established,related accept
    tcp sport 22 accept
    meta l4proto { 1, 58 } accept
    counter reject
  }
}
"""
UNIT = """[Unit]
DefaultDependencies=no
Before=network-pre.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f /etc/away.nft
[Install]
WantedBy=multi-user.target
"""


@dataclass
class Offline:
    """A lab with a machine that nobody answers, and the two site files: to make the bundle, and to deploy from it."""

    lab: Lab
    online: Path
    offline: Path
    sources: Path

    @property
    def bundle(self) -> Path:
        return self.offline.parent / "bundle"

    def ssh(self, command: str, stdin: str = "") -> Done:
        return run(["ssh", "-F", str(self.lab.ssh_config), "server-b", command], 60, stdin)


def write(path: Path, mirrors: str) -> Path:
    path.write_text(SITE.format(mirrors=mirrors))
    path.with_suffix(".py").write_text("from flexi.inventory import pyinfra_hosts\n\nhosts = pyinfra_hosts(__file__)\n")
    return path


@pytest.fixture(scope="module")
def site() -> Iterator[Offline]:
    lab = Lab(f"offline{os.getpid()}")
    try:
        lab.up()
        services = f"10.86.{uplink_number(lab.naming)}.2"
        folder = lab.site_file.parent
        # The machines' own sources as this computer reaches them: its distribution's, and the stubs of Ubuntu's.
        keyring = folder / "ubuntu.gpg"
        text = run(["ssh", "-F", str(lab.ssh_config), "server-b", f"base64 /{UBUNTU.keyring}"]).stdout
        keyring.write_bytes(base64.b64decode(text))
        sources = folder / "machines.sources"
        sources.write_text(
            f"{image.host_sources()[1]}\nTypes: deb\nURIs: http://{services}/ubuntu\n"
            f"Suites: {' '.join(UBUNTU.suites)}\nComponents: {' '.join(UBUNTU.distribution.components)}\n"
            f"Signed-By: {keyring}\n"
        )
        mirrors = (
            f"ollama: 'http://{services}/ollama', cuda: 'http://{services}/cuda/ubuntu2204/x86_64', "
            f"models: 'http://{services}:5000'"
        )
        online = write(folder / "online.yaml", mirrors)
        yield Offline(lab, online, write(folder / "offline.yaml", "bundle: ./bundle"), sources)
    finally:
        with contextlib.suppress(KeyboardInterrupt):
            lab.down()


def make(site: Offline, *options: str) -> Done:
    arguments = ["--to", str(site.bundle), "--sources", str(site.sources), *options]
    return flexi("bundle", str(site.online), *arguments)


def test_without_a_bundle_no_host_is_touched(site: Offline) -> None:
    for command in ("check", "deploy"):
        done = flexi(command, str(site.offline))
        assert done.status == 2, done.text[-2000:]
        assert f"./flexi bundle {site.offline} --to {site.bundle}" in done.text
    assert site.ssh("ls /var/lib/flexi /etc/flexi").stdout == ""


def test_a_bundle_is_made_and_a_second_run_only_checks(site: Offline) -> None:
    done = make(site, "--json")
    assert done.status == 0, done.text[-3000:]
    first = json.loads(done.stdout)
    assert first["fetched_files"] > 50
    assert run(["sh", "-c", f"cd {site.bundle} && sha256sum --quiet -c SHA256SUMS"]).status == 0
    again = json.loads(make(site, "--json").stdout)
    assert again["fetched_files"] == 0
    assert (again["files"], again["bytes"]) == (first["files"], first["bytes"])


def test_a_bare_machine_whose_ways_are_closed_is_deployed(site: Offline) -> None:
    assert site.ssh("sudo tee /etc/away.nft", CLOSED).status == 0
    assert site.ssh("sudo tee /etc/systemd/system/away.service", UNIT).status == 0
    assert site.ssh("sudo systemctl enable --now away.service").status == 0
    assert site.ssh("curl -sm 3 http://10.87.0.2/ && sudo apt-get update --error-on=any").status != 0
    done = flexi("deploy", str(site.offline), "--allow-reboot", timeout_s=900)
    assert done.status == 0, done.text[-6000:]
    assert "all models" in done.text
    assert site.ssh("systemctl is-active away.service").stdout.strip() == "active", "the way was open after the reboot"
    report = json.loads(flexi("verify", str(site.offline), "--json").stdout)
    assert [f"{c['check']}: {c['reason']}" for c in report["checks"] if c["outcome"] == "failed"] == []
    assert "12.2" in site.ssh("dpkg -s cuda-toolkit-12-2").stdout


def test_models_take_their_room_once(site: Offline) -> None:
    """phi3 serves in both groups: one file in the bundle and a link in each store."""
    links = site.ssh("sudo find /var/lib/flexi/bundle/models/blobs -size +1M -printf '%n %u\\n'").stdout.split("\n")
    assert sorted(filter(None, links)) == ["2 ollama", "3 ollama"]


def test_a_second_deploy_sends_nothing(site: Offline) -> None:
    done = flexi("deploy", str(site.offline))
    assert done.status == 0, done.text[-3000:]
    assert "0 operations changed something" in done.text
    assert "sent" not in done.text


def test_the_hosts_own_sources_stay(site: Offline) -> None:
    assert "10.87.0.2/ubuntu" in site.ssh("apt-get indextargets --format '$(SITE)$(BASE_URI)'").stdout
    only = "APT_CONFIG=/etc/flexi/apt-bundle.conf apt-get indextargets --format '$(URI)'"
    assert all(uri.startswith("file:/var/lib/flexi/bundle/") for uri in site.ssh(only).stdout.split())


def test_a_damaged_bundle_is_refused_with_the_file_and_the_command(site: Offline) -> None:
    archive = next(site.bundle.glob("ollama/*/*.zst"))
    data = archive.read_bytes()
    archive.write_bytes(data[:-1] + b"?")
    done = flexi("deploy", str(site.offline))
    assert done.status == 2
    assert f"ollama/v0.24.0/{archive.name} has the SHA-256" in done.text
    assert make(site).status == 0
    assert archive.read_bytes() == data
    until(lambda: flexi("deploy", str(site.offline), "--no-wait").status == 0, 60, "the mended bundle is taken")
