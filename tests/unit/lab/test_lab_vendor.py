"""The stub packages, judged by apt itself: what it installs, refuses and prefers."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from support.apt_root import TOOLS, Apt

from flexi.lab.vendor import archives, debian, repository, ubuntu
from flexi.lab.vendor.stub import Stub, build, module_file

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in TOOLS), reason=f"needs {', '.join(TOOLS)} (Debian or Ubuntu)"
)

WANTED = (
    "linux-modules-nvidia-535-server-generic",
    "nvidia-headless-no-dkms-535-server",
    "nvidia-utils-535-server",
    "nvidia-compute-utils-535-server",
)


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A key's sockets need a short path.
    target = tmp_path_factory.mktemp("r")
    repository.build_repositories(archives.everything(), target)
    return target


@pytest.fixture
def apt(repositories: Path, tmp_path: Path) -> Apt:
    return Apt(tmp_path, repositories)


@pytest.fixture
def deployed(apt: Apt) -> Apt:
    """A host with the headless set of 535-server and today's kernel, without any pin or hold."""
    apt.pretend_installed(apt.would_install("linux-generic", *WANTED))
    assert apt.would("dist-upgrade") == {}
    return apt


def test_the_headless_set_brings_its_parts_and_nothing_of_nvidias(apt: Apt) -> None:
    versions = apt.would_install(*WANTED)
    assert versions["nvidia-utils-535-server"] == "535.309.01-0ubuntu0.22.04.1"
    for part in ("libnvidia-compute", "libnvidia-cfg1", "nvidia-kernel-common", "nvidia-kernel-source"):
        assert f"{part}-535-server" in versions
    assert f"linux-modules-nvidia-535-server-{ubuntu.JAMMY.kernel.release}" in versions
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


def test_nvidias_driver_throws_ubuntus_out_unless_it_is_pinned_away(apt: Apt) -> None:
    assert apt.would_install("nvidia-utils-535-server", "cuda-drivers") == {}
    assert apt.would_install("libnvidia-compute") == {"libnvidia-compute": "610.57-0ubuntu1"}
    apt.pin_nvidia_away()
    assert "libnvidia-compute" not in apt.would_install("libnvidia-compute")


def test_nvidias_repository_outranks_ubuntus_packages_of_the_same_names(apt: Apt, tmp_path: Path) -> None:
    """0ubuntu1 is more than 0ubuntu0.22.04.1: what a host without a pin is upgraded to."""
    theirs = apt.would_install("nvidia-headless-no-dkms-580")
    assert set(theirs.values()) == {"580.178.04-0ubuntu1"}
    apt.pin_nvidia_away()
    ubuntus = apt.would_install("nvidia-headless-no-dkms-580")
    assert set(ubuntus.values()) == {"580.173.02-0ubuntu0.22.04.1"}
    apt.pretend_installed(ubuntus)
    assert apt.would("dist-upgrade") == {}
    (tmp_path / "etc/preferences.d/pin").unlink()
    assert apt.would("dist-upgrade")["libnvidia-compute-580"] == "580.178.04-0ubuntu1"


@pytest.mark.parametrize("kernel", [ubuntu.JAMMY.kernel, ubuntu.JAMMY.hwe], ids=lambda kernel: kernel.flavour)
def test_the_kernel_metas_follow_one_kernel(apt: Apt, kernel: ubuntu.Kernel) -> None:
    assert set(apt.would_install(f"linux-{kernel.flavour}")) == {stub.name for stub in ubuntu.kernel(kernel, "jammy")}


@pytest.mark.parametrize("branch", ["535-server", "580-server"])
def test_every_kernel_of_the_day_has_modules(apt: Apt, branch: str) -> None:
    for kernel in (ubuntu.JAMMY.kernel, ubuntu.JAMMY.hwe):
        versions = apt.would_install(f"linux-modules-nvidia-{branch}-{kernel.flavour}")
        assert f"linux-modules-nvidia-{branch}-{kernel.release}" in versions


# -- the archives of other days -----------------------------------------------------------------------------------


def test_the_end_of_a_branch_swaps_the_driver_of_a_host_without_pins(deployed: Apt) -> None:
    """What Ubuntu's security pocket did to 535-server, at the next `apt-get dist-upgrade`."""
    deployed.switch("transitional")
    new = deployed.would("dist-upgrade")
    assert new["nvidia-utils-535-server"] == "535.309.01-0ubuntu0.22.04.2"
    assert new["libnvidia-compute-580-server"] == "580.173.02-0ubuntu0.22.04.1"
    assert f"linux-modules-nvidia-580-server-{ubuntu.JAMMY.kernel.release}" in new


def test_the_real_build_of_an_ended_branch_is_gone(apt: Apt) -> None:
    real = "nvidia-utils-535-server=535.309.01-0ubuntu0.22.04.1"
    assert apt.would_install(real)
    apt.switch("transitional")
    assert apt.run("show", real, program="apt-cache").stdout == ""
    assert "libnvidia-compute-580-server" in apt.would_install("nvidia-utils-535-server")


def test_a_newer_kernel_comes_with_its_modules(deployed: Apt) -> None:
    newer = ubuntu.JAMMY.newer_kernel
    deployed.switch("kernel")
    new = deployed.would("dist-upgrade")
    assert {f"linux-image-{newer.release}", f"linux-modules-nvidia-535-server-{newer.release}"} <= set(new)
    assert new["linux-generic"] == newer.meta


def test_a_newer_kernel_can_come_without_its_modules(deployed: Apt) -> None:
    newer = ubuntu.JAMMY.newer_kernel
    deployed.switch("kernel-without-modules")
    new = deployed.would("dist-upgrade")
    assert f"linux-image-{newer.release}" in new
    assert not [name for name in new if "nvidia" in name]


def test_a_newer_driver_swaps_the_user_space_of_a_host_without_holds(apt: Apt) -> None:
    wanted = [name.replace("535", "580") for name in WANTED]
    apt.pretend_installed(apt.would_install("linux-generic", *wanted))
    apt.switch("driver")
    new = apt.would("dist-upgrade")
    assert new["libnvidia-compute-580-server"] == f"{ubuntu.NEWER_580}-0ubuntu0.22.04.1"
    assert f"linux-modules-nvidia-580-server-{ubuntu.JAMMY.kernel.release}" in new


# -- Ubuntu 24.04 and Debian 12 -----------------------------------------------------------------------------------


@pytest.fixture
def noble(repositories: Path, tmp_path: Path) -> Apt:
    return Apt(tmp_path, repositories, "ubuntu-24.04")


@pytest.fixture
def bookworm(repositories: Path, tmp_path: Path) -> Apt:
    return Apt(tmp_path, repositories, "debian-12")


DEBIAN_WANTED = ("linux-headers-amd64", "nvidia-kernel-dkms", "nvidia-smi", "libcuda1", "nvidia-persistenced")


@pytest.mark.parametrize("branch", ["535-server", "580-server"])
def test_noble_has_the_same_names(noble: Apt, branch: str) -> None:
    versions = noble.would_install(*(name.replace("535-server", branch) for name in WANTED))
    assert versions[f"nvidia-utils-{branch}"].endswith("-0ubuntu0.24.04.1")
    assert f"linux-modules-nvidia-{branch}-{ubuntu.NOBLE.kernel.release}" in versions
    assert ubuntu.NOBLE.kernel.release.startswith("6.8.0-")


def test_noble_ends_the_branch_too(noble: Apt) -> None:
    noble.pretend_installed(noble.would_install("linux-generic", *WANTED))
    noble.switch("transitional")
    assert "libnvidia-compute-580-server" in noble.would("dist-upgrade")


def test_debians_headless_set_is_the_real_archives(bookworm: Apt) -> None:
    """`apt-get install --simulate` of these five against bookworm and bookworm-security, 23 November 2026: the same
    packages of the driver and the kernel, and the same versions."""
    of_the_driver = """dkms firmware-nvidia-gsp glx-alternative-mesa glx-alternative-nvidia glx-diversions libcuda1
        libnvidia-cfg1 libnvidia-ml1 libnvidia-pkcs11-openssl3 libnvidia-ptxjitcompiler1 linux-compiler-gcc-12-x86
        linux-headers-6.1.0-56-amd64 linux-headers-6.1.0-56-common linux-headers-amd64 linux-kbuild-6.1
        nvidia-alternative nvidia-installer-cleanup nvidia-kernel-common nvidia-kernel-dkms nvidia-kernel-support
        nvidia-legacy-check nvidia-modprobe nvidia-persistenced nvidia-smi nvidia-support update-glx"""
    versions = bookworm.would_install(*DEBIAN_WANTED)
    # NVIDIA's repository would win, as on Ubuntu: here it is only looked at without it.
    assert versions["nvidia-smi"] == "610.57-1"
    bookworm.pin_nvidia_away()
    versions = bookworm.would_install(*DEBIAN_WANTED)
    assert set(versions) == set(of_the_driver.split())
    assert versions["nvidia-smi"] == versions["nvidia-kernel-dkms"] == "535.309.01-0+deb12u1"
    assert versions["nvidia-persistenced"] == "535.171.04-1~deb12u1"
    assert versions["linux-headers-amd64"] == "6.1.192-2"


def test_debians_new_kernel_can_come_before_its_headers(bookworm: Apt) -> None:
    bookworm.pin_nvidia_away()
    bookworm.pretend_installed(bookworm.would_install("linux-image-amd64", *DEBIAN_WANTED))
    image, headers = (f"linux-{part}-{debian.NEWER_KERNEL.release}" for part in ("image", "headers"))
    bookworm.switch("kernel")
    assert {image, headers} <= set(bookworm.would("dist-upgrade"))
    bookworm.switch("kernel-without-modules")
    new = bookworm.would("dist-upgrade")
    assert image in new
    assert headers not in new


def test_debians_security_updates_bring_a_newer_driver(bookworm: Apt) -> None:
    bookworm.pin_nvidia_away()
    bookworm.pretend_installed(bookworm.would_install("linux-image-amd64", *DEBIAN_WANTED))
    bookworm.switch("driver")
    new = bookworm.would("dist-upgrade")
    assert new["libnvidia-ml1"] == new["nvidia-kernel-dkms"] == debian.NEWER_DRIVER


def test_dkms_builds_for_kernels_with_headers_only(tmp_path: Path) -> None:
    """The stub's own book-keeping, moved into a directory; words of `dkms status` are those of dkms 3.0."""
    [package] = [row for row in debian.tools() if row.name == "dkms"]
    script = package.files["usr/sbin/dkms"].content.decode()
    for directory in ("/var/lib/dkms", "/usr/lib/flexi-lab", "/lib/modules", "/usr/src"):
        script = script.replace(f'"{directory}', f'"{tmp_path}{directory}').replace(
            f"={directory}", f"={tmp_path}{directory}"
        )

    def dkms(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["sh", "-c", script, "dkms", *arguments], capture_output=True, text=True, check=False)

    (tmp_path / "lib/modules/6.1.0-56-amd64/build/include").mkdir(parents=True)
    (tmp_path / "usr/src/nvidia-current-535.309.01").mkdir(parents=True)
    (tmp_path / "usr/src/nvidia-current-535.309.01/nvidia-current.ko").touch()
    assert dkms("add", "-m", "nvidia-current", "-v", "535.309.01").returncode == 0
    assert dkms("status").stdout == "nvidia-current/535.309.01: added\n"
    assert dkms("autoinstall", "--kernelver", "6.1.0-60-amd64").returncode == 1
    assert dkms("autoinstall", "--kernelver", "6.1.0-56-amd64").returncode == 0
    assert dkms("status").stdout == "nvidia-current/535.309.01, 6.1.0-56-amd64, x86_64: installed\n"
    built = tmp_path / "usr/lib/flexi-lab/modules/6.1.0-56-amd64/nvidia-current.json"
    assert json.loads(built.read_text()) == {"version": "535.309.01"}
    assert (tmp_path / "lib/modules/6.1.0-56-amd64/updates/dkms/nvidia-current.ko").exists()
    assert dkms("remove", "-m", "nvidia-current", "-v", "535.309.01", "--all").returncode == 0
    assert not built.exists()
    assert dkms("status").stdout == ""


# -- the repositories themselves ----------------------------------------------------------------------------------


def test_a_host_follows_the_archive_there_and_back(apt: Apt) -> None:
    """Every day is signed by the same keys, and none is older than another in apt's eyes."""
    for name in (*archives.DAYS, archives.TODAY):
        apt.switch(name)
    assert apt.would_install(*WANTED)["nvidia-utils-535-server"] == "535.309.01-0ubuntu0.22.04.1"


def test_two_packages_that_differ_cannot_share_a_name(tmp_path: Path) -> None:
    days = {"a": [Stub("x", "1", "jammy")], "b": [Stub("x", "1", "jammy", depends=("y",))]}
    with pytest.raises(ValueError, match=r"x_1_amd64\.deb"):
        repository.build_repositories(days, tmp_path)


def test_a_changed_archive_is_refused(repositories: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(repositories, copy, symlinks=True)
    release = copy / "archives/today/ubuntu/dists/jammy/InRelease"
    release.write_text(release.read_text().replace("Origin: Ubuntu", "Origin: Other"))
    (tmp_path / "a").mkdir()
    with pytest.raises(AssertionError, match=r"(?i)signature"):
        Apt(tmp_path / "a", copy)


def test_dpkg_reads_the_package_and_the_same_row_gives_the_same_bytes(tmp_path: Path) -> None:
    row = next(row for row in debian.driver(debian.DRIVER, debian.MAIN) if row.name == "nvidia-smi")
    (tmp_path / "x.deb").write_bytes(build(row))
    assert build(row) == (tmp_path / "x.deb").read_bytes()

    def dpkg(*arguments: str) -> str:
        return subprocess.run(["dpkg-deb", *arguments], capture_output=True, text=True, check=True).stdout

    assert dpkg("--field", str(tmp_path / "x.deb"), "Package", "Section").split() == [
        "Package:",
        "nvidia-smi",
        "Section:",
        "non-free/utils",
    ]
    modes = {line.split()[-1]: line.split()[:2] for line in dpkg("--contents", str(tmp_path / "x.deb")).splitlines()}
    assert modes == {
        "./": ["drwxr-xr-x", "root/root"],
        "./usr/": ["drwxr-xr-x", "root/root"],
        "./usr/bin/": ["drwxr-xr-x", "root/root"],
        "./usr/bin/nvidia-smi": ["-rwxr-xr-x", "root/root"],
    }
    dpkg("--extract", str(tmp_path / "x.deb"), str(tmp_path))
    assert (tmp_path / "usr/bin/nvidia-smi").read_bytes() == row.files["usr/bin/nvidia-smi"].content


@pytest.mark.skipif(shutil.which("modinfo") is None, reason="needs modinfo (kmod)")
def test_modinfo_reads_the_modules(tmp_path: Path) -> None:
    (tmp_path / "nvidia.ko").write_bytes(module_file("5.15.0-186-generic", "535.309.01").content)
    for field, value in {"version": "535.309.01", "vermagic": "5.15.0-186-generic SMP mod_unload"}.items():
        command = ["modinfo", "-F", field, str(tmp_path / "nvidia.ko")]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == value


def test_the_content_hash_sees_every_part() -> None:
    row = Stub("a", "1", "jammy")
    hashes = {
        repository.content_hash({day: rows})
        for day, rows in (
            ("b", [row]),
            ("a", [row]),
            ("a", [Stub("a", "2", "jammy")]),
            ("a", [Stub("a", "1", "ubuntu2204")]),
            ("a", [Stub("a", "1", "jammy", depends=("b",))]),
            ("a", [Stub("a", "1", "jammy", scripts={"postinst": "true"})]),
        )
    }
    assert len(hashes) == 6


def test_packages_stand_in_their_component(repositories: Path) -> None:
    """As in the real archives: the kernel is free, the driver is not, and Debian's firmware has a place of its own."""
    for suite, component, name in (
        ("ubuntu/dists/jammy", "main", "linux-image-generic"),
        ("ubuntu/dists/jammy", "restricted", "nvidia-utils-535-server"),
        ("ubuntu/dists/jammy", "restricted", "linux-modules-nvidia-535-server-generic"),
        ("debian/dists/bookworm", "contrib", "nvidia-persistenced"),
        ("debian/dists/bookworm-security", "non-free", "nvidia-smi"),
        ("debian/dists/bookworm-security", "non-free-firmware", "firmware-nvidia-gsp"),
    ):
        for index in (repositories / "archives/today" / suite).glob("*/binary-amd64/Packages"):
            assert (f"Package: {name}\n" in index.read_text()) is (index.parts[-3] == component), (name, index)


def test_the_indexes_stand_where_apt_update_would_put_them(repositories: Path, tmp_path: Path) -> None:
    ubuntus = repository.UBUNTU
    repository.copy_indexes(repositories, ubuntus, ["jammy", "jammy-security"], "10.87.0.2/ubuntu", tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert "10.87.0.2_ubuntu_dists_jammy_InRelease" in names
    assert "10.87.0.2_ubuntu_dists_jammy_restricted_binary-amd64_Packages" in names
    assert "10.87.0.2_ubuntu_dists_jammy-security_main_binary-amd64_Packages" in names
