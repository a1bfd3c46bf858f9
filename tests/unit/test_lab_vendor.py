"""The stub packages, judged by apt itself: what it installs, refuses and prefers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from flexi.lab.vendor import repository, table
from flexi.lab.vendor.stub import Stub, build

TOOLS = ("apt-get", "apt-ftparchive", "dpkg-deb", "gpg", "gpgv")
pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in TOOLS), reason=f"needs {', '.join(TOOLS)} (Debian or Ubuntu)"
)

WANTED = (
    "linux-modules-nvidia-535-server-generic",
    "nvidia-headless-no-dkms-535-server",
    "nvidia-utils-535-server",
    "nvidia-compute-utils-535-server",
)


class Apt:
    """apt with a system of its own in a directory: reads repositories from files, simulates, touches nothing else."""

    def __init__(self, directory: Path, repositories: Path) -> None:
        self._directory = directory
        for part in ("state/lists/partial", "cache/archives/partial", "etc/preferences.d", "etc/trusted.gpg.d"):
            (directory / part).mkdir(parents=True)
        # What every Debian has; the stubs need these two.
        status = "".join(
            f"Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: 30\n"
            "Maintainer: x\nDescription: x\n\n"
            for name in ("kmod", "python3")
        )
        (directory / "status").write_text(status)
        # Empty: this machine's own apt configuration is not ours.
        self._config = directory / "apt.conf"
        self._config.touch()
        keyring = repositories / repository.KEYRING
        cuda = repositories / repository.CUDA_PATH
        (directory / "sources.list").write_text(
            "".join(
                f"deb [arch=amd64 signed-by={keyring}] file:{repositories}/ubuntu {pocket} main\n"
                for pocket in repository.POCKETS
            )
            + f"deb [arch=amd64 signed-by={cuda / repository.CUDA_KEY}] file:{cuda} /\n"
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        options = {
            "Dir::State": f"{self._directory}/state",
            "Dir::State::status": f"{self._directory}/status",
            "Dir::Cache": f"{self._directory}/cache",
            "Dir::Etc": f"{self._directory}/etc",
            "Dir::Etc::sourcelist": f"{self._directory}/sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::Etc::main": "-",
            "Dir::Etc::parts": "-",
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
            "Debug::NoLocking": "1",
        }
        command = ["apt-get", "-q", *(f"-o{key}={value}" for key, value in options.items()), *arguments]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"LC_ALL": "C", "APT_CONFIG": str(self._config)},
        )

    def would_install(self, *packages: str) -> dict[str, str]:
        """Versions by package of `apt-get install --simulate`; empty where apt refuses."""
        done = self.run("install", "--simulate", "--no-install-recommends", *packages)
        words = [line.split() for line in done.stdout.splitlines() if line.startswith("Inst ")]
        return {word[1]: word[2].strip("([]") for word in words} if done.returncode == 0 else {}


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A key's sockets need a short path.
    target = tmp_path_factory.mktemp("r")
    repository.build_repositories(table.everything(), target)
    return target


@pytest.fixture
def apt(repositories: Path, tmp_path: Path) -> Apt:
    apt = Apt(tmp_path, repositories)
    done = apt.run("update")
    assert done.returncode == 0, done.stderr
    assert "W:" not in done.stderr
    return apt


def test_the_headless_set_brings_its_parts_and_nothing_of_nvidias(apt: Apt) -> None:
    versions = apt.would_install(*WANTED)
    assert versions["nvidia-utils-535-server"] == "535.309.01-0ubuntu0.22.04.1"
    for part in ("libnvidia-compute", "libnvidia-cfg1", "nvidia-kernel-common", "nvidia-kernel-source"):
        assert f"{part}-535-server" in versions
    assert f"linux-modules-nvidia-535-server-{table.KERNEL}" in versions
    assert "nvidia-firmware-535-server-535.309.01" in versions
    assert not [name for name in versions if name.startswith("cuda")]


@pytest.mark.parametrize("part", ["libnvidia-compute", "nvidia-utils", "nvidia-kernel-common", "nvidia-compute-utils"])
def test_two_branches_exclude_each_other(apt: Apt, part: str) -> None:
    assert apt.would_install(f"{part}-535-server")
    assert apt.would_install(f"{part}-580-server")
    assert apt.would_install(f"{part}-535-server", f"{part}-580-server") == {}


def test_modules_and_user_space_of_two_branches_do_not_mix(apt: Apt) -> None:
    assert apt.would_install("linux-modules-nvidia-580-server-generic", "nvidia-headless-no-dkms-535-server") == {}


def test_the_toolkit_brings_no_driver_and_cuda_does(apt: Apt) -> None:
    toolkit = apt.would_install("cuda-toolkit-12-4")
    assert "cuda-nvcc-12-4" in toolkit
    assert not [name for name in toolkit if "nvidia" in name or "drivers" in name]
    for trap in ("cuda", "cuda-12-4", "cuda-runtime-12-4", "cuda-drivers"):
        assert "nvidia-driver" in apt.would_install(trap)


def test_nvidias_driver_throws_ubuntus_out_unless_it_is_pinned_away(apt: Apt, tmp_path: Path) -> None:
    assert apt.would_install("nvidia-utils-535-server", "cuda-drivers") == {}
    assert apt.would_install("libnvidia-compute") == {"libnvidia-compute": "610.57-0ubuntu1"}
    (tmp_path / "etc/preferences.d/pin").write_text(
        "Package: libnvidia-*\nPin: release l=NVIDIA CUDA\nPin-Priority: -1\n"
    )
    assert "libnvidia-compute" not in apt.would_install("libnvidia-compute")


def test_the_kernel_metas_follow_one_kernel(apt: Apt) -> None:
    assert set(apt.would_install("linux-generic")) == {stub.name for stub in table.kernel()}


def test_a_transitional_build_is_a_row(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Ubuntu's security pocket ends a branch so: an upgrade swaps the user space."""
    tmp_path = tmp_path_factory.mktemp("t")  # short, as above
    rows = [*table.everything(), *table.transitional("535-server", "580-server", "535.309.01-0ubuntu0.22.04.2")]
    (tmp_path / "r").mkdir()
    repository.build_repositories(rows, tmp_path / "r")
    (tmp_path / "a").mkdir()
    apt = Apt(tmp_path / "a", tmp_path / "r")
    assert apt.run("update").returncode == 0
    versions = apt.would_install("nvidia-utils-535-server")
    assert versions["nvidia-utils-535-server"] == "535.309.01-0ubuntu0.22.04.2"
    assert "libnvidia-compute-580-server" in versions


def test_a_changed_archive_is_refused(repositories: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(repositories, copy)
    release = copy / "ubuntu/dists/jammy/InRelease"
    release.write_text(release.read_text().replace("Origin: Ubuntu", "Origin: Other"))
    (tmp_path / "a").mkdir()
    done = Apt(tmp_path / "a", copy).run("update")
    assert "signature" in (done.stdout + done.stderr).lower()


def test_the_same_row_gives_the_same_package(tmp_path: Path) -> None:
    digests = set()
    for number in range(2):
        target = tmp_path / str(number)
        target.mkdir()
        stub = table.driver("535-server", "535.309.01-0ubuntu0.22.04.1")[-2]
        digests.add(build(stub, target / "work", target).read_bytes())
    assert len(digests) == 1


def test_the_content_hash_sees_every_part() -> None:
    row = Stub("a", "1", "jammy")
    hashes = {
        repository.content_hash(rows)
        for rows in (
            [row],
            [Stub("a", "2", "jammy")],
            [Stub("a", "1", "cuda")],
            [Stub("a", "1", "jammy", depends=("b",))],
            [Stub("a", "1", "jammy", scripts={"postinst": "true"})],
        )
    }
    assert len(hashes) == 5


def test_the_indexes_stand_where_apt_update_would_put_them(repositories: Path, tmp_path: Path) -> None:
    repository.copy_indexes(repositories, "10.87.0.2", tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert "10.87.0.2_ubuntu_dists_jammy_InRelease" in names
    assert "10.87.0.2_ubuntu_dists_jammy-security_main_binary-amd64_Packages" in names
