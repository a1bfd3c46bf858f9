"""`flexi bundle`: complete, continued after cuts and kills; a wrong one is refused before any host is touched."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.bundle_parts import ARCHIVE, MODELS, VERSION, Mirror, bars, bundle, write_site

from flexi.bundle import command as bundling
from flexi.bundle import download, make, manifest
from flexi.bundle.checking import check
from flexi.cli.site import check_for_programs
from flexi.errors import FlexiError, InputError
from flexi.lab.ollama_sim.registry import Faults, Registry, serve
from flexi.plan import build_plan
from flexi.site import load_site

LIBRARY = "models/manifests/registry.ollama.ai/library"


@pytest.fixture
def registry() -> Iterator[Registry]:
    running = serve("127.0.0.1", 0, MODELS)
    yield running
    running.close()


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    running = Mirror(tmp_path / "www")
    yield running
    running.close()


@pytest.fixture
def site_file(tmp_path: Path, mirror: Mirror, registry: Registry) -> Path:
    return write_site(tmp_path / "test.yaml", mirror.url, registry.url)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses between tries."""
    monkeypatch.setattr(download, "_PAUSE_S", 0.0)


def weights(registry: Registry, name: str = "llama3:8b") -> tuple[str, int]:
    """Digest and size of a model's weights, as the registry's own manifest says them."""
    data = registry.manifest(*name.split(":"))
    assert data is not None
    layer = json.loads(data)["layers"][0]
    return layer["digest"].removeprefix("sha256:"), layer["size"]


def test_it_holds_what_the_plan_needs_as_ollama_lays_it_out(
    site_file: Path, tmp_path: Path, registry: Registry
) -> None:
    """The layout of Ollama's models directory: types/model/name.go Filepath, manifest/paths.go BlobsPath (v0.24.0)."""
    folder = tmp_path / "bundle"
    bundle(site_file, folder)
    assert (folder / f"ollama/v{VERSION}/ollama-linux-amd64.tar.zst").read_bytes() == ARCHIVE
    for name in MODELS:
        model, tag = name.split(":")
        data = (folder / LIBRARY / model / tag).read_bytes()
        assert data == registry.manifest(model, tag), "its digest is the model's in /api/tags"
        document = json.loads(data)
        for layer in (*document["layers"], document["config"]):
            blob = (folder / "models/blobs" / layer["digest"].replace(":", "-")).read_bytes()
            assert f"sha256:{hashlib.sha256(blob).hexdigest()}" == layer["digest"]
    assert subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=folder, check=False).returncode == 0


def test_a_second_run_asks_nobody(site_file: Path, tmp_path: Path, mirror: Mirror, registry: Registry) -> None:
    first = bundle(site_file, tmp_path / "bundle")
    assert first.fetched_files > 0
    registry.faults = Faults(missing=tuple(MODELS))
    mirror.archive.unlink()
    second = bundle(site_file, tmp_path / "bundle")
    assert second.fetched_files == 0
    assert (second.files, second.bytes) == (first.files, first.bytes)


def test_cut_connections_are_continued(site_file: Path, tmp_path: Path, registry: Registry, quick: None) -> None:
    registry.faults = Faults(cut_after_bytes=100_000, cut_times=15)
    summary = bundle(site_file, tmp_path / "bundle")
    digest, size = weights(registry)
    assert hashlib.sha256((tmp_path / f"bundle/models/blobs/sha256-{digest}").read_bytes()).hexdigest() == digest
    assert summary.fetched_bytes < 3 * size + len(ARCHIVE), "each cut began anew"


def test_a_line_that_brings_nothing_is_given_up_in_words(
    site_file: Path, tmp_path: Path, registry: Registry, quick: None
) -> None:
    registry.faults = Faults(cut_after_bytes=0)
    with pytest.raises(FlexiError, match=r"the connection was cut\. What is there stays"):
        bundle(site_file, tmp_path / "bundle")


def test_a_wrong_digest_is_thrown_away(site_file: Path, tmp_path: Path, registry: Registry, quick: None) -> None:
    registry.faults = Faults(wrong_digest=("llama3:8b",))
    digest, _ = weights(registry)
    with pytest.raises(FlexiError, match=f"wanted {digest}: it was thrown away"):
        bundle(site_file, tmp_path / "bundle")
    blobs = tmp_path / "bundle/models/blobs"
    assert not (blobs / f"sha256-{digest}").exists()
    assert not (blobs / f"sha256-{digest}.part").exists()
    registry.faults = Faults()
    bundle(site_file, tmp_path / "bundle")
    assert (blobs / f"sha256-{digest}").exists()


def test_a_half_file_of_another_day_is_fetched_anew(site_file: Path, tmp_path: Path, registry: Registry) -> None:
    digest, _ = weights(registry)
    half = tmp_path / f"bundle/models/blobs/sha256-{digest}.part"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"rubbish")
    bundle(site_file, tmp_path / "bundle")
    assert half.with_suffix("").exists()


def test_a_model_that_the_registry_lacks_is_named(site_file: Path, tmp_path: Path, registry: Registry) -> None:
    registry.faults = Faults(missing=("mistral:7b",))
    with pytest.raises(FlexiError, match="has no model mistral:7b"):
        bundle(site_file, tmp_path / "bundle")


def test_a_killed_run_is_continued(site_file: Path, tmp_path: Path, registry: Registry) -> None:
    """kill -9 in the middle of a download: what had come is not asked for again."""
    registry.faults = Faults(bytes_per_second=400_000)
    folder = tmp_path / "bundle"
    command = [sys.executable, "-m", "flexi", "bundle", str(site_file), "--to", str(folder), "--only", "models"]
    parts = [folder / f"models/blobs/sha256-{weights(registry, name)[0]}.part" for name in MODELS]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        deadline = time.monotonic() + 30
        while not all(part.exists() and part.stat().st_size > 50_000 for part in parts):
            assert time.monotonic() < deadline
            assert run.poll() is None
            time.sleep(0.01)
        os.kill(run.pid, signal.SIGKILL)
    came = sum(part.stat().st_size for part in parts)
    registry.faults = Faults()
    summary = bundle(site_file, folder, ("models",))
    assert summary.fetched_bytes <= summary.bytes - came
    assert subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=folder, check=False).returncode == 0


def test_what_was_changed_is_found_and_fetched_anew(site_file: Path, tmp_path: Path, registry: Registry) -> None:
    folder = tmp_path / "bundle"
    bundle(site_file, folder)
    digest, _ = weights(registry)
    blob = folder / f"models/blobs/sha256-{digest}"
    data = blob.read_bytes()
    before = blob.stat()
    blob.write_bytes(data[:-1] + b"?")
    os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a worn disk would do it
    summary = bundle(site_file, folder)
    assert summary.mended == [f"models/blobs/sha256-{digest}"]
    assert blob.read_bytes() == data
    assert summary.fetched_files == 1


def test_a_full_disk_is_said_before_anything_is_fetched(
    site_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(make.shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(FlexiError, match=r"needs 2\.\d MB more and has 1\.0 MB free: nothing was fetched"):
        bundle(site_file, tmp_path / "bundle")
    assert not list((tmp_path / "bundle").rglob("*.part"))


def test_two_runs_at_once_are_refused(site_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    with make._locked(folder), pytest.raises(InputError, match="another flexi bundle"):
        bundle(site_file, folder)


def test_a_pinned_digest_that_the_mirror_does_not_have(site_file: Path, tmp_path: Path, quick: None) -> None:
    site_file.write_text(f"{site_file.read_text()}ollama: {{sha256: '{'ab' * 32}'}}\n")
    with pytest.raises(FlexiError, match=f"wanted {'ab' * 32}"):
        bundle(site_file, tmp_path / "bundle", ("ollama",))


# Deploying from it


@pytest.fixture
def deployable(tmp_path: Path, site_file: Path, mirror: Mirror, registry: Registry) -> Path:
    """A site file that takes its bundle, which lacks packages only."""
    bundle(site_file, tmp_path / "bundle")
    return write_site(tmp_path / "offline.yaml", mirror.url, registry.url, more=', bundle: "./bundle"')


def refused(site_file: Path) -> str:
    with pytest.raises(InputError) as caught:
        check(build_plan(load_site(site_file)), "mysite", bars())
    return str(caught.value)


def test_what_a_bundle_was_not_made_for_is_named_with_the_command(deployable: Path) -> None:
    words = refused(deployable)
    assert "not made for packages of one (debian-12: " in words
    assert "llama3:8b" not in words
    assert f"./flexi bundle mysite --to {deployable.parent}/bundle" in words


def test_another_models_or_version_is_not_in_it(deployable: Path, tmp_path: Path) -> None:
    deployable.write_text(f"{deployable.read_text().replace('mistral:7b', 'gemma:7b')}ollama: {{version: 0.23.4}}\n")
    words = refused(deployable)
    assert "not made for model gemma:7b" in words
    assert "not made for Ollama 0.23.4" in words


@pytest.mark.parametrize("wrong", ["missing", "shorter", "changed"])
def test_a_file_that_is_not_as_it_was_made_is_named(deployable: Path, registry: Registry, wrong: str) -> None:
    digest, _ = weights(registry)
    blob = deployable.parent / f"bundle/models/blobs/sha256-{digest}"
    data = blob.read_bytes()
    if wrong == "missing":
        blob.unlink()
    else:
        blob.write_bytes(data[:-1] if wrong == "shorter" else data[:-1] + b"?")
    words = refused(deployable)
    assert f"models/blobs/sha256-{digest}" in words
    assert {"missing": "is missing", "shorter": "instead of", "changed": "has the SHA-256"}[wrong] in words


def called(site_file: Path, script: str) -> subprocess.CompletedProcess[str]:
    """The inventory as pyinfra reads it when `script` is to be run, in a process of its own."""
    command = [sys.executable, str(site_file.with_suffix(".py")), script]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("wrong", ["not made for it", "not a list"])
def test_a_wrong_bundle_ends_pyinfra_before_it_connects(deployable: Path, wrong: str) -> None:
    """The inventory itself refuses, so pyinfra called by hand does too."""
    if wrong == "not a list":
        (deployable.parent / "bundle" / manifest.NAME).write_text("{")
    done = called(deployable, "deploy.py")
    assert done.returncode == 2
    assert "./flexi bundle" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("script", ["rollback.py", "remove.py"])
def test_what_brings_nothing_needs_no_bundle(deployable: Path, script: str) -> None:
    shutil.rmtree(deployable.parent / "bundle")
    assert called(deployable, script).returncode == 0


def test_a_program_hears_of_a_wrong_bundle_too(deployable: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        check_for_programs(str(deployable))
    assert ended.value.code == 2
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    (finding,) = report["findings"]
    assert (finding["file"], finding["path"]) == (str(deployable), "mirrors.bundle")
    assert "not made for packages of one" in finding["reason"]
    assert f"./flexi bundle {deployable}" in finding["remedy"]


def test_a_folder_without_a_list_is_no_bundle(deployable: Path) -> None:
    shutil.rmtree(deployable.parent / "bundle")
    assert "there is no bundle.json in it" in refused(deployable)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["files"].update({"../../etc/cron.d/x": {"sha256": "0" * 64, "size": 1}}),
        lambda d: d["files"].update({"models/$(reboot)": {"sha256": "0" * 64, "size": 1}}),
        lambda d: d["files"].update({"models/a b": {"sha256": "0" * 64, "size": 1}}),
        lambda d: d["files"].update({"models/x": {"sha256": "no digest", "size": 1}}),
        lambda d: d.update(schema=2),
        lambda d: d.pop("apt"),
        lambda d: d["files"].clear(),
    ],
)
def test_a_list_that_no_bundle_has_is_refused(deployable: Path, change: object) -> None:
    """The list's paths reach a shell on the hosts."""
    path = deployable.parent / "bundle" / manifest.NAME
    document = json.loads(path.read_text())
    change(document)  # type: ignore[operator]
    path.write_text(json.dumps(document))
    with pytest.raises(FlexiError, match="make the bundle anew"):
        manifest.read(path.parent)


def test_hosts_get_everything_from_the_bundle(deployable: Path) -> None:
    """With `bundle`, no address of a maker or a mirror is left that a host would ask."""
    plan = build_plan(load_site(deployable))
    (host,) = plan.hosts
    assert host.ollama is not None
    assert (
        host.ollama.archive_url == (deployable.parent / f"bundle/ollama/v{VERSION}/ollama-linux-amd64.tar.zst").as_uri()
    )
    assert [model.source for model in host.ollama.instances[0].models] == [
        m.name for m in host.ollama.instances[0].models
    ]
    assert dict(host.environment)["APT_CONFIG"] == "/etc/flexi/apt-bundle.conf"


def test_sources_go_with_a_platform_of_the_site(site_file: Path, tmp_path: Path) -> None:
    plan = build_plan(load_site(site_file))
    file = tmp_path / "debian.sources"
    file.write_text("")
    assert bundling.given_sources(plan, [str(file)]) == {"debian-12": file}
    assert bundling.given_sources(plan, [f"debian-12={file}"]) == {"debian-12": file}
    with pytest.raises(InputError, match="the site has no ubuntu-22"):
        bundling.given_sources(plan, [f"ubuntu-22.04={file}"])
    with pytest.raises(InputError, match="no such file"):
        bundling.given_sources(plan, [str(tmp_path / "nothing")])


def test_an_archive_of_this_machine_needs_a_digest(tmp_path: Path, mirror: Mirror) -> None:
    archive = tmp_path / "own.tar.zst"
    file = write_site(tmp_path / "own.yaml", "./own.tar.zst", "https://registry.ollama.ai")
    assert "there is no" in refused(file)
    archive.write_bytes(ARCHIVE)
    assert "set ollama.sha256" in refused(file)
    file.write_text(f"{file.read_text()}ollama: {{sha256: {mirror.sha256}}}\n")
    check(build_plan(load_site(file)), "own", bars())
    folder = write_site(tmp_path / "folder.yaml", f"file://{mirror.archive.parents[1]}", "https://registry.ollama.ai")
    check(build_plan(load_site(folder)), "folder", bars())
