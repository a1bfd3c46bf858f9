"""What follows from a site."""

from __future__ import annotations

import builtins
import io
import json
import os
import socket
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest

from flexi.inventory import host_data
from flexi.paths import INVENTORY
from flexi.plan import Plan, build_plan
from flexi.plan.build.gateway import model_spellings
from flexi.site import Site, load_site

GOLDEN = Path(__file__).parent / "golden"

Inventory = Callable[[str], Plan]
MakeSite = Callable[..., Site]


@pytest.mark.parametrize("site", ["hagen", "example"])
def test_golden(site: str, inventory: Inventory) -> None:
    """The whole plan, reviewed. After a change that is meant: FLEXI_GOLDEN=write, and read the difference."""
    text = json.dumps(inventory(site).model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
    path = GOLDEN / f"{site}.json"
    if os.environ.get("FLEXI_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["hagen", "lab", "example"])
def test_building_is_pure(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    site = load_site(INVENTORY / f"{name}.yaml")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("input or output")

    for module, function in [(builtins, "open"), (io, "open"), (os, "open"), (os, "stat"), (socket, "socket")]:
        monkeypatch.setattr(module, function, refuse)
    first, second = build_plan(site), build_plan(site)
    monkeypatch.undo()
    assert first == second


def test_hagen_is_the_papers_site(inventory: Inventory) -> None:
    plan = inventory("hagen")
    a, b = plan.host("server-a"), plan.host("server-b")
    assert (a.gpu_model, a.gpu_count, b.gpu_model, b.gpu_count) == ("RTX A5000", 8, "A40", 2)
    assert a.cuda is not None
    assert b.cuda is not None
    assert (a.cuda.version, b.cuda.version) == ("12.4", "12.2")
    for host in (a, b):
        assert host.platform == "ubuntu-22.04"
        assert host.driver is not None
        assert host.driver.branch == "535-server"
        assert host.ollama is not None
        assert host.ollama.version == "0.24.0"
        assert len(host.ollama.instances) == 1
    models = sorted(model.name for instance in plan.instances for model in instance.models)
    assert models == [
        *("command-r-plus:104b", "dbrx:132b", "gemma:7b", "llama3:8b"),
        *("llava:13b", "mistral:7b", "mixtral:8x22b", "phi3:3.8b"),
    ]
    assert all(model.tokens_per_second for instance in plan.instances for model in instance.models)


def test_environment_sets_everything_on_purpose(make_site: MakeSite) -> None:
    plan = build_plan(make_site(models="'llama3:8b', 'phi3:3.8b'", group="context: 4096, parallel: 3, kv_cache: q8_0"))
    (instance,) = plan.instances
    environment = dict(instance.environment)
    assert len(environment) == len(instance.environment)
    assert environment == {
        "HOME": "/var/lib/ollama/a",
        "OLLAMA_HOST": "0.0.0.0:11434",
        "OLLAMA_MODELS": "/var/lib/ollama/a/models",
        "OLLAMA_KEEP_ALIVE": "-1",
        "OLLAMA_CONTEXT_LENGTH": "4096",
        "OLLAMA_NUM_PARALLEL": "3",
        "OLLAMA_MAX_LOADED_MODELS": "2",
        "OLLAMA_MAX_QUEUE": "512",
        "OLLAMA_FLASH_ATTENTION": "1",
        "OLLAMA_KV_CACHE_TYPE": "q8_0",
        "OLLAMA_LOAD_TIMEOUT": "15m",
        "OLLAMA_SCHED_SPREAD": "0",
        "OLLAMA_NOPRUNE": "0",
        "OLLAMA_NO_CLOUD": "1",
        "OLLAMA_DEBUG": "0",
        "OLLAMA_DEBUG_LOG_REQUESTS": "0",
        "OLLAMA_VULKAN": "0",
        "OLLAMA_ORIGINS": "http://flexi.example.edu,https://flexi.example.edu,http://192.0.2.2,https://192.0.2.2",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


PROXY = """
proxy: {https: "http://proxy.example.edu:3128", no_proxy: [intranet.example.edu, 198.51.100.0/24]}
mirrors: {models: "https://registry.example.edu:5000"}
"""


def test_pulls_go_through_the_proxy_and_requests_do_not(make_site: MakeSite) -> None:
    """Ollama's FAQ: HTTPS_PROXY only; HTTP_PROXY "may interrupt client connections to the server"."""
    plan = build_plan(make_site(more=PROXY))
    environment = dict(plan.instances[0].environment)
    assert environment["HTTPS_PROXY"] == "http://proxy.example.edu:3128"
    assert not {"HTTP_PROXY", "http_proxy"} & set(environment)
    direct = environment["NO_PROXY"].split(",")
    assert {"localhost", "127.0.0.1", "::1", "192.0.2.1", "192.0.2.2", "registry.example.edu"} <= set(direct)
    assert {"intranet.example.edu", "198.51.100.0/24"} <= set(direct)


def test_apt_and_downloads_take_the_proxy(make_site: MakeSite) -> None:
    host = build_plan(make_site(more=PROXY)).host("two")
    assert dict(host.environment) == {
        "https_proxy": "http://proxy.example.edu:3128",
        "no_proxy": ",".join(host.base.proxy.direct) if host.base.proxy else "",
    }
    assert host.base.proxy is not None
    settings = dict(host.base.proxy.apt)
    assert settings["Acquire::https::Proxy"] == "http://proxy.example.edu:3128"
    assert "Acquire::http::Proxy" not in settings, "an admin's own setting for http stays"
    assert settings["Acquire::https::Proxy::registry.example.edu"] == "DIRECT"
    assert not [name for name in settings if "/" in name or "::1" in name.removeprefix("Acquire::https::Proxy::")[:3]]


def test_every_command_of_a_deploy_finds_the_proxy(make_site: MakeSite) -> None:
    """pyinfra takes arguments of all operations from the host's data (docs: arguments)."""
    plan = build_plan(make_site(more=PROXY))
    assert host_data(plan, plan.host("one"))["_env"] == dict(plan.host("one").environment)
    without = build_plan(make_site())
    assert "_env" not in host_data(without, without.host("one"))


def test_a_proxy_for_http_only_is_not_taken_for_https(make_site: MakeSite) -> None:
    """apt falls back to http's (apt-transport-https(1))."""
    host = build_plan(make_site(more="proxy: {http: 'http://proxy.example.edu:3128'}")).host("two")
    assert host.base.proxy is not None
    assert dict(host.base.proxy.apt)["Acquire::https::Proxy"] == "DIRECT"
    assert "https_proxy" not in dict(host.environment)


def test_groups_have_ports_homes_and_stores_of_their_own(inventory: Inventory) -> None:
    large, small = inventory("example").instances
    assert (large.port, small.port) == (11434, 11435)
    assert (large.gpus, small.gpus) == ((0, 1), (2, 3))
    assert len({large.home, small.home, large.store, small.store}) == 4
    assert large.store.startswith(large.home + "/")


def test_only_the_gateway_reaches_instances_and_agent(inventory: Inventory) -> None:
    rules = {rule.port: rule.sources for rule in inventory("lab").host("server-a").firewall.rules}
    assert rules == {22: (), 11433: ("10.87.0.10",), 11434: ("10.87.0.10",)}
    rules = {rule.port: rule.sources for rule in inventory("lab").host("gateway").firewall.rules}
    assert rules == {22: (), 80: (), 8080: ()}


def test_networks_narrow_the_firewall(make_site: MakeSite) -> None:
    site = make_site(gateway_more="allow_from: [198.51.100.0/24]")
    rules = {rule.port: rule.sources for rule in build_plan(site).host("two").firewall.rules}
    assert rules[80] == ("198.51.100.0/24",)


def test_roles_follow_from_what_a_host_is(inventory: Inventory, make_site: MakeSite) -> None:
    lab = inventory("lab")
    assert lab.host("server-a").roles == ("base", "firewall", "driver", "cuda", "ollama", "agent")
    assert lab.host("gateway").roles == ("base", "firewall", "gateway", "chat")
    assert inventory("example").host("gpu1").roles == ("base", "firewall", "driver", "ollama", "agent", "gateway")
    assert lab.host("gateway").driver is None


def test_driver_of_ubuntu_22_04(inventory: Inventory) -> None:
    driver = inventory("hagen").host("server-a").driver
    assert driver is not None
    assert driver.major == 535
    # Not the modules' meta package: of an ended branch it is the one that pulls the next.
    assert driver.packages == (
        "nvidia-headless-no-dkms-535-server",
        "nvidia-utils-535-server",
        "nvidia-compute-utils-535-server",
    )
    assert set(driver.packages) < set(driver.holds)
    assert {"linux-generic", "linux-image-generic", "libnvidia-compute-535-server"} < set(driver.holds)
    assert len(set(driver.holds)) == len(driver.holds)
    assert (driver.version_package, driver.wanted_version) == ("nvidia-utils-535-server", "535.309.01-0ubuntu0.22.04.1")
    assert [pin.pin for pin in driver.pins if pin.priority > 1000] == [f"version {driver.wanted_version}"]
    keep_out = [pin for pin in driver.pins if pin.priority < 0]
    (packages,) = [pin.packages.split() for pin in keep_out]
    assert any(fnmatch("libnvidia-compute-580-server", pattern) for pattern in packages)
    assert not any(
        fnmatch(name, pattern) for name in ("nvidia-cuda-dev", "libnvidia-egl-wayland1") for pattern in packages
    )
    assert driver.module_package.format(release="5.15.0-186-generic") == (
        "linux-modules-nvidia-535-server-5.15.0-186-generic"
    )
    assert driver.kernel_packages == (
        *("linux-generic", "linux-image-generic", "linux-headers-generic"),
        "linux-modules-nvidia-535-server-generic",
    )


def test_driver_of_another_kernel(make_site: MakeSite) -> None:
    driver = build_plan(make_site(more="driver: {kernel: generic-hwe-22.04}")).host("one").driver
    assert driver is not None
    assert "linux-modules-nvidia-535-server-generic-hwe-22.04" in driver.holds
    assert "linux-image-generic-hwe-22.04" in driver.holds
    assert "linux-generic-hwe-22.04" in driver.kernel_packages


def test_driver_580(make_site: MakeSite) -> None:
    driver = build_plan(make_site(more="driver: {branch: 580-server}")).host("one").driver
    assert driver is not None
    assert driver.major == 580
    assert not any("535" in name for name in driver.packages + driver.holds)
    assert driver.packages[0] == "linux-modules-nvidia-580-server-generic"
    assert (driver.version_package, driver.wanted_version) == ("nvidia-utils-580-server", None)


def test_driver_of_debian(make_site: MakeSite) -> None:
    driver = build_plan(make_site(host="platform: debian-12")).host("one").driver
    assert driver is not None
    assert "nvidia-kernel-dkms" in driver.packages
    assert driver.version_package in driver.packages
    assert driver.kernel_packages == ("linux-image-amd64", "linux-headers-amd64")
    assert driver.module_package.format(release="6.1.0-56-amd64") == "linux-headers-6.1.0-56-amd64"


@pytest.mark.parametrize(("kernel", "package"), [("amd64", "amd64"), ("cloud-amd64", "cloud-amd64")])
def test_kernels_of_debian(kernel: str, package: str, make_site: MakeSite) -> None:
    driver = build_plan(make_site(host="platform: debian-12", more=f"driver: {{kernel: {kernel}}}")).host("one").driver
    assert driver is not None
    assert f"linux-headers-{package}" in driver.packages
    assert f"linux-image-{package}" in driver.holds


FORBIDDEN = ("cuda", "cuda-drivers", "cuda-runtime", "nvidia")


def test_the_toolkit_brings_no_driver(inventory: Inventory) -> None:
    cuda = inventory("hagen").host("server-a").cuda
    assert cuda is not None
    assert cuda.packages == ("cuda-toolkit-12-4",)
    assert cuda.repository == "https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2204/x86_64"
    assert cuda.key_url == cuda.repository + "/3bf863cc.pub"
    assert cuda.key_fingerprint == "EB693B3035CD5710E231E123A4B469963BF863CC"
    assert {pin.priority for pin in cuda.pins} == {-1}
    assert [pin.pin for pin in cuda.pins] == ["release l=NVIDIA CUDA", 'origin "developer.download.nvidia.com"']
    for pin in cuda.pins:
        assert {"nvidia-*", "libnvidia-*", "cuda", "cuda-drivers*"} <= set(pin.packages.split())
        assert not any(name.startswith("cuda-toolkit") for name in pin.packages.split())


def test_a_mirror_is_pinned_by_label_alone(inventory: Inventory) -> None:
    """In the lab one address serves the distribution's archive too: a pin by address would shut out the driver."""
    cuda = inventory("lab").host("server-a").cuda
    assert cuda is not None
    assert cuda.repository == "http://10.87.0.2/cuda/ubuntu2204/x86_64"
    assert cuda.key_fingerprint is None
    assert [pin.pin for pin in cuda.pins] == ["release l=NVIDIA CUDA"]


def test_ollama_comes_from_its_maker_or_a_mirror(inventory: Inventory) -> None:
    for site, base in [
        ("hagen", "https://github.com/ollama/ollama/releases/download"),
        ("lab", "http://10.87.0.2/ollama"),
    ]:
        ollama = inventory(site).host("server-a").ollama
        assert ollama is not None
        assert ollama.archive_url == f"{base}/v0.24.0/ollama-linux-amd64.tar.zst"
        assert ollama.checksums_url == f"{base}/v0.24.0/sha256sum.txt"
        assert "zstd" in ollama.packages


@pytest.mark.parametrize(
    ("mirror", "model", "source", "insecure"),
    [
        (None, "llama3:8b", "llama3:8b", False),
        ("http://10.0.0.1:5000", "llama3:8b", "10.0.0.1:5000/library/llama3:8b", True),
        ("https://registry.example.edu", "own/m:x", "registry.example.edu/own/m:x", False),
        ("http://10.0.0.1:5000", "hf.co/own/m:x", "hf.co/own/m:x", False),
    ],
)
def test_where_models_come_from(
    mirror: str | None, model: str, source: str, insecure: bool, make_site: MakeSite
) -> None:
    facts = "{weights_bytes: 1000000, layers: 1, heads: 1, kv_heads: 1, head_dim: 1, context: 256}"
    more = f"models: {{'{model}': {facts}}}\n" + (f"mirrors: {{models: '{mirror}'}}" if mirror else "")
    (instance,) = build_plan(make_site(more=more, models=f"'{model}'")).instances
    assert [(m.name, m.source, m.insecure) for m in instance.models] == [(model, source, insecure)]


def test_backends_hold_every_instance_of_a_model(make_site: MakeSite) -> None:
    second = (
        "  three: {address: 192.0.2.3, gpus: {model: A40, count: 1}, groups: {b: {gpus: all, models: ['LLama3:8B']}}"
    )
    site = make_site(
        host="cuda: '12.2'",
        models="'llama3:8b', nomic-embed-text",
        group="parallel: 4}\n" + second,
    )
    backends = {backend.model: backend for backend in build_plan(site).gateway.backends}
    assert list(backends) == ["llama3:8b", "nomic-embed-text:latest"]
    llama = backends["llama3:8b"]
    assert llama.name == "model_llama3_8b"
    assert llama.names == ("llama3:8b",)
    assert [(s.group, s.address, s.port, s.agent_port, s.max_connections) for s in llama.servers] == [
        ("a", "192.0.2.1", 11434, 11433, 4),
        ("b", "192.0.2.3", 11434, 11433, 2),
    ]
    assert backends["nomic-embed-text:latest"].servers[0].max_connections == 1


@pytest.mark.parametrize(
    ("model", "spellings"),
    [
        ("llama3:8b", ("llama3:8b",)),
        ("Llama3:8B", ("llama3:8b",)),
        ("nomic-embed-text:latest", ("nomic-embed-text:latest", "nomic-embed-text")),
        ("own/Model:LATEST", ("own/model:latest", "own/model")),
    ],
)
def test_spellings(model: str, spellings: tuple[str, ...]) -> None:
    assert model_spellings(model) == spellings


def test_section_names_are_told_apart(make_site: MakeSite) -> None:
    facts = "{weights_bytes: 1000000, layers: 1, heads: 1, kv_heads: 1, head_dim: 1, context: 256}"
    more = f"models: {{'a-b:1': {facts}, 'a.b:1': {facts}}}"
    names = [backend.name for backend in build_plan(make_site(more=more, models="'a-b:1', 'a.b:1'")).gateway.backends]
    assert names == ["model_a_b_1", "model_a_b_1_2"]


def test_the_gateways_bounds(inventory: Inventory) -> None:
    gateway = inventory("lab").gateway
    assert (gateway.catalogue_port, gateway.metrics_port) == (11432, 8405)
    # 16 KiB is HAProxy's tune.bufsize; a stream is two connections with two buffers each.
    assert 4 * 16 * 1024 * gateway.max_connections <= 2**30, "the gateway's machine may have no more than 4 GB"
    # Two descriptors for each connection, and some for checks: a container may have no more than 20,000.
    assert 2 * gateway.process_connections + 500 < 20_000
    assert gateway.process_connections > 2 * gateway.max_connections, "the inner front end must not starve"


def test_a_hosts_own_time_daemon_stays(inventory: Inventory) -> None:
    """Debian's time daemons conflict with each other: naming one would remove the admin's chrony."""
    for host in inventory("hagen").hosts:
        assert not {"systemd-timesyncd", "chrony", "ntpsec", "ntp"} & set(host.base.packages)


def test_anonymous_paths(inventory: Inventory) -> None:
    assert inventory("lab").gateway.anonymous_paths == ("/api/tags", "/api/version", "/api/show")


def test_ssh_paths_start_at_the_site_file(inventory: Inventory) -> None:
    ssh = inventory("lab").host("server-a").ssh
    assert ssh.config == str(INVENTORY.parent / ".lab/lab/ssh_config")


def test_warnings_have_lines(make_site: MakeSite) -> None:
    site = make_site(host='cuda: "12.4"', models="'llava:13b'", more="mirrors: {cuda: 'http://192.0.2.9/cuda'}")
    found = {warning.where: warning.message for warning in build_plan(site).warnings}
    assert "minor version compatibility" in found["test.yaml:8"]
    assert "cuts 8192 to that" in found["test.yaml:10"]
    assert "later packages than 535.309.01-0ubuntu0.22.04.1 are empty" in found["test.yaml"]
    assert "pin it with mirrors.cuda_key_fingerprint" in found["test.yaml:3"]


@pytest.mark.parametrize(
    ("driver", "platform", "warned"),
    [
        ("{branch: 535-server}", "ubuntu-22.04", "test.yaml:3"),
        ("{branch: 535-server}", "ubuntu-24.04", "test.yaml:3"),
        ("{branch: 580-server}", "ubuntu-22.04", None),
        ("{branch: 535-server}", "debian-12", None),
    ],
)
def test_an_ended_branch_is_warned_of(driver: str, platform: str, warned: str | None, make_site: MakeSite) -> None:
    site = make_site(more=f"driver: {driver}", host=f"platform: {platform}")
    found = [w for w in build_plan(site).warnings if "ended in June 2026" in w.message]
    assert [w.where for w in found] == ([warned] if warned else [])
    assert all(f"on {platform}," in w.message for w in found)


def test_platforms_that_nobody_tried_are_warned_of(make_site: MakeSite) -> None:
    for platform, lines in [("ubuntu-22.04", []), ("ubuntu-24.04", ["test.yaml:8"]), ("debian-12", ["test.yaml:8"])]:
        plan = build_plan(make_site(host=f"platform: {platform}"))
        assert [w.where for w in plan.warnings if f"was not tried on {platform}" in w.message] == lines


def test_the_firewall_opens_what_the_site_allows(make_site: MakeSite) -> None:
    everywhere = "firewall: {allow: [{port: 6556, from: [198.51.100.7], purpose: Checkmk}]}"
    here = "firewall: {allow: [{port: 9100, purpose: node exporter}]}"
    plan = build_plan(make_site(more=everywhere, host=here))
    one, two = (
        [rule for rule in plan.host(name).firewall.rules if rule.port in (6556, 9100)] for name in ("one", "two")
    )
    assert [(rule.port, rule.sources, rule.purpose) for rule in one] == [
        (6556, ("198.51.100.7",), "Checkmk"),
        (9100, (), "node exporter"),
    ]
    assert two == one[:1]


def test_a_tight_group_is_warned_of(make_site: MakeSite) -> None:
    newer = "driver: {branch: 580-server}"
    site = make_site(more=newer, models="'qwen2.5:32b'", group="context: 8192, parallel: 2")
    assert build_plan(site).warnings == ()
    site = make_site(
        more=newer,
        card="Own, memory_mib: 21700",
        count=1,
        models="'qwen2.5:32b'",
        group="context: 2048, parallel: 1",
    )
    assert [w.message for w in build_plan(site).warnings] == [
        "group a is tight: with 2 % less VRAM its models would not all fit"
    ]


def test_a_site_that_was_not_checked_is_refused(make_site: MakeSite) -> None:
    from dataclasses import replace

    site = make_site()
    with pytest.raises(ValueError, match="llama3:8b does not fit"):
        build_plan(replace(site, gpu_memory_mib={"RTX A5000": 1024}))


def test_apt_repositories_go_to_the_hosts_of_their_platform(make_site: MakeSite, tmp_path: Path) -> None:
    (tmp_path / "m.gpg").write_bytes(b"\x98")
    sources = """
mirrors:
  apt:
    - {name: house, platform: ubuntu-22.04, uri: "https://m.example.edu/ubuntu", suites: [jammy], key: m.gpg}
    - {name: past, platform: ubuntu-22.04, uri: "https://s.example.edu/u", suites: [jammy], snapshot: true}
    - {name: noble, platform: ubuntu-24.04, uri: "https://m.example.edu/ubuntu", suites: [noble],
       key_url: "https://m.example.edu/k", key_fingerprint: ABABABABABABABABABABABABABABABABABABABAB}
"""
    site = make_site(more=sources, host='platform: ubuntu-24.04\n    cuda: "12.5"')
    plan = build_plan(site)
    one, two = plan.host("one").base, plan.host("two").base
    assert [source.file for source in two.apt_sources] == [
        "/etc/apt/sources.list.d/flexi-house.sources",
        "/etc/apt/sources.list.d/flexi-past.sources",
    ]
    house, past = two.apt_sources
    assert (house.keyring, house.key) == ("/etc/apt/keyrings/flexi-house.gpg", str(tmp_path / "m.gpg"))
    assert (past.keyring, past.key) == ("/usr/share/keyrings/ubuntu-archive-keyring.gpg", None)
    assert (house.snapshot, past.snapshot) == (False, True)
    (noble,) = one.apt_sources
    assert (noble.keyring, noble.key_url) == ("/etc/apt/keyrings/flexi-noble.asc", "https://m.example.edu/k")
    # gpg must be there before that key can be trusted.
    assert "gpg" in one.apt_tools
    assert two.apt_tools == ()
    cuda = plan.host("one").cuda
    assert cuda is not None
    assert one.apt_files == (noble.file, cuda.sources_file)


def test_the_only_apt_repositories_stand_where_no_other_is(make_site: MakeSite) -> None:
    source = '{name: m, platform: ubuntu-22.04, uri: "https://m.example.edu/ubuntu", suites: [jammy]}'
    plan = build_plan(make_site(more=f"mirrors: {{apt: [{source}], apt_only: true}}", host='cuda: "12.2"'))
    base = plan.host("one").base
    assert base.apt_sources_only == "/etc/apt/flexi-sources.d"
    assert {os.path.dirname(file) for file in base.apt_files} == {base.apt_sources_only}
    assert len(base.apt_files) == 2
