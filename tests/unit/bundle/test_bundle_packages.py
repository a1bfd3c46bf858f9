"""A bundle's packages, chosen by the real apt from a small archive made here."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.bundle_parts import bars, bundle, write_site

from flexi.bundle import manifest, sources
from flexi.bundle.checking import check
from flexi.bundle.packages import PrivateApt, kernels
from flexi.catalog.platforms import PinPlan
from flexi.configs.rendering import render
from flexi.errors import FlexiError, InputError
from flexi.lab.vendor.stub import Stub, build
from flexi.plan import build_plan
from flexi.plan.build.needs import package_set
from flexi.plan.model.driver import DriverPlan
from flexi.site import load_site

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("apt-get", "apt-ftparchive", "dpkg-deb"))),
    reason="needs apt, as Debian and Ubuntu have it",
)

ROLES = {"ca-certificates", "curl", "nftables", "zstd", "systemd-timesyncd", "haproxy", "nvidia-smi", "libcuda1"}
"""Of each role one or more: what a GPU host that is the gateway too must find in its bundle."""
OTHERS = (
    Stub("libthing", "1:1.5", "x", ("libdeep",)),
    Stub("libthing", "1:2.0", "x", ("libdeep",)),
    Stub("libdeep", "3", "x"),
    Stub("unrelated", "1", "x"),
)


def stubs(site_file: Path) -> list[Stub]:
    """The packages of the site's plan, some others, and a dependency or two."""
    (host,) = build_plan(load_site(site_file)).hosts
    needed = package_set(host).packages
    return [*(Stub(name, "1.0", "x", ("libthing (>= 1)",) if name == "curl" else ()) for name in needed), *OTHERS]


class Archive:
    """A repository in a directory, and the deb822 file that names it."""

    def __init__(self, directory: Path, packages: Sequence[Stub]) -> None:
        self.pool = directory / "pool"
        self.pool.mkdir(parents=True)
        for stub in packages:
            (self.pool / stub.file_name).write_bytes(build(stub))
        self._index(directory)
        self.sources = directory / "x.sources"
        self.sources.write_text(f"Types: deb\nURIs: file:{directory}/\nSuites: ./\nTrusted: yes\n")

    @staticmethod
    def _index(directory: Path) -> None:
        for name, command in (("Packages", ["packages", "pool"]), ("Release", ["release", "."])):
            done = subprocess.run(["apt-ftparchive", *command], cwd=directory, capture_output=True, check=True)
            (directory / name).write_bytes(done.stdout)

    def lose(self, pattern: str) -> None:
        for deb in self.pool.glob(pattern):
            deb.unlink()


@pytest.fixture
def site_file(tmp_path: Path) -> Path:
    return write_site(tmp_path / "test.yaml", "https://mirror.example.edu", "https://registry.example.edu")


@pytest.fixture
def archive(tmp_path: Path, site_file: Path) -> Archive:
    return Archive(tmp_path / "archive", stubs(site_file))


def pool(folder: Path) -> set[str]:
    return {path.name for path in (folder / "apt/debian-12/pool").iterdir()}


def make(site_file: Path, archive: Archive, *, renew: bool = False) -> int:
    summary = bundle(site_file, site_file.parent / "bundle", ("apt",), {"debian-12": archive.sources}, renew=renew)
    return summary.fetched_files


def test_it_holds_all_that_the_roles_install_and_what_that_depends_on(site_file: Path, archive: Archive) -> None:
    make(site_file, archive)
    names = {name.split("_")[0] for name in pool(site_file.parent / "bundle")}
    assert {*ROLES, "libthing", "libdeep"} <= names
    assert "unrelated" not in names
    assert "libthing_2.0_amd64.deb" in pool(site_file.parent / "bundle"), "the newest, its epoch left out of the name"


def test_apt_installs_from_it_alone(site_file: Path, archive: Archive, tmp_path: Path) -> None:
    """With the sources file that the hosts get, and an empty host."""
    make(site_file, archive)
    shutil.rmtree(archive.pool)
    listed = manifest.read(site_file.parent / "bundle")
    ((name, repository),) = listed.apt.items()
    text = render("bundle/apt.sources.j2", uri=f"file:{site_file.parent}/bundle/apt/debian-12", suite=name)
    apt = PrivateApt(tmp_path / "host", {"sources.list.d/flexi.sources": text}, ())
    apt.update()
    chosen = apt.choose(repository.packages)
    assert {deb.file_name for deb in chosen} == pool(site_file.parent / "bundle")
    with bars() as shown:
        apt.fetch(repository.packages, chosen, shown, "packages")


def test_the_plans_pins_hold(tmp_path: Path, archive: Archive) -> None:
    pin = PinPlan(packages="libthing", pin="version 1:1.5", priority=1001, reason="a test")
    text = {"sources.list.d/x.sources": archive.sources.read_text()}
    for pins, version in (((), "2.0"), ((pin,), "1.5")):
        apt = PrivateApt(tmp_path / version, text, pins)
        apt.update()
        assert f"libthing_{version}_amd64.deb" in {deb.file_name for deb in apt.choose(["curl"])}


def test_a_second_run_needs_no_archive_and_a_renewal_only_what_is_new(site_file: Path, archive: Archive) -> None:
    first = make(site_file, archive)
    assert first == len(pool(site_file.parent / "bundle"))
    assert make(site_file, archive, renew=True) == 0
    hidden = archive.pool.rename(archive.pool.with_name("hidden"))
    assert make(site_file, archive) == 0
    hidden.rename(archive.pool)
    deb = site_file.parent / "bundle/apt/debian-12/pool/libdeep_3_amd64.deb"
    deb.write_bytes(b"broken")
    assert make(site_file, archive) == 1
    assert deb.read_bytes() == (archive.pool / deb.name).read_bytes()


def test_a_package_that_is_not_to_be_had_is_said_in_apts_words(site_file: Path, archive: Archive) -> None:
    archive.lose("nvidia-smi_*")
    archive._index(archive.pool.parent)
    with pytest.raises(FlexiError, match="Unable to locate package nvidia-smi"):
        make(site_file, archive)


def test_a_site_with_other_packages_needs_another_bundle(site_file: Path, archive: Archive) -> None:
    make(site_file, archive)
    text = site_file.read_text().replace("mirrors: {", "mirrors: {bundle: ./bundle, ")
    offline = site_file.with_name("offline.yaml")
    offline.write_text(text)
    with pytest.raises(InputError) as caught:
        check(build_plan(load_site(offline)), "x", bars())
    assert "packages of one" not in str(caught.value)
    assert "model llama3:8b" in str(caught.value)
    offline.write_text(text.replace("count: 2}", 'count: 2}\n    cuda: "12.4"'))
    with pytest.raises(InputError, match="not made for packages of one"):
        check(build_plan(load_site(offline)), "x", bars())


def test_a_platform_without_sources_is_told_how_to_give_them(site_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "own_platform", lambda: "debian-13")
    with pytest.raises(InputError, match="--sources debian-12=FILE"):
        bundle(site_file, site_file.parent / "bundle", ("apt",))


def driver(modules: str, kernel_packages: tuple[str, ...]) -> DriverPlan:
    """What of a driver's plan says which kernels it gets modules for."""
    return DriverPlan(
        branch="535-server",
        major=535,
        packages=(),
        holds=(),
        pins=(),
        version_package="nvidia-utils-535-server",
        kernel="generic",
        module_package=modules,
        kernel_packages=kernel_packages,
        wanted_version=None,
    )


MODULES = "linux-modules-nvidia-535-server-{release}"
IMAGE = "linux-image-generic"
GIVEN = ("5.15.0-170-generic",)


@pytest.mark.parametrize(
    ("with_modules", "given", "chosen"),
    [
        (("5.15.0-170-generic", "5.15.0-190-generic"), (), ["5.15.0-190-generic"]),
        (("5.15.0-99-generic", "5.15.0-170-generic", "5.15.0-170-lowlatency"), (), ["5.15.0-170-generic"]),
        (("5.15.0-170-generic", "5.15.0-190-generic"), GIVEN, ["5.15.0-190-generic", "5.15.0-170-generic"]),
        (("6.8.0-20-generic", "5.15.0-170-generic"), (), ["5.15.0-170-generic"]),
    ],
    ids=["the newest", "an ended branch", "the hosts' too", "another series does not count"],
)
def test_modules_come_for_the_newest_kernel_that_has_them(
    tmp_path: Path, with_modules: Sequence[str], given: Sequence[str], chosen: list[str]
) -> None:
    rows = [Stub(MODULES.format(release=release), "1", "x") for release in with_modules]
    rows += [
        Stub(IMAGE, "1", "x", ("linux-image-5.15.0-190-generic",)),
        Stub("linux-image-5.15.0-190-generic", "1", "x"),
    ]
    archive = Archive(tmp_path / "archive", rows)
    apt = PrivateApt(tmp_path / "root", {"sources.list.d/x.sources": archive.sources.read_text()}, ())
    apt.update()
    plan = driver(MODULES, ("linux-generic", IMAGE))
    assert kernels(apt, plan, given) == chosen
    with pytest.raises(FlexiError, match=r"no repository has linux-modules-nvidia-535-server-4\.4\.0-1-generic"):
        kernels(apt, plan, ["4.4.0-1-generic"])
