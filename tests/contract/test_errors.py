"""What a client gets when it asks for something impossible. Ollama's Go files named below, at v0.24.0."""

from __future__ import annotations

import httpx
import pytest


def error(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]


@pytest.mark.parametrize("path", ["generate", "chat", "embed", "embeddings", "show", "pull", "create", "copy"])
def test_a_body_must_be_there(http: httpx.Client, path: str) -> None:
    """server/routes.go, every handler: errors.Is(err, io.EOF)."""
    assert error(http.post(f"/api/{path}")) == (400, "missing request body")


def test_a_body_must_be_json(http: httpx.Client) -> None:
    """server/routes.go: the decoder's words are passed on (Go's encoding/json)."""
    assert error(http.post("/api/generate", content=b"hello")) == (
        400,
        "invalid character 'h' looking for beginning of value",
    )
    assert error(http.post("/api/generate", content=b'{"model":')) == (400, "unexpected EOF")


@pytest.mark.parametrize(
    "options",
    ['{"seed": NaN}', '{"seed": -Infinity}', '{"temperature": 1e999}', '{"seed": ' + "9" * 5000 + "}", "[" * 20_000],
    ids=["NaN", "infinity", "too large", "too long", "too deep"],
)
def test_what_only_others_read_is_refused(http: httpx.Client, model: str, options: str) -> None:
    """Go's encoding/json: no constants but true, false and null; float64; at most 10,000 levels (maxNestingDepth)."""
    answer = http.post("/api/generate", content=f'{{"model": "{model}", "prompt": "", "options": {options}}}'.encode())
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_fields_must_have_the_right_type(http: httpx.Client, model: str) -> None:
    """Go's encoding/json on api/types.go GenerateRequest."""
    status, text = error(http.post("/api/generate", json={"model": model, "prompt": 5}))
    assert status == 400
    assert text == "json: cannot unmarshal number into Go struct field GenerateRequest.prompt of type string"


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("generate", {"prompt": "x"}, "model 'nope' not found"),
        ("chat", {"messages": []}, "model 'nope' not found"),
        ("show", {}, "model 'nope' not found"),
        ("embed", {"input": "x"}, 'model "nope" not found, try pulling it first'),
        ("embeddings", {"prompt": "x"}, 'model "nope" not found, try pulling it first'),
    ],
)
def test_an_unknown_model_is_404(http: httpx.Client, path: str, body: dict[str, object], text: str) -> None:
    """server/routes.go: GenerateHandler, ChatHandler, ShowHandler; handleScheduleError for embeddings."""
    assert error(http.post(f"/api/{path}", json={"model": "nope", **body})) == (404, text)


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [("generate", 404, "model '' not found"), ("chat", 400, "model is required"), ("show", 400, "model is required")],
)
def test_a_model_must_be_named(http: httpx.Client, path: str, status: int, text: str) -> None:
    """server/routes.go writeModelRefParseError and its callers."""
    assert error(http.post(f"/api/{path}", json={})) == (status, text)


@pytest.mark.parametrize("name", ["a b", "a/b/c/d/e", ":x", "x:"])
def test_names_must_be_valid(http: httpx.Client, name: str) -> None:
    """types/model/name.go IsValid; types/errtypes."""
    assert error(http.post("/api/generate", json={"model": name, "prompt": "x"})) == (400, "invalid model name")


def test_embedding_models_do_not_write(http: httpx.Client, embedding_model: str) -> None:
    """server/routes.go: errCapabilityCompletion."""
    answer = http.post("/api/generate", json={"model": embedding_model, "prompt": "x"})
    assert error(answer) == (400, f'"{embedding_model}" does not support generate')
    answer = http.post("/api/chat", json={"model": embedding_model, "messages": [{"role": "user", "content": "x"}]})
    assert error(answer) == (400, f'"{embedding_model}" does not support chat')


def test_thinking_must_be_supported(http: httpx.Client, model: str) -> None:
    """server/routes.go GenerateHandler (the model under test must not think)."""
    answer = http.post("/api/generate", json={"model": model, "prompt": "x", "think": True})
    assert error(answer) == (400, f'"{model}" does not support thinking')


def test_options_must_have_the_right_type(http: httpx.Client, model: str) -> None:
    """api/types.go Options.FromMap."""
    answer = http.post("/api/generate", json={"model": model, "prompt": "x", "options": {"num_ctx": "big"}})
    assert error(answer) == (500, 'option "num_ctx" must be of type integer')


def test_unknown_paths_and_methods(http: httpx.Client) -> None:
    """gin's own answers (HandleMethodNotAllowed is on)."""
    missing = http.get("/api/nothing")
    assert (missing.status_code, missing.text) == (404, "404 page not found")
    wrong = http.put("/api/tags")
    assert (wrong.status_code, wrong.text) == (405, "405 method not allowed")
    slash = http.get("/api/tags/")
    assert (slash.status_code, slash.headers["location"]) == (301, "/api/tags")


def test_copy_and_delete_of_what_is_not_there(http: httpx.Client) -> None:
    """server/routes.go CopyHandler, DeleteHandler."""
    answer = http.post("/api/copy", json={"source": "nope", "destination": "other"})
    assert error(answer) == (404, 'model "nope" not found')
    assert error(http.request("DELETE", "/api/delete", json={"model": "nope"})) == (404, "model 'nope' not found")


def test_openai_errors_have_openai_form(http: httpx.Client, model: str) -> None:
    """openai/openai.go NewError; middleware/openai.go ChatMiddleware."""
    body = {"model": "nope", "messages": [{"role": "user", "content": "x"}]}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 404
    assert answer.json() == {
        "error": {"message": "model 'nope' not found", "type": "not_found_error", "param": None, "code": None}
    }
    answer = http.post("/v1/chat/completions", json={"model": model, "messages": []})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "[] is too short - 'messages'"
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_hosts_that_are_not_this_machine_are_refused(http: httpx.Client) -> None:
    """server/routes.go allowedHostsMiddleware: for a server that listens on loopback."""
    if http.base_url.host not in ("127.0.0.1", "localhost"):
        pytest.skip("only servers on loopback look at the Host header")
    for host, status in (
        ("ollama.example.org", 403),
        ("localhost", 200),
        ("box.local", 200),
        ("10.1.2.3:80", 200),
        ("8.8.8.8", 403),
    ):
        assert http.get("/api/version", headers={"Host": host}).status_code == status, host


def test_foreign_origins_are_refused(http: httpx.Client) -> None:
    """envconfig/config.go AllowedOrigins; gin-contrib/cors."""
    assert http.get("/api/version", headers={"Origin": "https://evil.example"}).status_code == 403
    allowed = http.get("/api/version", headers={"Origin": "http://localhost:3000"})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "http://localhost:3000"
    preflight = http.options("/api/chat", headers={"Origin": "http://localhost:3000"})
    assert preflight.status_code == 204
    assert "POST" in preflight.headers["access-control-allow-methods"]


@pytest.mark.parametrize("path", ["/api/generate", "/v1/responses"])
def test_half_a_surrogate_pair_is_a_replacement_character(http: httpx.Client, model: str, path: str) -> None:
    """encoding/json/decode.go, unquoteBytes: no error, and no crash."""
    field = "prompt" if path.startswith("/api") else "input"
    body = f'{{"model": "{model}", "{field}": "\\ud83d and \\udc00", "stream": false}}'
    assert http.post(path, content=body.encode()).status_code == 200
