"""What goes from the stores, what stays and why: decided on plans of real site files and on what agents say."""

from __future__ import annotations

import json
import logging
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api.operation import add_op
from support.fake_host import Fake

from flexi.facts.ollama import _LIST_STORES, OLLAMA_HOMES, GroupStore, OllamaStores
from flexi.operations import stores
from flexi.operations.stores import Surplus
from flexi.plan import build_plan
from flexi.plan.model.site import Plan
from flexi.site import load_site
from flexi.status.instances import HostStatus

SITE = """\
site: {name: test}
ssh: {user: admin}
mirrors: {models: 'http://192.0.2.9:5000'}
hosts:
  one:
    address: 192.0.2.1
    gpus: {model: RTX A5000, count: 2}
    groups:
      a: {gpus: [0], models: ['llama3:8b']}
      b: {gpus: [1], models: ['phi3:3.8b', 'llama3:8b']}
  two:
    address: 192.0.2.2
    gpus: {model: RTX A5000, count: 1}
    groups:
      c: {gpus: [0], models: ['mistral:7b']}
  door:
    address: 192.0.2.3
gateway: {host: door, name: flexi.example.edu}
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    path = tmp_path / "test.yaml"
    path.write_text(SITE)
    return build_plan(load_site(path))


def says(host: str, *groups: tuple[str, str, Mapping[str, str]]) -> HostStatus:
    """What an agent says: (group, phase, phases of its models)."""
    instances = [
        {"group": group, "phase": phase, "models": [{"name": name, "phase": p} for name, p in models.items()]}
        for group, phase, models in groups
    ]
    return HostStatus(host, None, {"instances": instances})


GOOD = {
    "one": says(
        "one", ("a", "ready", {"llama3:8b": "ready"}), ("b", "ready", {"phi3:3.8b": "ready", "llama3:8b": "ready"})
    ),
    "two": says("two", ("c", "ready", {"mistral:7b": "ready"})),
    "door": HostStatus("door", "no status", None),
}


def test_what_the_plan_wants_is_no_surplus_and_neither_is_a_name_on_its_way(plan: Plan) -> None:
    """A mirror's long name stands in the store until the agent has renamed it."""
    found = [
        GroupStore("a", ("192.0.2.9:5000/library/llama3:8b", "llama3:8b")),
        GroupStore("b", ("llama3:8b", "phi3:3.8b")),
    ]
    assert stores.surplus(plan.host("one"), found) == []


def test_models_beyond_the_plan_and_stores_of_groups_that_are_gone(plan: Plan) -> None:
    found = [
        GroupStore("a", ("gemma:7b", "llama3:8b", "phi3:3.8b")),
        GroupStore("old", ("mistral:7b",)),
        GroupStore("c", ()),
    ]
    assert stores.surplus(plan.host("one"), found) == [
        Surplus("a", ("gemma:7b",), 11434),
        Surplus("a", ("phi3:3.8b",), 11434),
        Surplus("old", ("mistral:7b",), None),
        Surplus("c", (), None),
    ], "c is a group of another host"
    assert stores.surplus(plan.host("door"), [GroupStore("a", ("x:1",))]) == [Surplus("a", ("x:1",), None)]


READY_LLAMA = {"llama3:8b": "ready"}
MOVED = Surplus("a", ("phi3:3.8b",), 11434)
SHARED = Surplus("old", ("llama3:8b",), None)
FAR = Surplus("a", ("mistral:7b",), 11434)


def test_what_serves_elsewhere_goes_and_so_does_what_is_wanted_nowhere(plan: Plan) -> None:
    for item in (MOVED, SHARED, FAR, Surplus("a", ("gemma:7b",), 11434), Surplus("old", (), None)):
        assert stores.obstacle(item, plan.host("one"), plan, GOOD) is None


@pytest.mark.parametrize(
    ("item", "change", "words", "passing"),
    [
        (MOVED, {"one": says("one", ("a", "ready", {}), ("b", "ready", {"phi3:3.8b": "loading"}))},
         "phi3:3.8b is loading on one/b", True),
        (MOVED, {"one": says("one", ("a", "ready", {}), ("b", "ready", {"phi3:3.8b": "downloading"}))},
         "phi3:3.8b is downloading on one/b", False),
        (MOVED, {"one": says("one", ("a", "ready", {}), ("b", "ready", {}))},
         "phi3:3.8b is unknown to the agent on one/b", False),
        (MOVED, {"one": says("one", ("a", "fault", {}))}, "group a is fault", False),
        (MOVED, {"one": says("one", ("a", "starting", {}))}, "group a is starting", True),
        (MOVED, {"one": HostStatus("one", "silent for 99 s", None)}, "group a is unknown (silent for 99 s)", False),
        (SHARED, {"one": says("one", ("a", "ready", {"llama3:8b": "fault"}))}, "llama3:8b is fault on one/a", False),
        (SHARED, {"one": says("one", ("a", "ready", READY_LLAMA), ("b", "ready", {"llama3:8b": "starting"}))},
         "llama3:8b is starting on one/b", True),
        (Surplus("old", ("gemma:7b", "llama3:8b"), None), {"one": says("one")},
         "llama3:8b is unknown to the agent on one/a", False),
        (FAR, {"two": None}, None, False),
        (FAR, {}, "mistral:7b belongs to two/c, which is not part of this run", False),
    ],
)  # fmt: skip
def test_what_stays_says_why(
    plan: Plan, item: Surplus, change: dict[str, Any], words: str | None, passing: bool
) -> None:
    statuses = {**({} if not change else GOOD), **change}
    if not change:
        statuses = {"one": GOOD["one"]}
    found = stores.obstacle(item, plan.host("one"), plan, statuses)
    assert (found.words if found else None, found.passing if found else False) == (words, passing)


@pytest.mark.parametrize("group", ["../x", "x/y", "", ".", "..", "a b", "-rf", "x;y", "a\n"])
def test_nothing_but_a_group_can_be_removed(group: str) -> None:
    with pytest.raises(ValueError, match="is no name of a group"):
        _ = Surplus(group, (), None).command


def homes(root: Path) -> Path:
    """Stores as they lie on a host, and what must not be taken for one."""
    manifests = {
        "a/models/manifests/registry.ollama.ai/library/LLaMA3/8B": "llama3:8b",
        "a/models/manifests/registry.ollama.ai/someone/x/latest": "someone/x:latest",
        "a/models/manifests/mirror:5000/library/phi3/3.8b": "mirror:5000/library/phi3:3.8b",
        "odd name/models/manifests/registry.ollama.ai/library/x/1": "",
        "foreign/models/manifests/registry.ollama.ai/library/x/1": "",
        "empty/models": "",
        "homeless/.ollama/id": "",
    }
    for path in manifests:
        target = root / "lib" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.mkdir() if target.name == "models" else target.write_text("{}")
    (root / "lib" / "linked").symlink_to(root / "lib" / "foreign")
    (root / "etc").mkdir()
    for group in ("a", "odd name", "empty", "homeless", "linked"):
        (root / "etc" / f"{group}.env").touch()
    return root


def listed(root: Path) -> list[GroupStore]:
    script = _LIST_STORES.replace(OLLAMA_HOMES, f"{root}/lib").replace("/etc/ollama", f"{root}/etc")
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    return OllamaStores().process(done.stdout.splitlines())


def test_stores_are_read_from_the_disk(tmp_path: Path) -> None:
    assert listed(tmp_path) == []
    assert listed(homes(tmp_path)) == [
        GroupStore("a", ("llama3:8b", "mirror:5000/library/phi3:3.8b", "someone/x:latest")),
        GroupStore("empty", ()),
    ]


def fake(*lines: str, status: HostStatus | None = None) -> Fake:
    answers: dict[str, object] = {OLLAMA_HOMES: list(lines)}
    if status:
        answers["/run/flexi-agent/status.json"] = [
            json.dumps({**(status.status or {}), "time": time.time()}),
            str(int(time.time())),
        ]
    return Fake(answers)


def run(plan: Plan, *lines: str, status: HostStatus | None = None) -> tuple[bool, list[str]]:
    host = fake(*lines, status=status)
    # The fake host's name decides which host of the plan it is.
    one = plan.host("one").model_copy(update={"name": host.host.name})
    instances = tuple(i.model_copy(update={"host": host.host.name}) for i in one.ollama.instances)
    one = one.model_copy(update={"ollama": one.ollama.model_copy(update={"instances": instances})})
    changed = plan.model_copy(update={"hosts": (one, *plan.hosts[1:])})
    predicted, commands = host.run(stores.remove_surplus, host_plan=one, plan=changed)
    return predicted, [c for c in commands if "/api/delete" in c or "remove /" in c]


MOVED_LINES = (
    "store a",
    "model registry.ollama.ai/library/phi3/3.8b",
    "store old",
    "model registry.ollama.ai/library/x/1",
)


def test_a_host_whose_stores_are_right_is_left_alone(plan: Plan) -> None:
    assert run(plan, "store a", "model registry.ollama.ai/library/llama3/8b") == (False, [])
    assert run(plan) == (False, [])


def test_a_dry_run_announces_what_goes_and_the_run_does_it(plan: Plan) -> None:
    predicted, commands = run(plan, *MOVED_LINES, status=GOOD["one"])
    assert predicted
    assert len(commands) == 2
    assert """-X DELETE -H 'Content-Type: application/json' -d '{"model": "phi3:3.8b"}'""" in commands[0]
    assert "http://127.0.0.1:11434/api/delete" in commands[0]
    assert "remove /var/lib/ollama/old\n" in commands[1]
    assert "systemctl is-active -q ollama@old.service" in commands[1]


def test_a_dry_run_names_what_goes(plan: Plan, caplog: pytest.LogCaptureFixture) -> None:
    """The operation is one for the whole host: whoever confirms a change must see which models it takes."""
    caplog.set_level(logging.INFO, logger="pyinfra")
    stored, one = fake(*MOVED_LINES), plan.host("one").model_copy(update={"name": "@fake/host"})
    add_op(stored.state, stores.remove_surplus, host_plan=one, plan=plan.model_copy(update={"hosts": (one,)}))
    assert "x:1: wanted nowhere any more" in caplog.text
    assert "/var/lib/ollama/old would be removed" in caplog.text
    assert "is removed" not in caplog.text


def test_a_model_whose_place_is_in_no_host_of_the_run_stays(plan: Plan) -> None:
    assert run(plan, "store a", "model registry.ollama.ai/library/mistral/7b", status=GOOD["one"]) == (False, [])


def test_what_is_loading_is_waited_for_and_what_is_not_is_kept(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "LOADING_TIMEOUT_S", 0.05)
    monkeypatch.setattr(stores, "POLL_S", 0.01)
    loading = says("one", ("a", "ready", {}), ("b", "ready", {"phi3:3.8b": "loading"}))
    predicted, commands = run(plan, *MOVED_LINES, status=loading)
    assert predicted
    assert [command for command in commands if "/api/delete" in command] == []
    assert len(commands) == 1, "x:1 is wanted nowhere"
    answers = iter([loading] * 3)
    monkeypatch.setattr(stores, "LOADING_TIMEOUT_S", 60)
    monkeypatch.setattr(stores, "_poll", lambda name: next(answers, GOOD["one"]))
    _, commands = run(plan, *MOVED_LINES)
    assert len(commands) == 2, "it was ready in time"
