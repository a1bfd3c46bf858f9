"""The lab's parts that need neither root nor network."""

from __future__ import annotations

import ipaddress
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner

from flexi.catalog.platforms import PlatformName
from flexi.cli import lab as commands
from flexi.errors import FlexiError, InputError
from flexi.lab import cache, cgroups, image, network, processes, requirements, services, ssh, supervisor
from flexi.lab.lifecycle import Lab
from flexi.lab.machine import resolver_configuration
from flexi.lab.naming import Naming
from flexi.lab.platforms import PLATFORMS
from flexi.lab.topology import MACHINES
from flexi.paths import ROOT


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(cache, "LOCKS", tmp_path / "locks")
    return tmp_path / "cache"


# -- names --------------------------------------------------------------------------------------------------------


def test_labs_do_not_share_names() -> None:
    labs = [Naming("lab"), Naming("other"), Naming("lab", Path("/elsewhere"))]
    assert len({naming.id for naming in labs}) == 3
    assert len({naming.uplink for naming in labs}) == 3


def test_link_names_fit_into_linux() -> None:
    assert len(Naming("x" * 32).uplink) <= 15
    assert all(len(machine.name) <= 15 for machine in MACHINES)


@pytest.mark.parametrize("name", ["", "Lab", "a b", "../lab", "-x", "x" * 33, "ä"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="no name for a lab"):
        Lab(name)


# -- network ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("routes", "numbers", "free"),
    [
        ([], [], 1),
        (["10.86.1.0/24"], [], 2),
        ([], [1, 2], 3),
        (["10.86.0.0/22"], [], 4),
        (["10.86.1.77", "192.168.0.0/16"], [], 2),
    ],
)
def test_the_first_network_that_nobody_uses(routes: list[str], numbers: list[int], free: int) -> None:
    assert network.first_free(routes, numbers) == free


def test_no_free_network_is_an_error() -> None:
    with pytest.raises(FlexiError, match="no free network"):
        network.first_free(["10.0.0.0/8"], [])


def test_addresses_inside_and_outside_belong_together() -> None:
    assert {machine.address for machine in MACHINES} == {f"10.87.0.{byte}" for byte in range(10, 16)}
    for machine in MACHINES:
        outside = ipaddress.ip_address(ssh.outside_address(machine, 7))
        assert str(outside).split(".")[-1] == machine.address.split(".")[-1]


def test_this_computers_settings_are_put_back_with_the_last_lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {"FORWARD": ("ip_forward", "0\n"), "INOTIFY": ("max_user_instances", "128\n")}
    files = {name: tmp_path / file for name, (file, _) in before.items()}
    for name, file in files.items():
        file.write_text(before[name][1])
        monkeypatch.setattr(network, name, file)
    monkeypatch.setattr(network, "REMEMBERED", tmp_path / "remembered")
    monkeypatch.setattr(network, "NAMESPACES", tmp_path / "netns")
    network._remember_host()
    for file in files.values():
        file.write_text("1024\n")
    network._remember_host()
    network._restore_host()
    assert {name: file.read_text() for name, file in files.items()} == {
        name: text for name, (_, text) in before.items()
    }
    assert not (tmp_path / "remembered").exists()
    network._restore_host()


# -- SSH ----------------------------------------------------------------------------------------------------------


def test_ssh_goes_to_the_outside_address_and_checks_the_key(tmp_path: Path) -> None:
    path = tmp_path / "ssh_config"
    path.write_text(ssh.config(tmp_path / "with space", MACHINES, 9))
    for target in ("server-a", "10.87.0.11"):
        done = subprocess.run(["ssh", "-G", "-F", str(path), target], capture_output=True, text=True, check=True)
        options = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
        assert options["hostname"] == "10.86.9.11"
        assert options["user"] == "admin"
        assert options["stricthostkeychecking"] == "true"
        assert options["userknownhostsfile"] == str(tmp_path / "with space" / "known_hosts")


def test_known_hosts_names_every_way_to_a_machine() -> None:
    text = ssh.known_hosts([(MACHINES[1], "ssh-ed25519 AAAA root@server-a")], 9)
    assert text == "server-a,10.87.0.11,10.86.9.11 ssh-ed25519 AAAA\n"


# -- processes ----------------------------------------------------------------------------------------------------


def test_a_process_is_known_by_its_start_too(tmp_path: Path) -> None:
    child = subprocess.Popen(["sleep", "60"])
    process = processes.Process.of(child.pid)
    assert process is not None
    process.write(tmp_path / "pid")
    assert processes.read(tmp_path / "pid") == process
    stranger = processes.Process(child.pid, process.started + 1)
    assert not stranger.alive
    stranger.send(signal.SIGKILL)
    assert process.alive
    assert processes.end([process]) == []
    child.wait()
    assert processes.read(tmp_path / "pid") is None


def test_a_broken_pid_file_names_nobody(tmp_path: Path) -> None:
    (tmp_path / "pid").write_text("nonsense")
    assert processes.read(tmp_path / "pid") is None
    assert processes.read(tmp_path / "missing") is None


def test_a_detached_process_is_not_our_child(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "import os; print(os.getppid(), os.getsid(0) == os.getpid(), flush=True)"
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    processes.start_detached(["sh", "-c", f'{sys.executable} -c "{code}"; echo done >{fifo}'], log)
    fifo.read_text()  # returns when the process has written
    assert str(os.getpid()) not in log.read_text().split()


# -- cache --------------------------------------------------------------------------------------------------------


def test_an_entry_is_built_once_and_older_ones_go(own_cache: Path) -> None:
    built = []

    def build(path: Path) -> None:
        built.append(path)
        (path / "content").write_text("x")

    first = cache.entry("base", "1", build)
    assert cache.entry("base", "1", build) == first
    assert len(built) == 1
    second = cache.entry("base", "2", build)
    assert (second / "content").exists()
    assert not first.exists()


def test_an_interrupted_build_leaves_no_entry(own_cache: Path) -> None:
    def fail(path: Path) -> None:
        (path / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.entry("base", "1", fail)
    path = cache.entry("base", "1", lambda path: None)
    assert list(path.iterdir()) == []
    assert not list(own_cache.glob(".base*"))


def test_an_entry_in_use_stays(own_cache: Path) -> None:
    first = cache.entry("base", "1", lambda path: (path / "root").mkdir())
    descriptor = cache.hold(first / "root")
    cache.entry("base", "2", lambda path: None)
    assert first.exists()
    os.close(descriptor)
    cache.entry("base", "3", lambda path: None)
    assert not first.exists()


def test_a_lock_is_held_by_one(own_cache: Path) -> None:
    with cache.locked("x", wait=False) as mine:
        assert mine
        with cache.locked("x", wait=False) as theirs:
            assert not theirs
    with cache.locked("x", wait=False) as again:
        assert again


# -- image --------------------------------------------------------------------------------------------------------


def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **files: str) -> None:
    for name, text in files.items():
        (tmp_path / name.replace("_", ".")).write_text(text)
    monkeypatch.setattr(image, "APT_SOURCES", (tmp_path,))


def test_only_the_distributions_own_sources_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    codename = release["VERSION_CODENAME"].strip('"')
    sources(
        tmp_path,
        monkeypatch,
        a_list=(
            "# deb http://old.test/debian x main\n"
            f"deb [arch=amd64 signed-by=/k.gpg] http://mirror.test/debian {codename} main contrib # note\n"
            f"deb http://third.test/apt cloud-{codename} main\n"
            f"deb http://docker.test/linux {codename} stable\n"
            f"deb-src http://mirror.test/debian {codename} main\n"
            "deb cdrom:[Debian]/ x main\n"
        ),
        b_sources=(
            "Types: deb\nURIs: http://mirror.test/security\n# a note\n"
            f"Suites: {codename}-security\nComponents: main\n\n"
            "Types: deb\nURIs: https://node.test\nSuites: nodistro\nComponents: main\n\n"
            f"Types: deb\nEnabled: no\nURIs: http://off.test\nSuites: {codename}\nComponents: main\n"
        ),
    )
    suite, text = image.host_sources()
    assert suite == codename
    assert [line for line in text.splitlines() if line.startswith("URIs")] == [
        "URIs: http://mirror.test/debian",
        "URIs: http://mirror.test/security",
    ]
    assert "Signed-By: /k.gpg" in text
    assert "Components: main contrib\n" in text


def test_a_machine_without_own_sources_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources(tmp_path, monkeypatch, a_list="deb http://third.test/apt stable main\n")
    with pytest.raises(FlexiError, match="no apt source"):
        image.host_sources()


def test_the_image_depends_on_its_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    before = image.recipe_hash(("x", "y"))
    assert image.recipe_hash(("x", "y")) == before
    assert image.recipe_hash(("x", "z")) != before
    monkeypatch.setattr(image, "PACKAGES", (*image.PACKAGES, "another"))
    assert image.recipe_hash(("x", "y")) != before


def test_a_layer_makes_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    files = image._layer_files(PLATFORMS["debian-12"], ["http://mirror.test/debian", "http://b.test:81/security"])
    assert 'VERSION_ID="12"' in files["usr/lib/os-release"]
    sources = files["etc/apt/sources.list.d/lab-debian.list"].splitlines()
    assert [line.split()[3] for line in sources] == ["bookworm", "bookworm-security"]
    assert all(line.endswith("main contrib non-free non-free-firmware") for line in sources)
    pins = files[image.PREFERENCES].split("\n\n")
    assert [pin.splitlines()[1] for pin in pins] == ['Pin: origin "b.test"', 'Pin: origin "mirror.test"']
    assert [pin.split()[-1] for pin in pins] == ["-1", "-1"]
    # Debian's own kernel would else be newer one day.
    assert "linux-image-amd64" in pins[0].split()


@pytest.mark.parametrize("name", sorted(PLATFORMS))
def test_platforms_are_named_as_in_the_site_file(name: str) -> None:
    release = dict(line.split("=", 1) for line in PLATFORMS[name].os_release.splitlines())
    assert name == f"{release['ID']}-{release['VERSION_ID'].strip(chr(34))}"
    assert name in get_args(PlatformName)
    assert {spec.platform for spec in MACHINES} <= set(PLATFORMS)


def test_a_loopback_resolver_is_replaced_by_what_stands_behind_it(tmp_path: Path) -> None:
    stub, real = tmp_path / "stub", tmp_path / "real"
    stub.write_text("nameserver 127.0.0.53\nsearch x\n")
    real.write_text("nameserver 192.0.2.1\nnameserver ::1\n")
    assert resolver_configuration((stub, real)) == "nameserver 192.0.2.1\n"
    assert resolver_configuration((real, stub)) == "nameserver 192.0.2.1\n"
    assert resolver_configuration((stub,)) == ""


# -- supervisor ---------------------------------------------------------------------------------------------------

SPEC = supervisor.Spec("m", "m", ("/l", "/c"), "/l/root:/c/root", "/run/netns/x", None)


def test_a_machine_that_reboots_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = f'echo boot >>{tmp_path}/boots; [ "$(wc -l <{tmp_path}/boots)" -lt 3 ] && exit 133; exit 0'
    monkeypatch.setattr(supervisor, "nspawn_command", lambda spec, root: ["sh", "-c", script])
    assert supervisor.supervise(SPEC, tmp_path, tmp_path) == 0
    assert len((tmp_path / "boots").read_text().splitlines()) == 3


def test_a_machine_that_fails_stays_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        supervisor, "nspawn_command", lambda spec, root: ["sh", "-c", f"echo x >>{tmp_path}/boots; exit 1"]
    )
    assert supervisor.supervise(SPEC, tmp_path, tmp_path) == 1
    assert len((tmp_path / "boots").read_text().splitlines()) == 1


def test_a_power_cut_that_is_meant_to_end_boots_again_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / supervisor.AGAIN_FILE).touch()
    monkeypatch.setattr(
        supervisor, "nspawn_command", lambda spec, root: ["sh", "-c", f"echo x >>{tmp_path}/boots; exit 1"]
    )
    assert supervisor.supervise(SPEC, tmp_path, tmp_path) == 1
    assert len((tmp_path / "boots").read_text().splitlines()) == 2


def test_the_machine_dies_with_its_supervisor(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from flexi.lab import supervisor as s\n"
        "s.nspawn_command = lambda spec, root: ['sleep', '60']\n"
        f"s.supervise(s.Spec('m','m',(),'/c','/n',None), Path('{tmp_path}'), Path('{tmp_path}'))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT / "src")})
    power = wait_for(lambda: processes.read(tmp_path / supervisor.POWER_PID_FILE))
    parent.kill()
    parent.wait()
    wait_for(lambda: not power.alive)


def wait_for(condition: Callable[[], Any], timeout_s: float = 20) -> Any:
    """The first true answer."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError("not in time")


def test_the_spec_survives_its_file(tmp_path: Path) -> None:
    SPEC.write(tmp_path)
    assert supervisor.Spec.read(tmp_path) == SPEC


def test_a_machine_of_another_version_is_named(tmp_path: Path) -> None:
    (tmp_path / supervisor.SPEC_FILE).write_text('{"hostname": "m", "base": "/c"}')
    with pytest.raises(FlexiError, match="--fresh"):
        supervisor.Spec.read(tmp_path)


def test_cgroup_hierarchies_are_found() -> None:
    mounts = cgroups._mounts()
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        controllers = line.split(":")[1]
        assert controllers not in mounts or mounts[controllers].is_dir()


# -- services -----------------------------------------------------------------------------------------------------


def test_files_are_served_through_links(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").write_bytes(b"content")
    (tmp_path / "www").mkdir()
    (tmp_path / "www/part").symlink_to(tmp_path / "elsewhere")
    server = services.serve_files("127.0.0.1", 0, tmp_path / "www")
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/part/file"
        # apt asks so for an archive that it has seen; what a link shows can be older and another one all the same.
        later = {"If-Modified-Since": "Mon, 01 Jan 2120 00:00:00 GMT"}
        for headers in ({}, later):
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
                assert answer.read() == b"content"
    finally:
        server.shutdown()
        server.server_close()
    assert services.published(tmp_path / "www") == [tmp_path / "www/part"]


# -- the command --------------------------------------------------------------------------------------------------


def test_every_required_package_has_its_program() -> None:
    assert set(requirements.SYSTEM_PACKAGES) == set(requirements._PROGRAM_OF_PACKAGE)


def test_missing_programs_are_named_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "_SYSTEM_PATH", "/nonexistent")
    with pytest.raises(InputError, match="apt-get install systemd-container mmdebstrap"):
        requirements.require_programs()


@pytest.mark.parametrize(
    "arguments",
    [["up"], ["down"], ["status"], ["reboot", "server-a"], ["fault", "server-a", "lost"], ["kill", "server-a"]],
)
def test_without_root_it_says_so(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = CliRunner().invoke(commands.lab, arguments)
    assert isinstance(result.exception, InputError)
    assert "needs root" in str(result.exception)


def test_an_unknown_machine_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="gateway, server-a, server-b, server-c, server-d, gateway-2"):
        Lab().machine("server-x")


def test_a_gpu_that_the_machine_lacks_is_refused() -> None:
    with pytest.raises(InputError, match="it has 8 GPUs"):
        Lab().machine("server-a").gpu(8)


def test_another_labs_site_differs_in_the_ssh_config_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab("another")
    monkeypatch.setattr(lab, "directory", tmp_path)
    lab._write_site()
    ours, theirs = (ROOT / "inventory/lab.yaml").read_text().splitlines(), lab.site_file.read_text().splitlines()
    assert [b.strip() for a, b in zip(ours, theirs, strict=True) if a != b] == ["config: ../ssh_config"]
    assert (tmp_path / "inventory/lab.py").exists()
