"""Signed apt repositories of the stub packages, built once for each content of the table.

Needs dpkg-deb, apt-ftparchive and gpg. Layout of the result, as the services namespace serves it:

    ubuntu/dists/<pocket>/…, ubuntu/pool/…, ubuntu/keyring.gpg
    cuda/ubuntu2204/x86_64/{Packages,Release,InRelease,Release.gpg,3bf863cc.pub,*.deb}
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from .stub import EPOCH, Stub, build

POCKETS = ("jammy", "jammy-security")
CUDA_PATH = "cuda/ubuntu2204/x86_64"
CUDA_KEY = "3bf863cc.pub"
KEYRING = "ubuntu/keyring.gpg"


def content_hash(stubs: Iterable[Stub]) -> str:
    """Changes with everything that is in the repositories, and with the code that builds them."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for stub in stubs:
        digest.update(repr((stub.pocket, stub.control(), sorted(stub.scripts.items()))).encode())
        for name, file in sorted(stub.files.items()):
            digest.update(repr((name, file.mode)).encode() + hashlib.sha256(file.content).digest())
    return digest.hexdigest()[:16]


def build_repositories(stubs: Iterable[Stub], target: Path) -> None:
    """Write both repositories below `target`, signed by keys that are thrown away afterwards."""
    with tempfile.TemporaryDirectory(dir=target) as scratch:
        rows = list(stubs)
        cuda = target / CUDA_PATH
        for directory in (cuda, *(target / "ubuntu/pool" / pocket for pocket in POCKETS)):
            directory.mkdir(parents=True)
        for number, stub in enumerate(rows):
            build(stub, Path(scratch) / str(number), _directory(target, stub))
        ubuntu_key = _Key(Path(scratch) / "ubuntu-key", "Ubuntu archive (flexi lab)")
        for pocket in POCKETS:
            _ubuntu_pocket(target / "ubuntu", pocket, ubuntu_key)
        (target / KEYRING).write_bytes(ubuntu_key.public(armour=False))
        cuda_key = _Key(Path(scratch) / "cuda-key", "cudatools (flexi lab)")
        _index(cuda, cuda, ".")
        _release(cuda, {"Origin": "NVIDIA", "Label": "NVIDIA CUDA"}, cuda_key)
        (cuda / CUDA_KEY).write_bytes(cuda_key.public(armour=True))


def _directory(target: Path, stub: Stub) -> Path:
    return target / (CUDA_PATH if stub.pocket == "cuda" else f"ubuntu/pool/{stub.pocket}")


def _ubuntu_pocket(root: Path, pocket: str, key: _Key) -> None:
    dist = root / "dists" / pocket
    index = dist / "main/binary-amd64"
    index.mkdir(parents=True)
    _index(root, index, f"pool/{pocket}")
    fields = {
        "Origin": "Ubuntu",
        "Label": "Ubuntu",
        "Suite": pocket,
        "Codename": "jammy",
        "Version": "22.04",
        "Architectures": "amd64",
        "Components": "main",
    }
    _release(dist, fields, key)


def _index(root: Path, where: Path, packages: str) -> None:
    """Packages and Packages.gz in `where`; file names in it are relative to `root`."""
    text = subprocess.run(["apt-ftparchive", "packages", packages], cwd=root, stdout=subprocess.PIPE, check=True).stdout
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
        exported = self._gpg(*(["--armor"] if armour else []), "--export")
        # gpg's agent would stay behind for good.
        subprocess.run(["gpgconf", "--homedir", str(self._home), "--kill", "all"], check=True)
        return exported

    def _gpg(self, *arguments: str) -> bytes:
        command = ["gpg", "--homedir", str(self._home), "--batch", "--quiet", "--no-tty", *arguments]
        return subprocess.run(command, capture_output=True, check=True).stdout


def copy_indexes(repositories: Path, address: str, lists: Path) -> None:
    """Put the Ubuntu indexes into a machine's apt lists, named as `apt-get update` from `address` would."""
    for pocket in POCKETS:
        dist = repositories / "ubuntu/dists" / pocket
        prefix = f"{address}_ubuntu_dists_{pocket}_"
        shutil.copyfile(dist / "InRelease", lists / f"{prefix}InRelease")
        shutil.copyfile(dist / "main/binary-amd64/Packages", lists / f"{prefix}main_binary-amd64_Packages")
