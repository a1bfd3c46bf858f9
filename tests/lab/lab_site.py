"""The lab as its users and admins see it: over HTTP, over SSH and on the command line."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flexi.lab.lifecycle import Lab
from flexi.paths import ROOT
from flexi.plan import build_plan
from flexi.plan.model.site import Plan
from flexi.site import load_site

UP_TIMEOUT_S = 1200
Figure = Callable[[str], None]
Change = tuple[str, str]
"""A host and the name of an operation that changed it."""


@dataclass
class Done:
    """A finished command."""

    status: int
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        return self.stdout + self.stderr


def run(argv: Sequence[str], timeout_s: float = 600, stdin: str = "") -> Done:
    done = subprocess.run(
        list(argv),
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env=os.environ | {"NO_COLOR": "1", "COLUMNS": "160"},
    )
    return Done(done.returncode, done.stdout, done.stderr)


def flexi(*arguments: str, timeout_s: float = 600) -> Done:
    return run([sys.executable, "-m", "flexi", *arguments], timeout_s)


def until(condition: Callable[[], object], timeout_s: float, what: str) -> float:
    """Seconds until `condition` is true; fails after `timeout_s`."""
    start = time.monotonic()
    while True:
        if condition():
            return time.monotonic() - start
        if time.monotonic() - start > timeout_s:
            pytest.fail(f"not within {timeout_s:.0f} s: {what}")
        # Not a wait for something to happen by then: the loop asks until it has.
        time.sleep(0.1)


@dataclass
class Site:
    """The deployed lab as its users and admins see it."""

    lab: Lab
    env: dict[str, str] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        return self.lab.site_file

    @property
    def plan(self) -> Plan:
        return build_plan(load_site(self.file))

    @property
    def url(self) -> str:
        return self.env["FLEXI_API_URL"]

    @property
    def key(self) -> str:
        return self.env["FLEXI_API_KEY"]

    @property
    def key_header(self) -> Path:
        """A file with the lab consumer's key as a header, for curl's -H @file: never in an argument."""
        path = self.lab.directory / "test.header"
        path.touch(mode=0o600)
        path.write_text(f"Authorization: Bearer {self.key}\n")
        return path

    def ssh(self, host: str, command: str, timeout_s: float = 60, stdin: str = "") -> Done:
        return run(["ssh", "-F", str(self.lab.ssh_config), host, command], timeout_s, stdin)

    def pyinfra(self, *options: str, site_file: Path | None = None, script: str = "deploy.py") -> Done:
        inventory = (site_file or self.file).with_suffix(".py")
        pyinfra = str(Path(sys.executable).with_name("pyinfra"))
        return run([pyinfra, *options, str(inventory), script], 900)

    def as_foretold(self, *options: str, site_file: Path | None = None, script: str = "deploy.py") -> set[Change]:
        """Run `--dry`, then for real; fails unless exactly what the one foretold is what the other changed."""
        dry = self.pyinfra("--dry", "--json", *options, site_file=site_file, script=script)
        assert dry.status == 0, dry.text[-3000:]
        done = self.pyinfra("-y", "--json", *options, site_file=site_file, script=script)
        assert done.status == 0, done.text[-6000:]
        plan = json.loads(dry.stdout)["plan"]
        results = json.loads(done.stdout)["results"]["operations"]
        foretold = {(host, step["name"]) for step in plan for host in step["hosts_with_change"]}
        foretold |= {(host, step["name"]) for step in plan for host in step["hosts_with_conditional_change"]}
        changed = {(host, step["name"]) for step in results for host in step["success"]}
        assert changed == foretold, f"only foretold: {foretold - changed}; only done: {changed - foretold}"
        return changed

    def back_to(self, site_file: Path | None = None) -> None:
        """Deploy and verify; how a test leaves the lab."""
        path = site_file or self.file
        done = flexi("deploy", str(path), "--allow-reboot", timeout_s=900)
        assert done.status == 0, done.text[-3000:]
        assert failures_of(path) == []

    def doctor(self, site_file: Path | None = None) -> list[dict[str, Any]]:
        """What `flexi doctor` finds."""
        done = flexi("doctor", str(site_file or self.file), "--json")
        report: dict[str, Any] = json.loads(done.stdout)
        findings: list[dict[str, Any]] = report["findings"]
        assert done.status == int(any(finding["severity"] == "error" for finding in findings))
        return findings

    def curl(self, path: str, body: object | None = None, *options: str, timeout_s: float = 60) -> tuple[int, str]:
        """Status and body of a request with the lab consumer's key; status 0 and curl's words without an answer."""
        argv = ["curl", "-sS", "-m", str(timeout_s), "-w", "\n%{http_code}", "-H", f"@{self.key_header}", *options]
        if body is not None:
            argv += ["-d", json.dumps(body)]
        done = run([*argv, self.url + path], timeout_s + 10)
        if done.status:
            return 0, done.stderr
        text, _, status = done.stdout.rpartition("\n")
        return int(status), text

    def answers(self, model: str) -> bool:
        status, _ = self.curl(
            "/api/generate", {"model": model, "prompt": "x", "stream": False, "options": {"num_predict": 1}}
        )
        return status == 200

    def verify(self) -> dict[str, Any]:
        done = flexi("verify", str(self.file), "--json")
        assert done.stdout, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        assert done.status == (1 if report["failed"] else 0)
        return report

    def failures(self) -> list[str]:
        return [
            f"{c['host']}: {c['check']}: {c['reason']}" for c in self.verify()["checks"] if c["outcome"] == "failed"
        ]


def access_log(site: Site) -> list[dict[str, Any]]:
    """Every line of the gateway's access log, oldest first."""
    text = site.ssh("gateway", "sudo sh -c 'cat /var/log/flexi/access-*.log'").stdout
    return [json.loads(line) for line in text.splitlines()]


def parse_env(text: str) -> dict[str, str]:
    """Shell assignments as `flexi lab env` prints them."""
    pairs = (
        (word.partition("=")[0], word.partition("=")[2])
        for line in text.splitlines()
        for word in shlex.split(line.removeprefix("export "))
    )
    return dict(pairs)


def failures_of(site_file: Path) -> list[str]:
    """What `flexi verify` finds wrong."""
    done = flexi("verify", str(site_file), "--json")
    assert done.stdout, done.stderr
    checks = json.loads(done.stdout)["checks"]
    return [f"{c['host']}: {c['check']}: {c['reason']}" for c in checks if c["outcome"] == "failed"]


def changed(site: Site, old: str, new: str, name: str) -> Path:
    """A copy of the lab's site file with one thing changed, and its two-line inventory."""
    text = site.file.read_text()
    assert old in text
    return another(site, text.replace(old, new, 1), name)


def another(site: Site, text: str, name: str) -> Path:
    """Another site file for the lab's machines, with the lab's keys."""
    path = site.file.with_name(f"{name}.yaml")
    path.write_text(text)
    path.with_suffix(".py").write_text(site.file.with_suffix(".py").read_text())
    keys = site.file.with_suffix(".keys.json")
    if keys.exists():
        path.with_suffix(".keys.json").write_text(keys.read_text())
    return path
