"""Debian 12 for real: apt resolves exactly what flexi installs there, against the archive that this machine uses.

In an apt root of its own: nothing is installed, and this machine's apt is not touched.
"""

from __future__ import annotations

import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

from flexi.catalog.platforms import PLATFORMS
from flexi.configs.rendering import render
from flexi.lab.image import host_sources
from flexi.plan import build_plan
from flexi.plan.model.site import HostPlan
from flexi.site import load_site

SITE = """\
site: {{name: debian}}
ssh: {{user: admin}}
driver: {{kernel: {kernel}}}
hosts:
  one:
    address: 192.0.2.1
    platform: debian-12
    gpus: {{model: RTX A5000, count: 1}}
    groups: {{a: {{gpus: all, models: [llama3:8b]}}}}
gateway: {{host: one, name: flexi.example.edu}}
"""


class Archive:
    """apt with this machine's network settings and sources, all components, and nothing installed."""

    def __init__(self, directory: Path, sources: str) -> None:
        for part in ("state/lists/partial", "cache/archives/partial", "sources", "preferences"):
            (directory / part).mkdir(parents=True)
        components = "Components: main contrib non-free non-free-firmware"
        text = re.sub(r"^Components:.*$", components, sources, flags=re.MULTILINE)
        (directory / "sources/debian.sources").write_text(text)
        (directory / "status").touch()
        self.preferences = directory / "preferences"
        self._options = {
            "Dir::State": directory / "state",
            "Dir::State::status": directory / "status",
            "Dir::Cache": directory / "cache",
            "Dir::Etc::SourceList": "/dev/null",
            "Dir::Etc::SourceParts": directory / "sources",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": directory / "preferences",
            "APT::Sandbox::User": "root",
            "APT::Architecture": "amd64",
            "Acquire::Languages": "none",
        }
        self.apt("update")

    def apt(self, *arguments: str) -> str:
        command = ["apt-get", "-q", *(f"-o{key}={value}" for key, value in self._options.items()), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    def would_install(self, *packages: str) -> dict[str, str]:
        lines = self.apt("install", "--simulate", "--no-install-recommends", *packages).splitlines()
        words = [line.split() for line in lines if line.startswith("Inst ")]
        return {word[1]: word[2].strip("(") for word in words}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    suite, sources = host_sources()
    if suite != "bookworm":
        pytest.skip(f"this machine's archive is {suite}'s, not Debian 12's")
    return Archive(tmp_path_factory.mktemp("apt"), sources)


def debian(directory: Path, kernel: str = "generic") -> HostPlan:
    path = directory / "debian.yaml"
    path.write_text(SITE.format(kernel=kernel))
    return build_plan(load_site(path)).host("one")


@pytest.mark.parametrize("kernel", sorted(set(PLATFORMS["debian-12"].kernels.values())))
def test_the_driver_is_branch_535_with_headers_for_its_kernel(kernel: str, archive: Archive, tmp_path: Path) -> None:
    driver = debian(tmp_path, kernel).driver
    assert driver is not None
    (archive.preferences / "flexi-driver").write_text(render("driver/preferences.j2", pins=driver.pins))
    versions = archive.would_install(*driver.packages)
    nvidias = {name: version for name, version in versions.items() if re.search("nvidia|libcuda", name)}
    of_a_branch = {name for name, version in nvidias.items() if re.match(r"\d{3}\.", version)}
    assert {versions[name].split(".")[0] for name in of_a_branch} == {"535"}
    # A part that changed alone would no longer fit the others; what has no branch's version is no part of the driver.
    assert of_a_branch <= set(driver.holds)
    assert driver.version_package in of_a_branch
    for name in of_a_branch:
        assert any(fnmatch(name, pattern) for pin in driver.pins for pattern in pin.packages.split()), name
    kernels = [match[1] for name in versions if (match := re.fullmatch(rf"linux-image-(\d.*-{kernel})", name))]
    assert kernels
    assert {driver.module_package.format(release=release) for release in kernels} <= set(versions)


def test_everything_else_that_flexi_installs_is_there(archive: Archive, tmp_path: Path) -> None:
    host = debian(tmp_path)
    assert host.ollama is not None
    packages = {*host.base.packages, *host.ollama.packages, "haproxy", "systemd-timesyncd", "gpg"}
    assert packages <= set(archive.would_install(*packages))
