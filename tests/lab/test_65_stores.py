"""One copy of the weights on a host, and models that move: no second download, no lost request, nothing left behind."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_site import Figure, Site, another, flexi, until
from load import Load

from flexi.lab import services

EIGHT = """\
site: {name: eight}
ssh: {user: admin, config: ../ssh_config}
mirrors:
  ollama: http://10.87.0.2/ollama
  models: http://10.87.0.2:5000
driver: {branch: 535-server}
ollama: {version: 0.24.0}
hosts:
  server-a:
    address: 10.87.0.11
    gpus: {model: RTX A5000, count: 8}
    groups:
GROUPS
  gateway:
    address: 10.87.0.10
gateway: {host: gateway, name: flexi.eight.test}
"""
LLAMA, PHI, MISTRAL = "llama3:8b", "phi3:3.8b", "mistral:7b"
BEFORE = {f"g{number}": [LLAMA] for number in range(8)} | {
    "g0": [LLAMA, PHI],
    "g7": [LLAMA, PHI],
    "g3": [LLAMA, MISTRAL],
}
AFTER = BEFORE | {"g0": [LLAMA], "g1": [LLAMA, PHI], "g3": [LLAMA], "g4": [LLAMA, MISTRAL]}
"""phi3 moves from g0 to g1 while g7 keeps it; mistral has no other place while it moves."""


def site_text(groups: dict[str, list[str]]) -> str:
    lines = [
        f"      {name}: {{gpus: [{index}], context: 4096, models: {json.dumps(models)}}}"
        for index, (name, models) in enumerate(groups.items())
    ]
    return EIGHT.replace("GROUPS", "\n".join(lines))


def deployed(site: Site, groups: dict[str, list[str]], name: str) -> Path:
    path = another(site, site_text(groups), name)
    done = flexi("deploy", str(path), timeout_s=900)
    assert done.status == 0, done.text[-4000:]
    return path


def downloads(site: Site) -> Counter[str]:
    """How often each manifest was fetched from the registry."""
    lines = (site.lab.directory / services.REGISTRY_LOG).read_text().splitlines()
    return Counter(line.split()[2] for line in lines if " GET " in line and "/manifests/" in line)


def stored(site: Site) -> dict[str, set[str]]:
    """The models in each store of server-a, from the manifests on its disk."""
    done = site.ssh("server-a", "cd /var/lib/ollama && sudo find . -path '*/manifests/registry.ollama.ai/*' -type f")
    found: dict[str, set[str]] = {}
    for line in done.stdout.split():
        parts = line.split("/")
        found.setdefault(parts[1], set()).add(f"{parts[-2]}:{parts[-1]}")
    return found


@pytest.fixture(scope="module")
def eight(site: Site) -> Iterator[Path]:
    """Eight groups of one card in the place of the lab's one; the lab's own site again afterwards."""
    (site.lab.directory / services.REGISTRY_LOG).write_text("")
    yield deployed(site, BEFORE, "eight")
    back = flexi("deploy", str(site.file), timeout_s=900)
    assert back.status == 0, back.text[-3000:]
    until(lambda: flexi("status", str(site.file), "--quick").status == 0, 180, "every model is ready")
    assert site.failures() == []


def test_eight_groups_share_one_copy(site: Site, eight: Path) -> None:
    """The store of the old group had both: nothing is downloaded but what the site has not had on this host."""
    fetched = downloads(site)
    assert {path: count for path, count in fetched.items() if count > 1} == {}
    assert [path for path in fetched if "llama3" in path] != [], "it lay on server-b only"
    assert [path for path in fetched if "phi3" in path] == [], "the old group's store on this host had it"
    links = site.ssh(
        "server-a",
        "sudo find /var/lib/ollama -path '*/blobs/sha256-*' -size +64k -printf '%i %n %h\\n' | sort | uniq -c -w 10",
    ).stdout
    sharing = [int(line.split()[0]) for line in links.splitlines()]
    assert max(sharing) == 8, links
    assert stored(site) == {group: set(models) for group, models in BEFORE.items()}


def test_the_old_groups_store_is_gone(site: Site, eight: Path) -> None:
    assert site.ssh("server-a", "sudo ls /var/lib/ollama").stdout.split() == list(BEFORE)


def test_a_model_moves_without_a_lost_request_or_a_download(site: Site, eight: Path, figure: Figure) -> None:
    before = downloads(site)
    with Load(site.url, site.key, PHI) as phi, Load(site.url, site.key, LLAMA) as llama:
        path = deployed(site, AFTER, "moved")
    figure(phi.report(f"{PHI} moved from g0 to g1"))
    figure(llama.report(f"meanwhile {LLAMA} on eight groups"))
    assert (phi.lost, llama.lost) == ({}, {})
    assert min(phi.answered, llama.answered) > 50
    assert flexi("status", str(path)).status == 0
    assert downloads(site) == before
    assert stored(site) == {group: set(models) for group, models in AFTER.items()}, "the old copies are gone"
    assert site.answers(MISTRAL)


def test_again_nothing_changes(site: Site, eight: Path) -> None:
    done = site.pyinfra("-y", "--json", site_file=site.file.with_name("moved.yaml"))
    assert json.loads(done.stdout)["results"]["totals"]["success"] == 0, done.text[-3000:]
