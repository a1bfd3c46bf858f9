"""What is wrong with the service now: judged once, for `status`, the doctor and `verify`."""

from __future__ import annotations

import ast
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flexi.configs.gateway import keys_map
from flexi.doctor import examine_service, kinds, live
from flexi.health import expectations
from flexi.paths import INVENTORY, ROOT
from flexi.plan import build_plan
from flexi.plan.model.site import Plan
from flexi.site import load_site
from flexi.ssh import remote
from flexi.ssh.remote import Answer
from flexi.status import client_view, gateway, instances
from flexi.status import problems as service_problems
from flexi.status import units as unit_status
from flexi.status.chat import ChatNow
from flexi.status.client_view import ClientView
from flexi.status.gateway import GatewayNow
from flexi.status.instances import HostStatus, Look
from flexi.status.problems import Problem, Subject
from flexi.status.units import HostUnits

CHAT_RUNS = {"unit": "active", "answers": True, "release": "0.12.4", "courses": None, "saved": None, "exchanged": False}


@pytest.fixture(scope="module")
def plan() -> Plan:
    """The lab: server-a, server-b, and a gateway with the chat."""
    return build_plan(load_site(INVENTORY / "lab.yaml"))


def look(plan: Plan) -> Look:
    """A look at a site that is well."""
    hosts = [
        HostStatus(
            host.name,
            None,
            {
                "instances": [
                    {
                        "group": instance.group,
                        "models": [{"name": model.name, "phase": "ready", "reason": None} for model in instance.models],
                    }
                    for instance in host.ollama.instances
                ]
            },
        )
        for host in plan.hosts
        if host.ollama
    ]
    backends = [
        {
            "name": backend.name,
            "queue": 0,
            "servers": [
                {"name": server.name, "status": "UP", "requests": 0, "queue": 0, "most": 1, "reason": None}
                for server in backend.servers
            ],
        }
        for backend in plan.gateway.backends
    ]
    assert plan.chat is not None
    noted = {course.id: {"bot": True, "files": 0} for course in plan.chat.courses}
    chat = ChatNow("gateway", None, {**CHAT_RUNS, "courses": {"at": 0, "courses": noted}})
    return Look(
        hosts,
        [GatewayNow("gateway", None, {"backends": backends, "using": [], "recent": {"seconds": 300, "rows": []}})],
        chat,
        [HostUnits(host.name) for host in plan.hosts],
        [ClientView("gateway")],
    )


def subjects(found: list[Problem]) -> list[tuple[str, Subject]]:
    return [(one.host, one.subject) for one in found]


def test_a_site_that_is_well_has_no_problems(plan: Plan) -> None:
    assert service_problems.problems(plan, look(plan)) == []
    assert examine_service("lab", plan, look(plan)).exit_status == 0


def stopped(plan: Plan, host: str, *units: str) -> list[HostUnits]:
    states = tuple((unit, "inactive (dead)") for unit in units)
    return [HostUnits(one.name, None, states if one.name == host else ()) for one in plan.hosts]


def test_a_stopped_haproxy_is_said_once(plan: Plan) -> None:
    """HAProxy's socket, the clients and the keys cannot be asked either; they are no news."""
    dead = replace(
        look(plan),
        units=stopped(plan, "gateway", "haproxy.service"),
        gateways=[GatewayNow("gateway", "the gateway cannot be asked: HAProxy does not answer", None)],
        clients=[ClientView("gateway", None, ("it does not list the models: Connection refused",), "HAProxy …", "…")],
    )
    [problem] = service_problems.problems(plan, dead)
    assert (problem.host, problem.what) == ("gateway", "haproxy.service is inactive (dead)")
    found = examine_service("lab", plan, dead)
    assert (found.exit_status, [one.kind.id for one in found.findings]) == (1, ["unit-down"])
    assert found.findings[0].mend.endswith("sudo systemctl restart haproxy.service")


@pytest.mark.parametrize(
    ("change", "subject", "words"),
    [
        ({"chat": ChatNow("gateway", None, {**CHAT_RUNS, "unit": "inactive"})}, Subject.CHAT, "inactive"),
        ({"chat": ChatNow("gateway", None, {**CHAT_RUNS, "answers": False})}, Subject.CHAT, "does not answer"),
        ({"chat": ChatNow("gateway", None, {**CHAT_RUNS, "exchanged": True})}, Subject.CHAT, "restore"),
        ({"chat": ChatNow("gateway", "what it says cannot be read", None)}, Subject.CHAT, "cannot be read"),
        ({"gateways": [GatewayNow("gateway", "cannot be read", None)]}, Subject.GATEWAY, "cannot be read"),
        ({"clients": [ClientView("gateway", None, ("it does not list x",))]}, Subject.CLIENTS, "does not list x"),
        ({"clients": [ClientView("gateway", None, (), "other keys")]}, Subject.KEYS, "other keys"),
        ({"clients": [ClientView("gateway", None, (), None, "no chat by its name")]}, Subject.CHAT, "by its name"),
    ],
)
def test_what_is_wrong_at_the_gateway(plan: Plan, change: dict[str, Any], subject: Subject, words: str) -> None:
    found = examine_service("lab", plan, replace(look(plan), **change))
    problems = service_problems.problems(plan, replace(look(plan), **change))
    assert (problems[0].subject, found.exit_status) == (subject, 1)
    assert words in problems[0].what


def test_a_bot_without_its_material_is_a_warning(plan: Plan) -> None:
    found = examine_service("lab", plan, replace(look(plan), chat=ChatNow("gateway", None, CHAT_RUNS)))
    assert {one.kind.id for one in found.findings} == {"bot-not-ready"}
    assert found.exit_status == 0


def test_a_ledger_that_is_silent_and_a_model_that_haproxy_does_not_know(plan: Plan) -> None:
    well = look(plan)
    assert well.gateways[0].now is not None
    now = {**well.gateways[0].now, "recent": None, "backends": well.gateways[0].now["backends"][1:]}
    found = service_problems.problems(plan, replace(well, gateways=[GatewayNow("gateway", None, now)]))
    assert subjects(found) == [("gateway", Subject.LEDGER), ("gateway", Subject.SERVER)]
    assert plan.gateway.backends[0].model in found[1].what


@pytest.mark.parametrize(
    ("states", "wrong"),
    [(("DRAIN (agent)", "UP"), 0), (("DRAIN (agent)", "DOWN"), 2), (("DOWN", "UP"), 1), (("UP", "UP"), 0)],
)
def test_a_drain_that_another_server_makes_up_for_is_meant(plan: Plan, states: tuple[str, str], wrong: int) -> None:
    well = look(plan)
    assert well.gateways[0].now is not None
    shared = well.gateways[0].now["backends"][0]
    shared["servers"] = [{**shared["servers"][0], "name": name} for name in ("one", "two")]
    for server, state in zip(shared["servers"], states, strict=True):
        server["status"] = state
    assert len(service_problems.problems(plan, well)) == wrong


def test_a_host_that_is_off_is_said_once(plan: Plan) -> None:
    off = "does not answer over SSH: No route to host"
    well = look(plan)
    units = [HostUnits(one.name, off if one.name == "server-a" else None) for one in plan.hosts]
    hosts = [HostStatus("server-a", off, None), well.hosts[1]]
    found = service_problems.problems(plan, replace(well, units=units, hosts=hosts))
    assert subjects(found) == [("server-a", Subject.HOST)]


def test_a_model_that_is_loading_is_not_ready_yet(plan: Plan) -> None:
    well = look(plan)
    assert well.hosts[0].status is not None
    well.hosts[0].status["instances"][0]["models"][0] |= {"phase": "loading", "reason": "40 %"}
    found = examine_service("lab", plan, well)
    assert (found.exit_status, [one.kind.id for one in found.findings]) == (1, ["model-not-ready"])
    assert "loading: 40 %" in found.findings[0].what


def test_a_card_that_the_agent_calls_another_is_an_error_and_a_warning_of_it_none(plan: Plan) -> None:
    well = look(plan)
    assert well.hosts[1].status is not None
    well.hosts[1].status["findings"] = [
        {"severity": "warning", "what": "infoROM is corrupted"},
        {"severity": "error", "what": "GPU 0 (GPU-0) is a NVIDIA A40, the site file says H200"},
    ]
    found = examine_service("lab", plan, well)
    assert [(one.kind.id, one.host) for one in found.findings] == [("gpu-other", "server-b")]
    assert found.exit_status == 1


# -- answers that cannot be read ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '{"time": 1000}\n1001\n',
        '{"time": 1000, "instances": [{"group": "a"}]}\n1001\n',
        '{"time": 1000, "instances": [{"group": "a", "models": [{"name": "x"}]}]}\n1001\n',
        '{"time": 1000, "instances": null}\n1001\n',
        "[]\n1001\n",
        'Welcome to server-a!\n{"time": 1000, "instances": []}\n1001\n',
    ],
)
def test_an_agent_of_another_release_cannot_be_read(text: str) -> None:
    error = instances.understood("server-a", text).error
    assert error is not None
    assert "cannot be read" in error


@pytest.mark.parametrize(
    "now",
    [
        {"backends": [{"name": "x"}], "using": [], "recent": None},
        {"backends": [{"name": "x", "queue": 0, "servers": [{"name": "a"}]}], "using": [], "recent": None},
        {"backends": [], "using": [{}], "recent": None},
        {"backends": [], "using": [], "recent": {"rows": []}},
        {"backends": None, "using": [], "recent": None},
        [],
        "HAProxy",
    ],
)
def test_a_gateway_of_another_release_cannot_be_read(plan: Plan, monkeypatch: pytest.MonkeyPatch, now: object) -> None:
    monkeypatch.setattr(remote, "run", lambda *_, **__: Answer(0, json.dumps(now), ""))
    error = gateway.read(plan.host("gateway")).error
    assert error is not None
    assert "cannot be read" in error


# -- units -------------------------------------------------------------------------------------------------------------


def shown(name: str, active: str, sub: str) -> str:
    return f"Id={name}\nActiveState={active}\nSubState={sub}\n"


@pytest.mark.parametrize("host", ["server-a", "gateway"])
def test_every_expected_unit_that_is_stopped_makes_the_site_unwell(plan: Plan, host: str) -> None:
    names = expectations.units(plan.host(host))
    for missing in names:
        states = {name: ("failed", "failed") if name == missing else ("active", "running") for name in names}
        text = "\n".join(shown(name, *state) for name, state in states.items())
        units = unit_status.parse(host, names, text + "\n\tpolicy drop;\nflexi-firewall-status=0\n")
        assert (units.stopped, units.firewall) == (((missing, "failed (failed)"),), True)
        found = examine_service("lab", plan, replace(look(plan), units=[units]))
        assert [(one.kind.id, missing in one.what) for one in found.errors] == [("unit-down", True)]


def test_a_unit_that_starts_again_and_again_and_one_that_systemd_does_not_know() -> None:
    text = shown("a.service", "activating", "auto-restart") + "\n" + shown("b.service", "activating", "start")
    found = unit_status.parse("x", ["a.service", "b.service", "c.service"], text)
    assert dict(found.stopped) == {"a.service": "activating (auto-restart)", "c.service": "unknown"}
    assert not found.firewall


@pytest.mark.parametrize("chain", ["", "table inet flexi {\n chain input { type filter; policy accept; }\n}"])
def test_a_firewall_that_lets_everyone_in(plan: Plan, chain: str) -> None:
    units = unit_status.parse("server-a", [], chain + "flexi-firewall-status=" + ("0" if chain else "1"))
    found = examine_service("lab", plan, replace(look(plan), units=[units]))
    assert [one.kind.id for one in found.errors] == ["firewall-open"]


# -- the gateway as clients meet it ------------------------------------------------------------------------------------


def answers(plan: Plan, **changed: str) -> str:
    models = [{"name": backend.model} for backend in plan.gateway.backends]
    parts = {
        "lists": json.dumps({"models": models}) + "\n200",
        "keys": hashlib.sha256(keys_map(plan.gateway.consumers).encode()).hexdigest() + "  -",
        "known": "known",
        "chat": "{}\n200",
    } | changed
    return "".join(f"{part}\n\n--flexi--\n" for part in parts.values())


def test_clients_of_a_gateway_that_is_well(plan: Plan) -> None:
    assert client_view.parse(plan, "gateway", answers(plan)) == ClientView("gateway")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"lists": "curl: (7) Failed to connect to 127.0.0.1 port 80: Connection refused\n000"}, "Connection refused"),
        ({"lists": "<html>503</html>\n503"}, "status 503"),
        ({"lists": '{"models": []}\n200'}, "does not list"),
        ({"lists": "[]\n200"}, "cannot be read"),
        ({"keys": "0000  -"}, "other keys"),
        ({"keys": "sh: 1: cannot open /etc/haproxy/flexi/keys.map: No such file"}, "other keys"),
        ({"known": "flexi_host: HAProxy knows others than /etc/haproxy/flexi/keys.map"}, "HAProxy knows others"),
        ({"chat": "<html>away</html>\n503"}, "status 503"),
    ],
)
def test_clients_of_a_gateway_that_is_not(plan: Plan, changed: dict[str, str], words: str) -> None:
    view = client_view.parse(plan, "gateway", answers(plan, **changed))
    said = " ".join(filter(None, (*view.problems, view.keys_differ, view.chat)))
    assert words in said


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(255, "", "ssh: connect to host x: Connection refused"), "over SSH"),
        (Answer(1, "", "sudo: a password is required"), "a password is required"),
        (Answer(0, "Welcome\n", ""), "cannot be asked"),
    ],
)
def test_a_gateway_that_cannot_be_asked(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, answer: Answer, words: str
) -> None:
    monkeypatch.setattr(remote, "run", lambda *_, **__: answer)
    view, units = client_view.read(plan, plan.host("gateway")), unit_status.read(plan.host("gateway"))
    assert words in str(view.error)
    assert ("over SSH" if answer.status == 255 else "cannot be asked") in str(units.error)


# -- none of the three is forgotten ------------------------------------------------------------------------------------

EXPLAINED = {
    "test_chat": {
        "test_page": ("chat-down", "check-fails"),
        "test_nobody_without_an_account": ("check-fails",),
        "test_models": ("chat-down", "check-fails"),
        "test_release": ("check-fails",),
        "test_course_bots": ("check-fails",),
    },
    "test_gateway": {
        "test_tokens_flow": ("gateway-withholds", "model-not-ready", "check-fails"),
        "test_key_needed": ("check-fails",),
        "test_keys_known": ("keys-differ",),
        "test_management_closed": ("check-fails",),
        "test_lists": ("gateway-answers-wrong",),
        "test_floating_address": ("check-fails", "unit-down"),
    },
    "test_gpus": {
        "test_driver": ("driver-mismatch", "driver-not-loaded", "driver-other-branch", "nvidia-smi-fails"),
        "test_gpu_count": ("gpu-missing", "gpu-unusable"),
        "test_gpu_model": ("gpu-other",),
        "test_persistence": ("persistence-off",),
        "test_group_gpus": ("gpu-missing", "gpu-replaced", "instance-gpus"),
        "test_holds": ("unheld",),
    },
    "test_hosts": {
        "test_reachable": ("unreachable", "no-root"),
        "test_units": ("unit-down", "unit-not-enabled", "instance-loop"),
        "test_time_daemon": ("clock-free",),
        "test_clock": ("clock-off",),
        "test_disk": ("disk-short", "inodes-short"),
        "test_firewall": ("firewall-open",),
    },
    "test_models": {
        "test_resident": ("model-not-ready", "model-fault", "cpu-fallback"),
        "test_agent": ("model-not-ready", "model-fault", "agent-silent"),
        "test_version": ("release-differs", "instance-silent"),
        "test_closed": ("firewall-open",),
        "test_no_cpu_fallback": ("cpu-fallback",),
    },
}
"""For each health check, the findings by which the doctor and `status` say what is wrong where it fails."""


def test_every_health_check_is_explained_by_an_error_of_the_doctor() -> None:
    found = {
        path.stem: {
            node.name
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        }
        for path in sorted(Path(ROOT / "tests/health").glob("test_*.py"))
        if path.stem != "test_doctor"
    }
    assert found == {name: set(checks) for name, checks in EXPLAINED.items()}
    for checks in EXPLAINED.values():
        for ids in checks.values():
            assert {kinds.KINDS[each].severity for each in ids} == {"error"}


def test_every_subject_has_a_finding_of_its_name() -> None:
    assert {subject.value: kind.id for subject, kind in live.KINDS.items()} == {one.value: one.value for one in Subject}
