"""What a deploy sends of the admin's files, and what a proxy means to apt: the operations and apt itself."""

from __future__ import annotations

import hashlib
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.operation import add_op
from pyinfra.api.operations import run_ops
from support.bundle_parts import ARCHIVE, write_site
from support.fake_host import Fake
from support.release import Release

from flexi.bundle import manifest
from flexi.bundle.manifest import File, Manifest, Model
from flexi.configs.rendering import render
from flexi.facts.bundle import BundleFiles
from flexi.operations import bundle, ollama
from flexi.plan import build_plan
from flexi.plan.model.base import ProxyPlan
from flexi.plan.model.site import HostPlan
from flexi.site import load_site

BLOB, LIST = "models/blobs/sha256-ab", "models/manifests/registry.ollama.ai/library/llama3/8b"
SHA = {BLOB: "a" * 64, LIST: "b" * 64}


@pytest.fixture
def host(tmp_path: Path) -> HostPlan:
    """A host whose bundle holds one model."""
    made = Manifest(
        models={"llama3:8b": Model(LIST, (BLOB,))}, files={path: File(sha256, 100) for path, sha256 in SHA.items()}
    )
    (tmp_path / "bundle").mkdir()
    manifest.write(tmp_path / "bundle", made)
    file = write_site(
        tmp_path / "x.yaml", "https://mirror.example.edu", "https://m.example.edu", ["llama3:8b"], ", bundle: ./bundle"
    )
    (plan,) = build_plan(load_site(file)).hosts
    return plan


def there(*lines: str, free_kib: int = 10_000) -> dict[str, object]:
    return {"df -Pk": [f"free {free_kib}", *lines]}


def whole(path: str, inode: int = 7) -> list[str]:
    return [f"arrived {SHA[path]} 100 {inode} {path}", f"file - 100 {inode} {path}"]


def predicted(host: HostPlan, responses: dict[str, object]) -> bool:
    """Whether a dry run says that something is to be sent or removed."""
    fake = Fake(responses)
    return add_op(fake.state, bundle.receive, host_plan=host, part="models", owner="ollama")[fake.host].will_change


def test_what_arrived_is_not_sent_again(host: HostPlan) -> None:
    assert not predicted(host, there(*whole(BLOB), *whole(LIST)))


@pytest.mark.parametrize(
    "lines",
    [
        [*whole(LIST)],
        [*whole(LIST), f"arrived {SHA[BLOB]} 100 7 {BLOB}", f"file - 100 8 {BLOB}"],
        [*whole(LIST), f"arrived {SHA[BLOB]} 100 7 {BLOB}", f"file - 99 7 {BLOB}"],
        [*whole(LIST), f"arrived {'c' * 64} 100 7 {BLOB}", f"file - 100 7 {BLOB}"],
        [*whole(LIST), f"file - 100 7 {BLOB}"],
        [*whole(LIST), *whole(BLOB), "file - 5 9 models/blobs/sha256-old"],
    ],
    ids=["missing", "another file", "shorter", "an older bundle's", "never arrived whole", "left over"],
)
def test_what_is_not_as_the_bundle_says_is_a_change(host: HostPlan, lines: list[str]) -> None:
    assert predicted(host, there(*lines))


def test_a_half_that_nothing_will_continue_is_removed(host: HostPlan) -> None:
    """Also by the packages' turn, which comes first; the half of a model waits for the models' turn."""
    halves = [f"file - 7 1 .incoming/{digest * 64}" for digest in "ac"]
    fake = Fake(there(*whole(BLOB), *whole(LIST), *halves))
    _, commands = fake.run(bundle.receive, host_plan=host, part="apt")
    (removed,) = [command for command in commands if "rm -f" in command]
    assert shlex.split(removed)[2] == f"cd /var/lib/flexi/bundle && rm -f -- .incoming/{'c' * 64}"
    assert not predicted(host, there(*whole(BLOB), *whole(LIST), halves[0]))


def test_the_last_arrival_counts() -> None:
    output = ["free 1", f"arrived {'c' * 64} 100 6 {BLOB}", *whole(BLOB)]
    assert BundleFiles().process(output).files == {BLOB: SHA[BLOB]}
    assert BundleFiles().process(output).free_bytes == 1024


def test_a_host_without_room_is_told_so_before_anything_is_sent(
    host: HostPlan, caplog: pytest.LogCaptureFixture
) -> None:
    fake = Fake(there(free_kib=0))
    add_op(fake.state, bundle.receive, host_plan=host, part="models")
    with pytest.raises(PyinfraError):
        run_ops(fake.state)
    assert "needs 200 bytes and has 0 bytes free: make room" in caplog.text


needs_tools = pytest.mark.skipif(
    not all(map(shutil.which, ("zstd", "curl"))), reason="needs the zstd and curl commands, as the hosts have them"
)


@needs_tools
def test_an_archive_that_was_brought_is_unpacked_without_a_download(tmp_path: Path) -> None:
    published, root = Release(tmp_path / "published"), tmp_path / "opt-ollama"
    plan = published.plan()
    (root / ".download").mkdir(parents=True)
    brought = root / f".download/ollama-{plan.version}.tar.zst"
    shutil.move(published.archive, brought)
    script = ollama.unpack_script(plan, published.sha256, str(root))
    assert "curl" not in script
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (root / plan.version / ".archive-sha256").read_text().strip() == published.sha256
    brought.write_bytes(b"another")
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "nothing was switched" in done.stderr


@pytest.mark.parametrize("unpacked", [True, False])
def test_a_local_archive_is_sent_where_it_is_not_unpacked(tmp_path: Path, unpacked: bool) -> None:
    digest = hashlib.sha256(ARCHIVE).hexdigest()
    (tmp_path / "own.tar.zst").write_bytes(ARCHIVE)
    file = write_site(tmp_path / "x.yaml", "./own.tar.zst", "https://m.example.edu")
    file.write_text(f"{file.read_text()}ollama: {{sha256: {digest}}}\n")
    (plan,) = build_plan(load_site(file)).hosts
    assert plan.ollama is not None
    have = [f"/opt/ollama/{plan.ollama.version}/.archive-sha256 {digest if unpacked else 'c' * 64}", "current "]
    fake = Fake({"readlink": have})
    assert add_op(fake.state, ollama.unpack_release, ollama=plan.ollama)[fake.host].will_change is not unpacked


@pytest.mark.skipif(shutil.which("apt-config") is None, reason="needs apt, as Debian and Ubuntu have it")
def test_apt_reads_the_proxy_as_it_is_meant(tmp_path: Path) -> None:
    proxy = ProxyPlan(
        https="http://proxy.example.edu:3128",
        http=None,
        direct=("::1", "10.0.0.0/8", "mirror.example.edu", "192.0.2.1"),
    )
    file = tmp_path / "proxy.conf"
    file.write_text(render("base/apt-proxy.conf.j2", settings=proxy.apt))
    done = subprocess.run(
        ["apt-config", "dump", "--format", "%f=%v%n", "Acquire"],
        env={"PATH": "/usr/bin:/bin", "APT_CONFIG": str(file)},
        capture_output=True,
        text=True,
        check=True,
    )
    read = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    assert read["Acquire::https::Proxy"] == "http://proxy.example.edu:3128"
    for scheme in ("http", "https"):
        for name in ("mirror.example.edu", "192.0.2.1"):
            assert read[f"Acquire::{scheme}::Proxy::{name}"] == "DIRECT"
    assert not any("10.0.0.0" in name or name.endswith("::1") for name in read)
