"""An apt repository with pgvector for a machine of the lab, as a site takes it from PostgreSQL's own archive.

Neither Debian 12 nor Ubuntu 22.04 has the package. It is built from Debian 13's source for the PostgreSQL of the
machines, with this computer's compiler, and lies on the machine itself: apt takes it from there.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from lab_site import Site, run

from flexi.lab import cache, image
from flexi.lab.vendor.stub import File, Stub, build

SOURCE_SUITE = "trixie"
SERVER = "15"
"""PostgreSQL of Debian 12, which the lab's machines take their packages from, whatever they call themselves."""
REPOSITORY = "/srv/pgvector"
LIST = "/etc/apt/sources.list.d/pgvector.list"


def _extension() -> Path:
    """Directory with `vector.so` and the extension's texts, made once."""
    suite, sources = image.host_sources()
    return cache.entry("pgvector", f"{suite}-{SOURCE_SUITE}-{SERVER}", lambda path: _compile(path, sources))


def _compile(target: Path, sources: str) -> None:
    if shutil.which("gcc") is None:
        pytest.fail("pgvector is built with gcc: apt-get install gcc libc6-dev")
    apt = _apt(target, sources)
    _do([*apt, "update"])
    _do([*apt, "source", "--download-only", "pgvector"], target)
    _do(["apt-get", "download", f"postgresql-server-dev-{SERVER}"], target)
    (headers,) = target.glob("postgresql-server-dev-*.deb")
    _do(["dpkg", "-x", str(headers), str(target / "dev")])
    (archive,) = target.glob("pgvector_*.orig.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(target, filter="data")
    (source,) = target.glob("pgvector-*/")
    options = ["-O2", "-fPIC", "-shared", "-ftree-vectorize", "-fno-signed-zeros", "-fno-trapping-math"]
    include = f"-I{target}/dev/usr/include/postgresql/{SERVER}/server"
    code = [str(path) for path in sorted((source / "src").glob("*.c"))]
    _do(["gcc", *options, include, "-o", str(target / "vector.so"), *code])
    version = source.name.removeprefix("pgvector-")
    shutil.copy(source / "sql/vector.sql", target / f"vector--{version}.sql")
    shutil.copy(source / "vector.control", target)
    for path in (*target.glob("*.deb"), *target.glob("pgvector*"), target / "dev", target / "apt"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _apt(target: Path, sources: str) -> list[str]:
    """apt-get for the sources of another suite of this computer's own archive, with a state of its own."""
    folder = target / "apt"
    for name in ("lists/partial", "cache/archives/partial", "parts"):
        (folder / name).mkdir(parents=True)
    stanza = next(part for part in sources.split("\n\n") if "-security" not in part)
    lines = [line for line in stanza.splitlines() if not line.startswith(("Types:", "Suites:", "Components:"))]
    wanted = ["Types: deb-src", f"Suites: {SOURCE_SUITE}", "Components: main", *lines]
    (folder / "parts/source.sources").write_text("\n".join(wanted) + "\n")
    places = {"Etc::SourceList": "/dev/null", "Etc::SourceParts": f"{folder}/parts", "State::Lists": f"{folder}/lists"}
    places["Cache"] = f"{folder}/cache"
    return ["apt-get", "-q", *(f"-oDir::{name}={place}" for name, place in places.items())]


def _do(command: Sequence[str], folder: Path | None = None) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def _packages(server: str) -> list[Stub]:
    """`server` is the name of PostgreSQL's package on the machine's platform; it brings the lab's."""
    texts = _extension()
    files = {f"usr/lib/postgresql/{SERVER}/lib/vector.so": File((texts / "vector.so").read_bytes())}
    for path in (*texts.glob("*.sql"), *texts.glob("*.control")):
        files[f"usr/share/postgresql/{SERVER}/extension/{path.name}"] = File(path.read_bytes())
    real = f"postgresql-{SERVER}"
    found = [Stub(f"{server}-pgvector", "0.8.0-1", "pgdg", (real,), files=files)]
    if server != real:
        found.append(Stub(server, "15", "pgdg", (real,)))
    return found


@contextmanager
def offered(site: Site, host: str, server: str, tmp_path: Path) -> Iterator[None]:
    """`host` has it for apt; afterwards nothing of a database is left there."""
    folder = tmp_path / "pgvector"
    folder.mkdir()
    for package in _packages(server):
        (folder / package.file_name).write_bytes(build(package))
    index = subprocess.run(["apt-ftparchive", "packages", "."], cwd=folder, capture_output=True, check=True).stdout
    (folder / "Packages").write_bytes(index)
    address = site.plan.host(host).name
    packed = tmp_path / "pgvector.tar"
    with tarfile.open(packed, "w") as tar:
        tar.add(folder, arcname=".")
    copied = run(["scp", "-q", "-F", str(site.lab.ssh_config), str(packed), f"{address}:/tmp/pgvector.tar"])
    assert copied.status == 0, copied.text
    line = f"deb [trusted=yes] file:{REPOSITORY} ./"
    there = f"mkdir -p {REPOSITORY} && tar xf /tmp/pgvector.tar -C {REPOSITORY} && echo '{line}' >{LIST}"
    done = site.ssh(host, f'sudo sh -c "{there} && chmod -R a+rX {REPOSITORY}"')
    assert done.status == 0, done.text
    try:
        yield
    finally:
        gone = (
            f"rm -rf {REPOSITORY} {LIST}; DEBIAN_FRONTEND=noninteractive apt-get -y -q purge "
            "'postgresql*' 'redis*'; rm -rf /etc/systemd/system/postgresql@.service.d /var/lib/postgresql; "
            "rm -f /etc/systemd/system/flexi-chat-redis.service; systemctl daemon-reload"
        )
        site.ssh(host, f'sudo sh -c "{gone}"', timeout_s=300)
