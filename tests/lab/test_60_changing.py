"""A site file that changes: another driver branch and back, other groups, the gateway on a GPU host."""

from __future__ import annotations

import json

from lab_site import Site, another, changed, flexi, until

from flexi.site import load_site

ONE_SERVER = """\
site: {name: one}
ssh: {user: admin, config: ../ssh_config}
mirrors:
  ollama: http://10.87.0.2/ollama
  cuda: http://10.87.0.2/cuda/ubuntu2204/x86_64
  models: http://10.87.0.2:5000
driver: {branch: 535-server}
ollama: {version: 0.24.0}
hosts:
  server-b:
    address: 10.87.0.12
    gpus: {model: A40, count: 2}
    groups:
      big: {gpus: [0], parallel: 2, models: [llama3:8b, phi3:3.8b]}
      small: {gpus: [1], context: 4096, models: [phi3:3.8b, nomic-embed-text]}
gateway: {host: server-b, name: flexi.one.test}
"""


def verified(path: str) -> list[str]:
    report = json.loads(flexi("verify", path, "--json").stdout)
    return [f"{c['host']}: {c['check']}: {c['reason']}" for c in report["checks"] if c["outcome"] == "failed"]


def test_another_driver_branch_and_back(site: Site) -> None:
    """One edit of the site file: holds are let go of, the branch changes, one reboot, all models are back."""
    newer = changed(site, "branch: 535-server", "branch: 580-server", "newer-driver")
    for path, major in ((newer, "580."), (site.file, "535.")):
        done = flexi("deploy", str(path), timeout_s=900)
        assert done.status == 0, done.text[-3000:]
        for host in ("server-a", "server-b"):
            assert major in site.ssh(host, "head -n1 /proc/driver/nvidia/version").stdout
            held = site.ssh(host, "apt-mark showhold").stdout
            assert f"nvidia-utils-{major[:3]}-server" in held
            assert len({line[-10:] for line in held.split() if line.endswith("-server")}) == 1
        assert verified(str(path)) == []


def test_one_server_with_two_groups_and_the_gateway(site: Site) -> None:
    """The shape of inventory/example.yaml: the old group is stopped, its cards go to the new ones."""
    one = another(site, ONE_SERVER, "one")
    assert load_site(one)
    done = flexi("deploy", str(one), timeout_s=900)
    assert done.status == 0, done.text[-3000:]
    assert verified(str(one)) == []
    units = site.ssh("server-b", "systemctl list-units 'ollama@*' --plain --no-legend | cut -d' ' -f1").stdout.split()
    assert units == ["ollama@big.service", "ollama@small.service"]
    back = flexi("deploy", str(site.file), timeout_s=900)
    assert back.status == 0, back.text[-3000:]
    gone = site.ssh("server-b", "systemctl is-active haproxy flexi-catalogue ollama@big").stdout.split()
    assert gone == ["inactive", "inactive", "inactive"]
    until(lambda: flexi("status", str(site.file)).status == 0, 120, "every model is ready")
    assert site.failures() == []


def test_another_ollama_and_back_without_a_download(site: Site) -> None:
    """docs/operations.md: a version that is still unpacked needs no archive, so none is there the second time."""
    older = changed(site, "version: 0.24.0", "version: 0.23.4", "older")
    reject = "ip daddr 10.87.0.2 tcp dport 80 reject"
    away = f"table inet away {{\n chain output {{\n type filter hook output priority 0;\n {reject}\n }}\n}}\n"
    assert flexi("deploy", str(older), timeout_s=900).status == 0
    assert verified(str(older)) == []
    for host in ("server-a", "server-b"):
        assert site.ssh(host, "sudo nft -f /dev/stdin", stdin=away).status == 0
    try:
        back = flexi("deploy", str(site.file), timeout_s=900)
    finally:
        for host in ("server-a", "server-b"):
            site.ssh(host, "sudo nft delete table inet away")
    assert back.status == 0, back.text[-3000:]
    assert site.failures() == []
