"""The service as its users meet it."""

from __future__ import annotations

import json
import subprocess
import time

import ollama
import openai
import pytest
from lab_site import Figure, Site, access_log, flexi, until
from models import model_of


def test_a_second_deploy_changes_nothing(site: Site) -> None:
    done = site.pyinfra("-y", "--json")
    assert done.status == 0, done.text[-4000:]
    results = json.loads(done.stdout)["results"]
    changed = [(op["name"], op["success"]) for op in results["operations"] if op["success"]]
    assert changed == []
    assert results["totals"]["error"] == 0


def test_a_second_dry_run_predicts_nothing(site: Site) -> None:
    done = site.pyinfra("--dry", "--json")
    assert done.status == 0, done.text[-4000:]
    plan = json.loads(done.stdout)["plan"]
    assert [op["name"] for op in plan if op["hosts_with_change"]] == []


@pytest.mark.parametrize("host", ["server-a", "server-b"])
def test_tokens_stream_from_the_right_instance(site: Site, host: str) -> None:
    model = model_of(site, host)
    body = json.dumps({"model": model, "prompt": "Why is the sky blue?", "options": {"num_predict": 40}})
    arrived = []
    argv = ["curl", "-sSN", "-H", f"@{site.key_header}", "-d", body, f"{site.url}/api/generate"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as curl:
        assert curl.stdout is not None
        for line in curl.stdout:
            arrived.append((time.monotonic(), json.loads(line)))
    last = arrived[-1][1]
    assert last["done"] is True
    assert last["eval_count"] > 5
    assert len(arrived) > 5
    # Streamed, not collected: the first token was here well before the last.
    assert arrived[-1][0] - arrived[0][0] > 0.3 * last["eval_duration"] / 1e9
    groups = {i.group for i in site.plan.instances if i.host == host}
    asked = site.ssh("gateway", "date +%s").stdout

    def served() -> list[str]:
        lines = [line for line in access_log(site) if (line["model"], line["path"]) == (model, "/api/generate")]
        return [line["server"] for line in lines if line["at"] >= int(asked) - 5]

    until(served, 20, "the request is in the access log")
    assert served()[-1].rpartition("/")[2] in groups


def test_the_official_ollama_client(site: Site) -> None:
    client = ollama.Client(host=site.url, headers={"Authorization": f"Bearer {site.key}"})
    model = model_of(site, "server-a")
    assert model in [entry.model for entry in client.list().models]
    answer = client.chat(model, messages=[{"role": "user", "content": "Say hello"}], options={"num_predict": 5})
    assert answer.message.content
    parts = [part.response for part in client.generate(model, "Count", stream=True, options={"num_predict": 8})]
    assert len(parts) > 3
    assert client.show(model).details is not None
    assert any(entry.model == model for entry in client.ps().models)
    with pytest.raises(ollama.ResponseError) as refused:
        client.generate("nosuchmodel", "x")
    assert refused.value.status_code == 404
    with pytest.raises(ollama.ResponseError) as closed:
        client.pull(model)
    assert closed.value.status_code == 403


def test_the_official_openai_client(site: Site) -> None:
    client = openai.OpenAI(base_url=f"{site.url}/v1", api_key=site.key)
    model = model_of(site, "server-b")
    assert model in [entry.id for entry in client.models.list()]
    assert client.models.retrieve(model).id == model
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello"}]
    answer = client.chat.completions.create(model=model, messages=messages, max_tokens=5)
    assert answer.choices[0].message.content
    stream = client.chat.completions.create(model=model, messages=messages, max_tokens=8, stream=True)
    assert len([chunk for chunk in stream if chunk.choices and chunk.choices[0].delta.content]) > 3
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nosuchmodel", messages=messages)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{site.url}/v1", api_key="wrong").chat.completions.create(
            model=model, messages=messages
        )


@pytest.mark.parametrize("order", ["model first", "model last"])
def test_long_chats_are_routed_wherever_the_model_stands(site: Site, order: str) -> None:
    """openai-python 1 and 2 write messages before model; HAProxy must have buffered that far to find the model."""
    model = model_of(site, "server-a")
    parts = [f'"model": "{model}"', '"messages": [{"role": "user", "content": "' + "word " * 30_000 + '"}]']
    rest = ['"stream": false', '"options": {"num_predict": 1}']
    text = "{" + ", ".join((parts if order == "model first" else parts[::-1]) + rest) + "}"
    options = ["-o", "/dev/null", "-w", "%{http_code}", "--data-binary", "@-"]
    done = subprocess.run(
        ["curl", "-sS", "-H", f"@{site.key_header}", *options, f"{site.url}/api/chat"],
        input=text,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "200"


def test_refusals_are_json_in_the_dialect_of_the_path(site: Site) -> None:
    model = model_of(site, "server-a")
    for path in ("/api/pull", "/api/delete", "/api/blobs/sha256:0", "/api/create"):
        status, text = site.curl(path, {"model": model})
        assert status == 403
        assert isinstance(json.loads(text)["error"], str)
    status, text = site.curl("/v1/chat/completions", {"messages": []})
    assert status == 400
    assert json.loads(text)["error"]["message"]
    status, text = site.curl("/api/generate", {"model": 'x"y\\z'})
    assert status == 404
    assert 'x"y\\z' in json.loads(text)["error"]
    assert site.curl("/api/generate")[0] == 405


def test_status_is_ready_for_people_and_programs(site: Site) -> None:
    done = flexi("status", str(site.file))
    assert done.status == 0
    for backend in site.plan.gateway.backends:
        assert backend.model in done.stdout
    report = json.loads(flexi("status", str(site.file), "--json").stdout)
    assert report["ready"] is True


def test_no_secret_is_readable_by_others_or_in_a_log(site: Site) -> None:
    for host in ("gateway", "server-a", "server-b"):
        # The key travels over standard input: sudo writes its command line to the journal.
        search = "sudo grep -rlsF -f /dev/stdin /etc /opt /root /run /tmp /var"
        assert site.ssh(host, search, stdin=site.key).stdout == ""
    listing = site.ssh("gateway", "sudo stat -c '%a %U' /etc/flexi/health.header").stdout.split()
    assert listing == ["600", "root"]


def test_an_unloaded_model_comes_back(site: Site, figure: Figure) -> None:
    """Unloading a model by hand heals without anyone acting."""
    model = model_of(site, "server-a")
    instance = next(i for i in site.plan.instances if any(m.name == model for m in i.models) and i.host == "server-a")
    local = f"curl -sS http://127.0.0.1:{instance.port}"
    unloaded = site.ssh("server-a", f"""{local}/api/generate -d '{{"model": "{model}", "keep_alive": 0}}'""")
    assert '"unload"' in unloaded.stdout

    def resident() -> bool:
        models = json.loads(site.ssh("server-a", f"{local}/api/ps").stdout)["models"]
        return any(m["name"] == model and int(m["expires_at"][:4]) > 2100 for m in models)

    seconds = until(resident, 60, f"{model} is resident again")
    figure(f"healed: {model} unloaded by hand: resident again after {seconds:.1f} s")
