"""A model of one store in another: hard links, whole or not at all, and never outside of what was asked for."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from flexi.lab.ollama_sim.names import Name
from flexi.lab.ollama_sim.store import Store
from flexi_host.agent import store as stores
from flexi_host.agent.config import AgentConfig
from flexi_host.agent.share import ShareError, Sharer
from flexi_host.agent.store import Source, StoreError, manifest_path, obtain

LLAMA = "llama3:8b"
WEIGHTS = b"weights" * 1000
CONFIG = b'{"model_format": "gguf"}'


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def blob(store: Path, data: bytes) -> Path:
    return store / "blobs" / digest(data).replace(":", "-")


def manifest(store: Path, model: str = LLAMA) -> Path:
    return store / "manifests" / manifest_path(model)


def fill(store: Path, model: str = LLAMA, weights: bytes = WEIGHTS) -> Path:
    """A store as Ollama leaves it after a pull of `model`, long ago."""
    layers = [{"mediaType": "application/vnd.ollama.image.model", "digest": digest(weights), "size": len(weights)}]
    config = {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": digest(CONFIG)}
    document = {"schemaVersion": 2, "config": {**config, "size": len(CONFIG)}, "layers": layers}
    path = manifest(store, model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    (store / "blobs").mkdir(exist_ok=True)
    for data in (weights, CONFIG):
        blob(store, data).write_bytes(data)
        os.utime(blob(store, data), (0, 0))
    return store


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return fill(tmp_path / "old" / "models")


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """An empty store."""
    path = tmp_path / "new" / "models"
    path.mkdir(parents=True)
    return path


def source(directory: Path, verified: bool = True) -> Source:
    return Source("group old", directory, verified)


def link(new: Path, *sources: Source, model: str = LLAMA) -> str | None:
    return obtain(model, new, sources, lambda done, total: None)


def everything(directory: Path) -> dict[str, bytes]:
    """Every file below a home, but the lock."""
    files = (path for path in directory.parent.rglob("*") if path.is_file() and path.name != ".flexi-share.lock")
    return {str(path.relative_to(directory.parent)): path.read_bytes() for path in files}


# Expected from ParseNameBare, DefaultName and Filepath in types/model/name.go of Ollama v0.24.0.
@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("llama3:8b", "registry.ollama.ai/library/llama3/8b"),
        ("mistral", "registry.ollama.ai/library/mistral/latest"),
        ("someone/model:q4", "registry.ollama.ai/someone/model/q4"),
        ("hf.co/someone/Model-GGUF:Q4_K_M", "hf.co/someone/Model-GGUF/Q4_K_M"),
        ("mirror:5000/library/llama3:8b", "mirror:5000/library/llama3/8b"),
        ("mirror:5000/library/llama3", "mirror:5000/library/llama3/latest"),
    ],
)
def test_a_manifest_lies_where_ollama_puts_it(model: str, path: str) -> None:
    assert manifest_path(model) == Path(path)


@pytest.mark.parametrize(
    "model", ["", "..", "../x:1", "a/../b:1", "x:..", "x:", "a/b/c/d:1", "/etc/passwd", "x:1\n", "."]
)
def test_what_is_no_name_of_a_model_leads_nowhere(model: str) -> None:
    with pytest.raises(StoreError, match="is no name of a model"):
        manifest_path(model)


def test_a_model_is_linked_and_takes_no_room(old: Path, new: Path) -> None:
    assert link(new, source(old)) == "group old"
    for data in (WEIGHTS, CONFIG):
        assert blob(new, data).stat().st_ino == blob(old, data).stat().st_ino, "one page cache for both"
    assert manifest(new).read_bytes() == manifest(old).read_bytes()
    assert manifest(new).stat().st_ino != manifest(old).stat().st_ino, "Ollama writes manifests in place"
    assert everything(new).keys() == everything(old).keys(), "nothing temporary is left"


def test_the_simulated_ollama_keeps_lists_and_deletes_it(old: Path, new: Path) -> None:
    """Clearing up at the start spares it, deleting it in one store leaves the other whole."""
    link(new, source(old))
    for directory in (old, new):
        Store(directory).prune()
    assert [str(m.name.model) for m in Store(new).manifests()] == ["llama3"]
    Store(old).delete(Name("llama3", "8b"))
    assert not blob(old, WEIGHTS).exists()
    assert blob(new, WEIGHTS).read_bytes() == WEIGHTS


def test_a_linked_blob_outlives_a_start_of_ollama_before_its_manifest_is_there(old: Path, new: Path) -> None:
    """server/images.go layerPruneGracePeriod: an hour since the last change."""
    link(new, source(old))
    manifest(new).unlink()
    Store(new).prune()
    assert blob(new, WEIGHTS).exists()


def test_there_is_no_moment_at_which_a_linked_blob_is_an_old_one(
    old: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, young = os.link, []

    def watched(origin: Path, target: Path, **options: Any) -> None:
        young.append(time.time() - origin.stat().st_mtime < 3600)
        real(origin, target, **options)

    monkeypatch.setattr(stores.os, "link", watched)
    link(new, source(old))
    assert young == [True, True]


def test_a_blob_that_lay_there_for_long_does_too(old: Path, new: Path) -> None:
    fill(new)
    manifest(new).unlink()
    link(new, source(old))
    manifest(new).unlink()
    Store(new).prune()
    assert blob(new, WEIGHTS).exists()


def test_nowhere_is_nowhere(new: Path, tmp_path: Path) -> None:
    assert link(new, source(tmp_path / "none" / "models")) is None
    assert everything(new) == {}


@pytest.mark.parametrize(
    "damage",
    [
        lambda store: blob(store, WEIGHTS).unlink(),
        lambda store: blob(store, WEIGHTS).write_bytes(WEIGHTS[:-1]),
        lambda store: manifest(store).write_text(manifest(store).read_text()[:-9]),
        lambda store: manifest(store).write_text("[]"),
        lambda store: manifest(store).write_text('{"config": {"digest": "sha256:../../x", "size": 1}, "layers": []}'),
        lambda store: manifest(store).write_text('{"config": {"digest": ["a"], "size": 1}, "layers": null}'),
        lambda store: (blob(store, WEIGHTS).rename(store / "w"), blob(store, WEIGHTS).symlink_to(store / "w")),
        lambda store: (blob(store, CONFIG).unlink(), blob(store, CONFIG).symlink_to("x" * len(CONFIG))),
    ],
)
def test_a_source_that_is_not_whole_is_passed_over(old: Path, new: Path, tmp_path: Path, damage: Any) -> None:
    other = fill(tmp_path / "other" / "models")
    damage(old)
    assert link(new, source(old)) is None
    assert everything(new) == {}
    assert link(new, source(old), Source("group other", other, True)) == "group other"
    assert blob(new, WEIGHTS).stat().st_ino == blob(other, WEIGHTS).stat().st_ino


def test_names_are_compared_as_ollama_compares_them(new: Path, tmp_path: Path) -> None:
    store = fill(tmp_path / "shouting" / "models", "LLaMA3:8B")
    assert link(new, source(store)) == "group old"
    assert manifest(new).exists(), "in the plan's spelling"


@pytest.mark.parametrize("call", ["link", "utime", "replace", "chmod"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_ended_anywhere_the_model_is_there_wholly_or_not_at_all(
    old: Path, new: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """It ends in a call that changes a disk; what is named is whole, and the next attempt brings it to its end."""
    real = getattr(os, call)
    calls = 0

    def broken(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(stores.os, call, broken)
    with suppress(KeyboardInterrupt):
        link(new, source(old))
    monkeypatch.undo()
    if manifest(new).exists():
        assert blob(new, WEIGHTS).read_bytes() == WEIGHTS
        assert blob(new, CONFIG).read_bytes() == CONFIG
    assert link(new, source(old)) == "group old"
    assert everything(new) == everything(old)


def test_what_a_killed_attempt_left_is_no_obstacle(old: Path, new: Path) -> None:
    (new / "blobs").mkdir()
    leftover = Path(f"{blob(new, WEIGHTS)}-flexi")
    leftover.write_bytes(b"half")
    blob(new, WEIGHTS).write_bytes(b"of the wrong size")
    assert link(new, source(old)) == "group old"
    assert blob(new, WEIGHTS).stat().st_ino == blob(old, WEIGHTS).stat().st_ino
    assert not leftover.exists()
    assert not stores._DIGEST.match(leftover.name.replace("-", ":", 1)), "Ollama clears it up: its name is no digest"


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM])
def test_where_no_link_is_possible_it_is_copied_and_its_digest_checked(
    old: Path, new: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(stores.os, "link", refused)
    monkeypatch.setattr(stores, "CHUNK_BYTES", 1000)
    told: list[tuple[int, int]] = []
    assert obtain(LLAMA, new, [source(old)], lambda done, total: told.append((done, total))) == "group old"
    assert blob(new, WEIGHTS).read_bytes() == WEIGHTS
    assert told[-1] == (len(WEIGHTS) + len(CONFIG),) * 2
    assert len(told) > 5, "bytes are told as they move"
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.parametrize("linkable", [True, False])
def test_a_damaged_bundle_is_refused(old: Path, new: Path, monkeypatch: pytest.MonkeyPatch, linkable: bool) -> None:
    """Nobody on this host has compared its digests yet."""
    if not linkable:
        monkeypatch.setattr(stores, "_linked", lambda origin, target: False)
    told: list[tuple[int, int]] = []
    bundle = source(old, verified=False)
    assert obtain(LLAMA, new, [bundle], lambda done, total: told.append((done, total))) == "group old"
    assert told[-1] == (len(WEIGHTS) + len(CONFIG),) * 2
    manifest(new).unlink()
    blob(new, WEIGHTS).unlink()
    blob(old, WEIGHTS).write_bytes(b"W" + WEIGHTS[1:])
    with pytest.raises(StoreError, match="is damaged: its SHA-256 is not the one in its name"):
        link(new, bundle)
    assert not manifest(new).exists()
    assert not blob(new, WEIGHTS).exists()


# Over the socket


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """Homes and a configuration: groups a and b share a model, b has one more."""
    for group in ("a", "b", "retired"):
        (tmp_path / "homes" / group / "models").mkdir(parents=True)

    def instance(group: str, *models: str) -> dict[str, object]:
        return {
            "group": group,
            "url": "http://127.0.0.1:1",
            "env_file": "/nowhere",
            "store": str(tmp_path / "homes" / group / "models"),
            "models": [{"name": name, "context": 1} for name in models],
        }

    config = {
        "host": "h",
        "check_port": 0,
        "interval_s": 1,
        "homes_dir": str(tmp_path / "homes"),
        "bundle_dir": str(tmp_path / "bundle"),
        "share_socket": str(tmp_path / "share.sock"),
        "instances": [instance("a", LLAMA), instance("b", LLAMA, "phi3:3.8b")],
    }
    (tmp_path / "agent.json").write_text(json.dumps(config))
    return tmp_path


@pytest.fixture
def sharer(host: Path) -> Iterator[tuple[Sharer, list[str]]]:
    """A socket like systemd's with Accept=yes: one process for each connection."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(host / "share.sock"))
        listening.listen()

        def accept() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    command = [sys.executable, "-m", "flexi_host", "share", "--config", str(host / "agent.json")]
                    subprocess.run(command, stdin=connection, stdout=connection, check=False)

        thread = threading.Thread(target=accept)
        thread.start()
        said: list[str] = []
        yield Sharer(host / "share.sock", said.append, patience_s=10), said
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


def nothing(done: int, total: int) -> None:
    pass


def test_over_the_socket_a_planned_model_comes_from_any_store_and_nothing_else_does(
    host: Path, sharer: tuple[Sharer, list[str]]
) -> None:
    client, said = sharer
    retired, a = (host / "homes" / group / "models" for group in ("retired", "a"))
    assert not client.obtain("a", LLAMA, nothing)
    fill(retired)
    fill(retired, "phi3:3.8b", b"phi" * 100)
    assert client.obtain("a", LLAMA, nothing)
    assert blob(a, WEIGHTS).stat().st_ino == blob(retired, WEIGHTS).stat().st_ino
    assert said == [f"a {LLAMA}: from group retired, no download"]
    assert client.obtain("b", LLAMA, nothing)
    assert said[-1] == f"b {LLAMA}: from group a, no download", "a group of the plan first"
    for group, model, words in (
        ("a", "phi3:3.8b", "group a does not have phi3:3.8b"),
        ("retired", LLAMA, "unknown group retired"),
        ("../b", LLAMA, "unknown group ../b"),
        ("a", "../../x", "group a does not have ../../x"),
    ):
        with pytest.raises(ShareError, match=re.escape(words)):
            client.obtain(group, model, nothing)
    assert not manifest(a, "phi3:3.8b").exists()


def test_the_bundle_comes_after_the_stores(host: Path, sharer: tuple[Sharer, list[str]]) -> None:
    client, said = sharer
    fill(host / "bundle")
    assert client.obtain("a", LLAMA, nothing)
    assert client.obtain("b", LLAMA, nothing)
    assert said == [f"a {LLAMA}: from the bundle, no download", f"b {LLAMA}: from group a, no download"]


def test_nobody_at_the_socket_and_a_silent_one_are_told_apart(host: Path) -> None:
    with pytest.raises(ShareError, match=re.escape("share.sock: No such file or directory")):
        Sharer(host / "share.sock", print).obtain("a", LLAMA, nothing)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(host / "share.sock"))
        listening.listen()
        with pytest.raises(ShareError, match="timed out"):
            Sharer(host / "share.sock", print, patience_s=0.05).obtain("a", LLAMA, nothing)


def test_rubbish_is_answered_in_words(host: Path) -> None:
    command = [sys.executable, "-m", "flexi_host", "share", "--config", str(host / "agent.json")]
    for line in (b"", b"rubbish\n", b"[]\n", b"{}\n", b"\xff\n"):
        done = subprocess.run(command, input=line, capture_output=True, check=False)
        assert json.loads(done.stdout) == {"error": "the request is not understood"}
        assert (done.returncode, done.stderr) == (0, b"")


def test_the_defaults_are_where_the_deploy_puts_things(host: Path) -> None:
    value = json.loads((host / "agent.json").read_text())
    for key in ("homes_dir", "bundle_dir", "share_socket"):
        del value[key]
    config = AgentConfig.from_json(value)
    assert config.homes_dir == Path("/var/lib/ollama")
    assert config.bundle_dir == Path("/var/lib/flexi/bundle/models")
    assert config.share_socket == Path("/run/flexi-share.sock")
