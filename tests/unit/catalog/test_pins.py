"""Our pins and sources as apt itself understands them, on the days that break servers (man apt_preferences)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import jinja2
import pytest
from support.apt_root import TOOLS, Apt

from flexi.catalog.platforms import APT_SOURCES_ONLY, PLATFORMS, PinPlan, PlatformName, cuda_pins
from flexi.configs.rendering import render
from flexi.lab.vendor import archives, debian, repository, ubuntu
from flexi.operations import apt_sources
from flexi.paths import ROOT
from flexi.plan.model.base import AptSourcePlan

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in TOOLS), reason=f"needs {', '.join(TOOLS)} (Debian or Ubuntu)"
)

KERNEL = ubuntu.JAMMY.kernel
REAL = "535.309.01-0ubuntu0.22.04.1"
METAS = ("linux-modules-nvidia-535-server-generic",)
"""Ubuntu's own way to have modules, until the branch ends: hosts from before flexi have it."""

DRIVERS = PLATFORMS["ubuntu-22.04"].drivers
CUDA = cuda_pins("http://mirror.example.edu/cuda")


def rendered(template: str, **values: object) -> str:
    """As pyinfra's files.template renders it."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string((ROOT / "templates" / template).read_text(encoding="utf-8")).render(**values)


def pin(apt: Apt, name: str, pins: tuple[PinPlan, ...]) -> None:
    (apt.preferences / name).write_text(rendered("driver/preferences.j2", pins=pins))


def deployed(apt: Apt, branch: str, pins: bool = True, holds: bool = True) -> Apt:
    """A host of that branch with today's generic kernel, as flexi leaves it or without one of its defences."""
    shipped = DRIVERS[branch]
    packages = [name.format(kernel="generic") for name in shipped.packages]
    held = [name.format(kernel="generic") for name in shipped.holds] if holds else []
    modules = shipped.module_package.format(release=KERNEL.release)
    metas = METAS if branch.startswith("535") else ()
    apt.pretend_installed(apt.would_install("linux-generic", modules, *packages, *metas), held)
    if pins:
        pin(apt, "flexi-driver", shipped.pins)
        pin(apt, "flexi-cuda", CUDA)
    assert apt.would("dist-upgrade") == {}
    return apt


def snapshot_of(repositories: Path, snapshot: bool = True) -> str:
    """A source of the archive as it was before the branch ended, as mirrors.apt writes it."""
    source = AptSourcePlan(
        file="/etc/apt/sources.list.d/flexi-snapshot.sources",
        uri=f"file:{repositories / repository.ARCHIVES / 'today' / 'ubuntu'}",
        suites=("jammy",),
        components=("main", "restricted"),
        keyring=str(repositories / repository.UBUNTU.keyring),
        snapshot=snapshot,
    )
    return render("base/mirror.sources.j2", source=source)


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("r")  # a key's sockets need a short path
    repository.build_repositories(archives.everything(), target)
    return target


@pytest.fixture
def apt(repositories: Path, tmp_path: Path) -> Apt:
    return Apt(tmp_path, repositories)


@pytest.mark.parametrize("holds", [True, False], ids=["pins and holds", "pins alone"])
def test_the_end_of_a_branch_changes_nothing_on_a_host_of_ours(holds: bool, apt: Apt) -> None:
    deployed(apt, "535-server", holds=holds)
    apt.switch("transitional")
    for command in ("upgrade", "dist-upgrade"):
        assert apt.run(command, "--simulate").returncode == 0
        assert apt.would(command) == {}


def test_holds_alone_keep_the_end_of_a_branch_out(apt: Apt) -> None:
    deployed(apt, "535-server", pins=False)
    apt.switch("transitional")
    assert apt.would("dist-upgrade") == {}


def test_without_pins_and_holds_the_end_of_a_branch_swaps_the_driver(apt: Apt) -> None:
    deployed(apt, "535-server", pins=False, holds=False)
    apt.switch("transitional")
    assert "libnvidia-compute-580-server" in apt.would("dist-upgrade")


@pytest.mark.parametrize("holds", [True, False], ids=["pins and holds", "pins alone"])
@pytest.mark.parametrize("branch", DRIVERS)
def test_nvidias_repository_changes_nothing_on_a_host_of_ours(branch: str, holds: bool, apt: Apt) -> None:
    """It stands among this apt's sources all the time, with newer versions."""
    deployed(apt, branch, holds=holds)
    assert apt.would("dist-upgrade") == {}
    for trap in ("cuda", "cuda-12-4", "cuda-runtime-12-4", "cuda-drivers", "cuda-drivers-580", "nvidia-driver"):
        assert apt.would_install(trap) == {}, trap
        assert "Candidate: (none)" in apt.run("policy", trap, program="apt-cache").stdout, trap
    toolkit = apt.would_install("cuda-toolkit-12-4")
    assert toolkit
    assert not [name for name in toolkit if "nvidia" in name]


@pytest.mark.parametrize(
    ("platform", "release"), [("ubuntu-24.04", ubuntu.NOBLE.kernel.release), ("debian-12", debian.KERNEL.release)]
)
def test_nor_on_the_other_platforms(platform: PlatformName, release: str, repositories: Path, tmp_path: Path) -> None:
    """On Debian its packages have NVIDIA's own names, so that both would mix without the pins."""
    apt, shipped = Apt(tmp_path, repositories, platform), PLATFORMS[platform].drivers["535-server"]
    flavour = PLATFORMS[platform].kernels["generic"]
    wanted = [shipped.module_package.format(release=release), *shipped.packages]
    wanted = [name.format(kernel=flavour) for name in wanted]
    pin(apt, "flexi-driver", shipped.pins)
    pin(apt, "flexi-cuda", CUDA)
    versions = apt.would_install(*wanted)
    assert versions[shipped.version_package].startswith("535.309.01-0")
    apt.pretend_installed(versions)
    assert apt.would("dist-upgrade") == {}
    for trap in ("cuda", "cuda-runtime-12-5", "cuda-drivers", "nvidia-driver-610"):
        assert apt.would_install(trap) == {}, trap
    (apt.preferences / "flexi-cuda").unlink()
    (apt.preferences / "flexi-driver").unlink()
    assert apt.would_install("cuda-drivers"), "the trap is there"


def test_without_pins_the_toolkits_meta_packages_bring_nvidias_driver(apt: Apt) -> None:
    deployed(apt, "535-server", pins=False, holds=False)
    assert "cuda-drivers" in apt.would_install("cuda-12-4")
    assert "libnvidia-compute" in apt.would_install("cuda-12-4")


@pytest.mark.parametrize("branch", DRIVERS)
def test_a_bare_host_gets_its_branch_and_no_other(branch: str, apt: Apt) -> None:
    shipped = DRIVERS[branch]
    pin(apt, "flexi-driver", shipped.pins)
    pin(apt, "flexi-cuda", CUDA)
    modules = shipped.module_package.format(release=KERNEL.release)
    versions = apt.would_install(modules, *(name.format(kernel="generic") for name in shipped.packages))
    assert versions[shipped.version_package].startswith(branch.split("-", maxsplit=1)[0])
    assert shipped.version in (None, versions[shipped.version_package])
    other = "580" if branch.startswith("535") else "535"
    assert not [name for name in versions if f"-{other}-server" in name]
    assert apt.would_install(f"nvidia-utils-{other}-server") == {}
    held = {name.format(kernel="generic") for name in shipped.holds}
    loose = {name for name in versions if "nvidia" in name and name not in held}
    # Named after their version, or after a kernel that the held meta packages depend on exactly.
    assert loose <= {modules} | {name for name in loose if name.startswith("nvidia-firmware-")}


@pytest.mark.parametrize(("old", "new"), [("535-server", "580-server"), ("580-server", "535-server")])
def test_a_change_of_branch_exchanges_the_modules_of_the_kernel(
    old: str, new: str, repositories: Path, tmp_path: Path
) -> None:
    """On Ubuntu 24.04. The old branch's go with its user space, also where no meta package of theirs is installed; the
    new one's come by the kernel's name alone, where the branch has ended."""
    apt, drivers, kernel = Apt(tmp_path, repositories, "ubuntu-24.04"), PLATFORMS["ubuntu-24.04"].drivers, ubuntu.NOBLE
    modules = {branch: drivers[branch].module_package.format(release=kernel.kernel.release) for branch in (old, new)}
    sets = {branch: [name.format(kernel="generic") for name in drivers[branch].packages] for branch in (old, new)}
    apt.pretend_installed(apt.would_install("linux-generic", modules[old], *sets[old]))
    pin(apt, "flexi-driver", drivers[new].pins)
    done = apt.run("install", "--simulate", "-y", "--no-install-recommends", *sets[new], modules[new])
    assert done.returncode == 0, done.stdout + done.stderr
    words = [line.split()[:2] for line in done.stdout.splitlines()]
    gone = {name for action, name in (word for word in words if word[1:]) if action == "Remv"}
    assert {modules[old], f"libnvidia-compute-{old}", f"nvidia-kernel-common-{old}"} <= gone
    assert not [name for name in gone if name.startswith(("linux-image-", "linux-headers-", "linux-generic"))]
    assert ["Inst", modules[new]] in words


def test_a_bare_host_gets_no_empty_packages_where_the_real_build_is_gone(apt: Apt) -> None:
    shipped = DRIVERS["535-server"]
    pin(apt, "flexi-driver", shipped.pins)
    apt.switch("transitional")
    for name in (*shipped.packages, *METAS):
        assert apt.would_install(name.format(kernel="generic")) == {}, name
    assert f" {REAL} " not in apt.run("madison", shipped.version_package, program="apt-cache").stdout


@pytest.mark.parametrize("snapshot", [True, False])
def test_a_snapshot_in_the_site_file_has_the_real_build_again(snapshot: bool, apt: Apt, repositories: Path) -> None:
    shipped = DRIVERS["535-server"]
    pin(apt, "flexi-driver", shipped.pins)
    apt.switch("transitional")
    (apt.sources / "flexi-snapshot.sources").write_text(snapshot_of(repositories, snapshot))
    apt.update()
    assert f" {REAL} " in apt.run("madison", shipped.version_package, program="apt-cache").stdout
    versions = apt.would_install(shipped.module_package.format(release=KERNEL.release), *shipped.packages)
    assert versions["nvidia-utils-535-server"] == REAL
    assert f"linux-modules-nvidia-535-server-{KERNEL.release}" in versions
    assert not [name for name in versions if "580" in name]


def test_a_host_that_was_swapped_by_night_gets_its_branch_back(apt: Apt, repositories: Path) -> None:
    """The upgrade happened before flexi came: 580 in use, under the names of 535. With the snapshot all of it goes."""
    shipped = DRIVERS["535-server"]
    apt.switch("transitional")
    apt.pretend_installed(apt.would_install("linux-generic", *shipped.packages, *METAS))
    assert apt.would("dist-upgrade") == {}
    pin(apt, "flexi-driver", shipped.pins)
    (apt.sources / "flexi-snapshot.sources").write_text(snapshot_of(repositories))
    apt.update()
    options = ("--allow-downgrades", "--allow-change-held-packages")
    versions = apt.would("install", *options, *shipped.packages)
    assert versions["nvidia-utils-535-server"] == versions["libnvidia-compute-535-server"] == REAL
    done = apt.run("install", "--simulate", *options, *shipped.packages)
    gone = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("Remv ")]
    assert {"libnvidia-compute-580-server", "nvidia-kernel-common-580-server"} <= set(gone)
    assert not [name for name in gone if name.startswith(("linux-image-", "linux-generic", "linux-headers-"))]


def test_a_source_of_another_key_is_not_trusted(apt: Apt, repositories: Path) -> None:
    cuda = repositories / repository.cuda_path("ubuntu2204") / repository.CUDA_KEY
    source = AptSourcePlan(
        file="/x",
        uri=f"file:{repositories / repository.ARCHIVES / 'kernel' / 'ubuntu'}",
        suites=("jammy",),
        components=("main",),
        keyring=str(cuda),
    )
    (apt.sources / "flexi-x.sources").write_text(render("base/mirror.sources.j2", source=source))
    done = apt.run("update")
    assert "NO_PUBKEY" in done.stdout + done.stderr


def tried(apt: Apt, key: str, keep: tuple[str, ...] | None = None) -> subprocess.CompletedProcess[str]:
    """flexi-new.sources, a repository with that key, tried by sh as on a host; `apt` stands for the host's."""
    source = AptSourcePlan(file="/x", uri="file:/repository", suites=("a",), components=("main",), keyring=key)
    new = apt.sources / "flexi-new.sources.new"
    new.write_text(render("base/mirror.sources.j2", source=source))
    script = apt_sources.trial_script(f"{apt.sources}/flexi-new.sources", keep).replace(
        "/etc/apt/sources.list", f"{apt.sources}.none"
    )
    environment = os.environ | {"LC_ALL": "C", "APT_CONFIG": str(apt.config)}
    done = subprocess.run(
        ["sh", "-c", script.format(new)], capture_output=True, text=True, check=False, env=environment
    )
    new.unlink()
    return done


HOSTS_OWN = "Types: deb\nURIs: file:/repository\nSuites: a\nComponents: main\nSigned-By: /its-own.gpg\n"


@pytest.mark.parametrize("name", ["cuda.sources", "flexi-kept.sources"])
def test_a_source_that_apt_cannot_read_beside_the_hosts_is_refused(apt: Apt, name: str) -> None:
    """Another key for the same place, as with NVIDIA's cuda-keyring: every apt on the host would be broken."""
    (apt.sources / name).write_text(HOSTS_OWN)
    done = tried(apt, "/another.gpg", keep=(f"{apt.sources}/flexi-kept.sources",))
    assert done.returncode != 0
    assert "Conflicting values set for option Signed-By" in done.stderr
    assert tried(apt, "/its-own.gpg").returncode == 0
    assert apt.run("indextargets").returncode == 0


def test_a_source_may_replace_one_of_flexis_own(apt: Apt) -> None:
    """The same place with a new key: an older file of its name, or one that the site no longer has."""
    for name in ("flexi-new.sources", "flexi-old.sources"):
        (apt.sources / name).write_text(HOSTS_OWN)
    assert tried(apt, "/another.gpg", keep=()).returncode == 0
    assert tried(apt, "/another.gpg").returncode != 0, "all of flexi's others count"


def test_the_sites_sources_can_be_the_only_ones(apt: Apt, tmp_path: Path) -> None:
    assert apt.run("indextargets").stdout
    text = rendered("base/apt-only.conf.j2", directory=APT_SOURCES_ONLY)
    only = tmp_path / "only"
    only.mkdir()
    with apt.config.open("a") as config:
        config.write(text.replace(APT_SOURCES_ONLY, str(only)))
    assert apt.run("indextargets").stdout == ""


def test_a_branch_that_ends_later_cannot_bring_the_next_one(apt: Apt) -> None:
    """580-server will end as 535-server did: its pins know no last version, and keep the next branch out too."""
    old = DRIVERS["535-server"]
    deployed(apt, "535-server", pins=False, holds=False)
    without_version = tuple(
        PinPlan(**(found.model_dump() | {"packages": found.packages.replace("580-server", "535-server")}))
        for found in DRIVERS["580-server"].pins
    )
    assert without_version != old.pins
    pin(apt, "flexi-driver", without_version)
    apt.switch("transitional")
    assert not [name for name in apt.would("dist-upgrade") if "580" in name]
