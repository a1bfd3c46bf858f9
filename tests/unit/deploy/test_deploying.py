"""The wrapper around pyinfra: what it runs, and what it makes of the outcome."""

from __future__ import annotations

import io
import json
import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from flexi.cli import main
from flexi.deploy import run as deploying
from flexi.errors import EXIT_OK, FlexiError, InputError
from flexi.paths import INVENTORY
from flexi.plan import build_plan
from flexi.plan.model.site import HostPlan, Plan
from flexi.site import load_site
from flexi.ssh import remote
from flexi.ssh.remote import Answer


def lab_plan() -> Plan:
    """Without the SSH configuration that only a lab which is up has."""
    plan = build_plan(load_site(INVENTORY / "lab.yaml"))
    return with_ssh(plan, config=None)


def with_ssh(plan: Plan, **change: str | None) -> Plan:
    hosts = [host.model_copy(update={"ssh": host.ssh.model_copy(update=change)}) for host in plan.hosts]
    return plan.model_copy(update={"hosts": tuple(hosts)})


@pytest.mark.parametrize("key", ["config", "identity"])
def test_a_file_that_ssh_lacks_is_said_before_pyinfra_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("something was started"))
    plan = with_ssh(lab_plan(), **{key: str(tmp_path / "none")})
    with pytest.raises(InputError, match=rf"^ssh\.{key}: .*none cannot be read \(no such file or directory\): correct"):
        deploying.deploy(
            plan, INVENTORY / "lab.yaml", Console(file=io.StringIO()), deploying.Wish(), dry=True, wait=False
        )


def test_it_runs_what_an_admin_could_type() -> None:
    command = deploying.pyinfra_command(
        INVENTORY / "lab.yaml", deploying.Wish(("server-a",), accept_gpus=("server-b", "server-a"))
    )
    data = ["--data", "accept_gpus=server-b,server-a"]
    assert command[1:] == ["-y", "--json", "--limit", "server-a", *data, "inventory/lab.py", "deploy.py"]
    assert "--dry" in deploying.pyinfra_command(INVENTORY / "lab.yaml", deploying.Wish(), dry=True)


def test_a_site_without_its_two_lines_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"uni\.py is missing: copy inventory/example\.py"):
        deploying.inventory_file(tmp_path / "uni.yaml")


def test_failed_hosts_are_read_from_the_outcome() -> None:
    output = json.dumps({"results": {"failed_hosts": ["server-b"], "totals": {"success": 3}}})
    assert deploying.failed_hosts(output) == ["server-b"]
    assert deploying.changes(output) == 3


@pytest.mark.parametrize("output", ["", "not json", "[]", '{"results": null}'])
def test_an_outcome_that_never_came_names_nobody(output: str) -> None:
    assert deploying.failed_hosts(output) == []


@pytest.mark.parametrize(
    ("limit", "asked", "words"),
    [
        ([], {"server-a", "server-b"}, "all models are loaded"),
        (["server-b", "gateway"], {"server-b"}, "all models on server-b are loaded"),
        (["gateway"], set(), ""),
    ],
)
def test_it_waits_for_the_models_of_the_hosts_that_it_deployed(
    monkeypatch: pytest.MonkeyPatch, limit: list[str], asked: set[str], words: str
) -> None:
    plan = lab_plan()
    outcome = json.dumps({"results": {"failed_hosts": [], "totals": {"success": 0}}})
    monkeypatch.setattr(subprocess, "run", lambda argv, **_: subprocess.CompletedProcess(argv, 0, outcome, ""))
    hosts = set()

    def all_ready(host: HostPlan, command: str) -> Answer:
        if "sudo" in command:
            return Answer(0, "", "")
        hosts.add(host.name)
        instances = [
            {"group": i.group, "models": [{"name": model.name, "phase": "ready"} for model in i.models]}
            for i in plan.instances
            if i.host == host.name
        ]
        return Answer(0, json.dumps({"time": 5, "instances": instances}) + "\n5\n", "")

    monkeypatch.setattr(remote, "run", all_ready)
    console = Console(file=io.StringIO(), width=160)
    done = deploying.deploy(plan, INVENTORY / "lab.yaml", console, deploying.Wish(tuple(limit)), dry=False, wait=True)
    assert done == EXIT_OK
    assert hosts == asked
    assert isinstance(console.file, io.StringIO)
    assert words in console.file.getvalue()
    assert ("loaded" in console.file.getvalue()) == bool(asked)


def test_a_host_where_sudo_wants_a_password_is_named_before_any_host_is_touched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_pyinfra(*_: object, **__: object) -> None:
        pytest.fail("pyinfra was started")

    def run(host: HostPlan, command: str) -> Answer:
        assert command == "sudo -n true"
        if host.name == "gateway":
            return Answer(remote.UNREACHABLE, "", "No route to host")
        return Answer(1, "", "sudo: a password is required") if host.name == "server-b" else Answer(0, "", "")

    monkeypatch.setattr(subprocess, "run", no_pyinfra)
    monkeypatch.setattr(remote, "run", run)
    site = tmp_path / "my.yaml"
    site.with_suffix(".py").touch()
    plan = lab_plan()
    words = (
        "admin may not become root on server-b (sudo: a password is required): nothing was touched. "
        f"What mends it: ./flexi doctor {site}"
    )
    with pytest.raises(FlexiError, match=f"^{re.escape(words)}$"):
        deploying.deploy(plan, site, Console(file=io.StringIO()), deploying.Wish(), dry=True, wait=False)


def test_who_lets_a_host_leave_hears_that_its_pins_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = lab_plan()
    outcome = json.dumps({"results": {"failed_hosts": [], "totals": {"success": 9}}})
    monkeypatch.setattr(subprocess, "run", lambda argv, **_: subprocess.CompletedProcess(argv, 0, outcome, ""))
    console = Console(file=io.StringIO(), width=400)
    assert deploying.remove(plan, INVENTORY / "lab.yaml", console, "server-b", purge=False, dry=False) == EXIT_OK
    assert isinstance(console.file, io.StringIO)
    assert "server-b keeps its driver, but neither holds nor pins" in console.file.getvalue()


def test_a_dry_removal_only_foretells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked, and nobody is told to change the site file."""
    ran = []
    monkeypatch.setattr(
        subprocess, "run", lambda argv, **_: (ran.append(argv), subprocess.CompletedProcess(argv, 0, "", ""))[1]
    )
    monkeypatch.setattr("flexi.cli.deploy.load", lambda site: (INVENTORY / "lab.yaml", lab_plan()))
    done = CliRunner().invoke(main.cli, ["remove", "lab", "server-b", "--dry", "--purge"], catch_exceptions=False)
    assert done.exit_code == EXIT_OK
    (command,) = (argv for argv in ran if "remove.py" in argv)
    assert command[1:] == ["--dry", "--limit", "server-b", "--data", "purge=yes", "inventory/lab.py", "remove.py"]
    assert "neither holds nor pins" not in done.output


def test_a_site_without_gpu_hosts_has_nothing_to_roll_back() -> None:
    site = INVENTORY / "lab.yaml"
    plan = lab_plan()
    bare = plan.model_copy(update={"hosts": tuple(host for host in plan.hosts if not host.ollama)})
    with pytest.raises(InputError, match="the site has no GPU host"):
        deploying.roll_back(bare, site, Console(file=io.StringIO()), deploying.Wish())
