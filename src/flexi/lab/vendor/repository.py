"""Signed apt repositories of the stub packages, built once for each content of the tables.

Needs apt-ftparchive and gpg. Layout of the result:

    archives/<name>/<distribution>/dists/<suite>/…     that day's indexes
    archives/<name>/<distribution>/pool -> …           every day's packages
    cuda/<platform>/x86_64/{Packages,Release,InRelease,Release.gpg,3bf863cc.pub,*.deb}
    keys/<distribution>.gpg

The same keys sign all days, so that a machine which runs follows its archive from one to the next.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .archives import TODAY
from .stub import EPOCH, Stub, build

ARCHIVES = "archives"
PACKAGES = "packages"
CUDA_KEY = "3bf863cc.pub"


@dataclass(frozen=True)
class Suite:
    """What a suite's Release file says of it."""

    suite: str
    codename: str
    version: str
    label: str


@dataclass(frozen=True)
class Distribution:
    """A vendor's archive of releases; `suites` by the name of their directory."""

    name: str
    origin: str
    components: tuple[str, ...]
    suites: Mapping[str, Suite]

    @property
    def keyring(self) -> str:
        return f"keys/{self.name}.gpg"


def _ubuntu_suites(codename: str, version: str) -> dict[str, Suite]:
    return {
        name: Suite(name, codename, version, "Ubuntu")
        for name in (codename, f"{codename}-updates", f"{codename}-security")
    }


UBUNTU = Distribution(
    "ubuntu",
    "Ubuntu",
    ("main", "restricted", "universe", "multiverse"),
    {**_ubuntu_suites("jammy", "22.04"), **_ubuntu_suites("noble", "24.04")},
)
# As in the Release files of November 2026.
DEBIAN = Distribution(
    "debian",
    "Debian",
    ("main", "contrib", "non-free", "non-free-firmware"),
    {
        "bookworm": Suite("oldstable", "bookworm", "12.15", "Debian"),
        "bookworm-updates": Suite("oldstable-updates", "bookworm-updates", "12-updates", "Debian"),
        "bookworm-security": Suite("oldstable-security", "bookworm-security", "12", "Debian-Security"),
    },
)
DISTRIBUTIONS = (UBUNTU, DEBIAN)


def cuda_path(platform: str) -> str:
    """Where NVIDIA's repository for a platform (`ubuntu2204`) is, as on developer.download.nvidia.com."""
    return f"cuda/{platform}/x86_64"


def content_hash(days: Mapping[str, Iterable[Stub]]) -> str:
    """Changes with everything that is in the repositories, and with the code that builds them."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for day, stubs in days.items():
        digest.update(day.encode())
        for stub in stubs:
            digest.update(repr((stub.pocket, stub.control(), sorted(stub.scripts.items()))).encode())
            for name, file in sorted(stub.files.items()):
                digest.update(repr((name, file.mode)).encode() + hashlib.sha256(file.content).digest())
    return digest.hexdigest()[:16]


def build_repositories(days: Mapping[str, Sequence[Stub]], target: Path) -> None:
    """Write the archives of all `days` below `target`, signed by keys that are thrown away afterwards.

    What NVIDIA's repositories hold must be the same on every day.
    """
    suites = {suite for distribution in DISTRIBUTIONS for suite in distribution.suites}
    every = _different(stub for stubs in days.values() for stub in stubs)
    with tempfile.TemporaryDirectory(dir=target) as scratch:
        for directory in {str(Path(path).parent) for path in every}:
            (target / directory).mkdir(parents=True)
        for path, stub in every.items():
            (target / path).write_bytes(build(stub))
        (target / "keys").mkdir()
        for distribution in DISTRIBUTIONS:
            key = _Key(Path(scratch) / f"{distribution.name}-key", f"{distribution.origin} archive (flexi lab)")
            index = _paragraphs(target / PACKAGES / distribution.name, "pool")
            written: dict[tuple[str, ...], Path] = {}
            for day, stubs in days.items():
                root = target / ARCHIVES / day / distribution.name
                root.mkdir(parents=True)
                (root / "pool").symlink_to(Path("../../..") / PACKAGES / distribution.name / "pool")
                (root / "dists").mkdir()
                for suite in distribution.suites:
                    rows = [stub for stub in stubs if stub.pocket == suite]
                    dist = root / "dists" / suite
                    # Most suites are the same on most days, and signing takes long.
                    same = written.setdefault((suite, *sorted(map(deb_path, rows))), dist)
                    if same == dist:
                        _suite(distribution, suite, rows, index, dist, key)
                    else:
                        dist.symlink_to(os.path.relpath(same, dist.parent))
            (target / distribution.keyring).write_bytes(key.public(armour=False))
        key = _Key(Path(scratch) / "cuda-key", "cudatools (flexi lab)")
        flat = [target / cuda_path(name) for name in sorted({stub.pocket for stub in every.values()} - suites)]
        for where in flat:
            _write_index(where, b"".join(_paragraphs(where, ".").values()))
            _release(where, {"Origin": "NVIDIA", "Label": "NVIDIA CUDA"}, key)
        public = key.public(armour=True)
        for where in flat:
            (where / CUDA_KEY).write_bytes(public)


def deb_path(stub: Stub) -> str:
    """Where the package lies in the repositories, once for all days."""
    for distribution in DISTRIBUTIONS:
        if stub.pocket in distribution.suites:
            return f"{PACKAGES}/{distribution.name}/pool/{stub.pocket}/{stub.file_name}"
    return f"{cuda_path(stub.pocket)}/{stub.file_name}"


def _different(stubs: Iterable[Stub]) -> dict[str, Stub]:
    """Each package once, by its place; ValueError where two that differ have one."""
    found: dict[str, Stub] = {}
    for stub in stubs:
        path = deb_path(stub)
        if found.setdefault(path, stub) != stub:
            raise ValueError(f"two different packages are called {path}")
    return found


def _suite(
    distribution: Distribution, suite: str, stubs: Sequence[Stub], index: Mapping[str, bytes], dist: Path, key: _Key
) -> None:
    for component in distribution.components:
        directory = dist / component / "binary-amd64"
        directory.mkdir(parents=True)
        names = [f"pool/{suite}/{stub.file_name}" for stub in stubs if stub.component == component]
        _write_index(directory, b"".join(index[name] for name in sorted(names)))
    said = distribution.suites[suite]
    fields = {
        "Origin": distribution.origin,
        "Label": said.label,
        "Suite": said.suite,
        "Codename": said.codename,
        "Version": said.version,
        "Architectures": "amd64",
        "Components": " ".join(distribution.components),
    }
    _release(dist, fields, key)


def _paragraphs(root: Path, packages: str) -> dict[str, bytes]:
    """What an index says of each package below `root`/`packages`, by the file name that it gives."""
    text = subprocess.run(["apt-ftparchive", "packages", packages], cwd=root, stdout=subprocess.PIPE, check=True).stdout
    return dict(_named(text))


def _named(text: bytes) -> Iterator[tuple[str, bytes]]:
    for paragraph in text.split(b"\n\n"):
        for line in paragraph.splitlines():
            if line.startswith(b"Filename: "):
                yield line.removeprefix(b"Filename: ").decode(), paragraph.strip(b"\n") + b"\n\n"


def _write_index(where: Path, text: bytes) -> None:
    (where / "Packages").write_bytes(text)
    (where / "Packages.gz").write_bytes(gzip.compress(text, mtime=0))


def _release(directory: Path, fields: dict[str, str], key: _Key) -> None:
    options = [f"-oAPT::FTPArchive::Release::{name}={value}" for name, value in fields.items()]
    text = subprocess.run(
        ["apt-ftparchive", *options, "release", "."],
        cwd=directory,
        stdout=subprocess.PIPE,
        env=os.environ | {"SOURCE_DATE_EPOCH": EPOCH},
        check=True,
    ).stdout
    (directory / "Release").write_bytes(text)
    key.sign("--clear-sign", directory / "Release", directory / "InRelease")
    key.sign("--detach-sign", directory / "Release", directory / "Release.gpg")


class _Key:
    """A signing key that lives as long as its directory."""

    def __init__(self, home: Path, owner: str) -> None:
        home.mkdir(mode=0o700)
        self._home = home
        self._gpg("--passphrase", "", "--quick-generate-key", owner, "ed25519", "sign", "never")

    def sign(self, how: str, source: Path, target: Path) -> None:
        self._gpg("--armor", how, "--output", str(target), str(source))

    def public(self, armour: bool) -> bytes:
        """The public key, once nothing is left to sign."""
        exported = self._gpg(*(["--armor"] if armour else []), "--export")
        # gpg's agent would stay behind for good.
        subprocess.run(["gpgconf", "--homedir", str(self._home), "--kill", "all"], check=True)
        return exported

    def _gpg(self, *arguments: str) -> bytes:
        command = ["gpg", "--homedir", str(self._home), "--batch", "--quiet", "--no-tty", *arguments]
        return subprocess.run(command, capture_output=True, check=True).stdout


def copy_indexes(repositories: Path, distribution: Distribution, suites: Iterable[str], base: str, lists: Path) -> None:
    """Put today's indexes into a machine's apt lists, named as `apt-get update` would, which writes the address
    `base` (without `http://`) with underscores."""
    prefix = base.replace("/", "_")
    for suite in suites:
        dist = repositories / ARCHIVES / TODAY / distribution.name / "dists" / suite
        shutil.copyfile(dist / "InRelease", lists / f"{prefix}_dists_{suite}_InRelease")
        for component in distribution.components:
            packages = dist / component / "binary-amd64/Packages"
            shutil.copyfile(packages, lists / f"{prefix}_dists_{suite}_{component}_binary-amd64_Packages")
