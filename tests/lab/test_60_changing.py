"""A site file that changes: other groups, the gateway on a GPU host, another Ollama."""

from __future__ import annotations

from lab_site import Site, another, changed, failures_of, flexi, until

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


def test_one_server_with_two_groups_and_the_gateway(site: Site) -> None:
    """The shape of inventory/example.yaml: the old group is stopped, its cards go to the new ones."""
    one = another(site, ONE_SERVER, "one")
    assert load_site(one)
    done = flexi("deploy", str(one), timeout_s=900)
    assert done.status == 0, done.text[-3000:]
    assert failures_of(one) == []
    units = site.ssh("server-b", "systemctl list-units 'ollama@*' --plain --no-legend | cut -d' ' -f1").stdout.split()
    assert units == ["ollama@big.service", "ollama@small.service"]
    back = flexi("deploy", str(site.file), timeout_s=900)
    assert back.status == 0, back.text[-3000:]
    gone = site.ssh("server-b", "systemctl is-active haproxy flexi-catalogue ollama@big").stdout.split()
    assert gone == ["inactive", "inactive", "inactive"]
    until(lambda: flexi("status", str(site.file), "--quick").status == 0, 120, "every model is ready")
    assert site.failures() == []


def test_another_ollama_and_back_without_a_download(site: Site) -> None:
    """docs/admin/operations.md: a version that is still unpacked needs no archive, so none is there the second time."""
    older = changed(site, "version: 0.24.0", "version: 0.23.4", "older")
    reject = "ip daddr 10.87.0.2 tcp dport 80 reject"
    away = f"table inet away {{\n chain output {{\n type filter hook output priority 0;\n {reject}\n }}\n}}\n"
    assert flexi("deploy", str(older), timeout_s=900).status == 0
    assert failures_of(older) == []
    for host in ("server-a", "server-b"):
        assert site.ssh(host, "sudo nft -f /dev/stdin", stdin=away).status == 0
    try:
        back = flexi("deploy", str(site.file), timeout_s=900)
    finally:
        for host in ("server-a", "server-b"):
            site.ssh(host, "sudo nft delete table inet away")
    assert back.status == 0, back.text[-3000:]
    assert site.failures() == []
