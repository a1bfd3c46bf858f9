"""The gateway as its users meet it, asked from the gateway's own host with the key of the health checks."""

from __future__ import annotations

import json

import pytest
from subjects import Hosts, Route
from testinfra.host import Host

from flexi.configs.gateway import FOLLOW_KEYS, HEALTH_HEADER, KEYS_MAP, curl_here, keys_map
from flexi.plan.model.site import Plan

WITH_KEY = f"-H @{HEALTH_HEADER}"
PROBE_TOKENS = 8
LEAST_SHARE = 0.15
"""Of the rate in table 4 of the FLEXI paper (arXiv 2407.13013), one stream on an NVIDIA A40. Tokens come as fast as
weights are read, and a server CPU's memory gives a twentieth to a tenth of that card's 696 GB/s; a good card that is
slower or busy with others stays above. There is no upper bound: newer cards are several times as fast."""


def ask(target: Host, plan: Plan, path: str, body: dict[str, object] | None, *options: str) -> tuple[int, str]:
    """Status and body of a request to the gateway; the body travels over standard input, the key in a file."""
    data = f"-H 'Content-Type: application/json' -d '{json.dumps(body)}'" if body is not None else ""
    answer = target.run(
        f"curl -sS -m 300 -w '\\n%{{http_code}}' {' '.join(options)} {data} {curl_here(plan.gateway, path)}"
    )
    assert answer.rc == 0, f"the gateway does not answer: {answer.stderr.strip()}"
    text, _, status = answer.stdout.rpartition("\n")
    return int(status), text.strip()


def test_tokens_flow(route: Route, plan: Plan, hosts: Hosts) -> None:
    """{route} answers through the gateway at the rate of a GPU"""
    target = hosts[plan.gateway.host]
    model = next(model for instance in plan.instances for model in instance.models if model.name == route.backend.model)
    if model.embedding:
        status, text = ask(target, plan, "/api/embed", {"model": model.name, "input": "health"}, WITH_KEY)
        assert status == 200, f"status {status}: {text[:200]}"
        assert json.loads(text)["embeddings"][0], "an empty embedding"
        return
    body = {"model": model.name, "prompt": "Count to eight.", "stream": False, "options": {"num_predict": PROBE_TOKENS}}
    status, text = ask(target, plan, "/api/generate", body, WITH_KEY)
    assert status == 200, f"status {status}: {text[:200]}"
    answer = json.loads(text)
    assert answer.get("eval_count", 0) > 0, "no token came"
    if model.tokens_per_second is not None and answer["eval_count"] > 1:
        rate = answer["eval_count"] / (answer["eval_duration"] / 1e9)
        assert rate >= LEAST_SHARE * model.tokens_per_second, (
            f"{rate:.1f} tokens/s, where an A40 gives {model.tokens_per_second:.0f}: look for the CPU or a busy card"
        )


def test_key_needed(gateway: str, plan: Plan, hosts: Hosts) -> None:
    """{gateway} refuses requests without a key"""
    model = plan.gateway.backends[0].model
    status, text = ask(hosts[gateway], plan, "/api/generate", {"model": model, "prompt": "x"})
    assert status == 401, f"status {status} without a key: {text[:100]}"


def test_keys_known(gateway: str, plan: Plan, hosts: Hosts) -> None:
    """{gateway} knows exactly the keys of the site"""
    target = hosts[gateway]
    written = target.file(KEYS_MAP).content_string
    assert written == keys_map(plan.gateway.consumers), "it has other keys than this site's file: deploy"
    running = target.run(f"{FOLLOW_KEYS} --check")
    assert running.rc == 0, running.stderr.strip()


def test_management_closed(gateway: str, plan: Plan, hosts: Hosts) -> None:
    """{gateway} keeps model management closed"""
    target = hosts[gateway]
    for path in ("/api/pull", "/api/create", "/api/copy", "/api/push"):
        status, _ = ask(target, plan, path, {"model": "flexi-health-probe"}, WITH_KEY)
        assert status in (403, 404), f"{path} answers {status}: models could be changed by anyone with a key"


def test_lists(gateway: str, plan: Plan, hosts: Hosts) -> None:
    """{gateway} lists every model of the site once"""
    status, text = ask(hosts[gateway], plan, "/api/tags", None, WITH_KEY)
    assert status == 200, f"status {status}: {text[:100]}"
    names = [model["name"] for model in json.loads(text)["models"]]
    wanted = sorted(backend.model for backend in plan.gateway.backends)
    assert sorted(names) == wanted, f"listed {', '.join(sorted(names))}; planned {', '.join(wanted)}"


@pytest.mark.two_gateways
def test_floating_address(plan: Plan, hosts: Hosts) -> None:
    """one gateway, and only one, has the address that users reach"""
    look = f"ip -o -4 address show to {plan.gateway.address}"
    having = [name for name in plan.gateway.hosts if hosts[name].check_output(look)]
    assert len(having) == 1, f"{' and '.join(having) or 'none'} of {' and '.join(plan.gateway.hosts)} has it"
