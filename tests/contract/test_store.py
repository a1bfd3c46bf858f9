"""Pulling, copying, creating and deleting. Ollama's Go files named below, at v0.24.0."""

from __future__ import annotations

import json

import httpx
import pytest

from flexi.lab.ollama_sim.registry import Faults, Registry


def pull(http: httpx.Client, name: str, **more: object) -> list[dict[str, object]]:
    answer = http.post("/api/pull", json={"model": name, "insecure": True, **more})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def test_pull_reports_every_step(http: httpx.Client, source: str, models_registry: Registry) -> None:
    """server/images.go PullModel; server/download.go Wait (a line every 60 ms)."""
    models_registry.faults = Faults(bytes_per_second=4_000_000)
    seen = pull(http, source)
    states = list(dict.fromkeys(str(line["status"]) for line in seen))
    assert states[0] == "pulling manifest"
    assert states[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
    layers = [line for line in seen if "digest" in line]
    assert layers
    for line in layers:
        assert line["status"] == f"pulling {str(line['digest'])[7:19]}"
        assert 0 <= int(str(line.get("completed", 0))) <= int(str(line["total"]))
    assert source in [m["name"] for m in http.get("/api/tags").json()["models"]]
    # A second time nothing is downloaded: one line for each layer, complete.
    for line in pull(http, source):
        if "digest" in line:
            assert line["completed"] == line["total"]


def test_pull_without_stream(http: httpx.Client, source: str) -> None:
    """server/routes.go waitForStream."""
    answer = http.post("/api/pull", json={"model": source, "insecure": True, "stream": False})
    assert answer.json() == {"status": "success"}
    assert answer.headers["content-type"] == "application/json"


def test_a_model_that_the_registry_has_not(http: httpx.Client, source: str) -> None:
    """server/images.go pullModelManifest: the error comes inside the 200 stream, or as 500 without one."""
    name = source.replace("phi3", "phi99")
    seen = pull(http, name)
    assert seen[0] == {"status": "pulling manifest"}
    assert seen[-1] == {"error": "pull model manifest: file does not exist"}
    answer = http.post("/api/pull", json={"model": name, "insecure": True, "stream": False})
    assert (answer.status_code, answer.json()) == (500, {"error": "pull model manifest: file does not exist"})


def test_a_wrong_digest_leaves_no_model(http: httpx.Client, source: str, models_registry: Registry) -> None:
    """server/images.go verifyBlob."""
    models_registry.faults = Faults(wrong_digest=("phi3:3.8b",))
    seen = pull(http, source)
    assert "verifying sha256 digest" in [line.get("status") for line in seen]
    assert str(seen[-1]["error"]).startswith("digest mismatch, file must be downloaded again: want sha256:")
    assert source not in [m["name"] for m in http.get("/api/tags").json()["models"]]
    models_registry.faults = Faults()
    assert pull(http, source)[-1] == {"status": "success"}


def test_plain_http_must_be_allowed(http: httpx.Client, source: str) -> None:
    """server/images.go makeRequest: without `insecure` it is HTTPS, whatever the name says."""
    for name in (source, f"http://{source}"):
        answer = http.post("/api/pull", json={"model": name, "stream": False})
        assert answer.status_code == 500
        assert answer.json()["error"].endswith("http: server gave HTTP response to HTTPS client")


@pytest.mark.parametrize("name", ["", "a b"])
def test_pull_needs_a_valid_name(http: httpx.Client, name: str) -> None:
    """server/routes.go PullHandler."""
    answer = http.post("/api/pull", json={"model": name})
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid model name"})


def test_copy_and_delete(http: httpx.Client, model: str) -> None:
    """server/routes.go CopyHandler, DeleteHandler: empty answers."""
    copied = http.post("/api/copy", json={"source": model, "destination": "flexi-copy"})
    assert (copied.status_code, copied.content) == (200, b"")
    tags = {m["name"]: m["digest"] for m in http.get("/api/tags").json()["models"]}
    assert tags["flexi-copy:latest"] == tags[model]
    deleted = http.request("DELETE", "/api/delete", json={"model": "flexi-copy"})
    assert (deleted.status_code, deleted.content) == (200, b"")
    assert "flexi-copy:latest" not in [m["name"] for m in http.get("/api/tags").json()["models"]]
    # The blobs were shared and are still needed.
    assert http.post("/api/show", json={"model": model}).status_code == 200


def test_create_from_another_model(http: httpx.Client, model: str) -> None:
    """server/create.go: layers of the old model, parameters and system prompt of the new one."""
    body = {"model": "flexi-made", "from": model, "parameters": {"num_ctx": 1234}, "system": "Be brief."}
    answer = http.post("/api/create", json=body)
    states = [json.loads(line)["status"] for line in answer.text.splitlines()]
    assert any(state.startswith("using existing layer sha256:") for state in states)
    assert any(state.startswith("creating new layer sha256:") for state in states)
    assert states[-2:] == ["writing manifest", "success"]
    shown = http.post("/api/show", json={"model": "flexi-made"}).json()
    assert shown["system"] == "Be brief."
    assert "num_ctx                        1234" in shown["parameters"]
    http.request("DELETE", "/api/delete", json={"model": "flexi-made"})


def test_create_needs_a_source(http: httpx.Client) -> None:
    """server/create.go errNeitherFromOrFiles."""
    answer = http.post("/api/create", json={"model": "flexi-made"})
    assert (answer.status_code, answer.json()) == (400, {"error": "neither 'from' or 'files' was specified"})
