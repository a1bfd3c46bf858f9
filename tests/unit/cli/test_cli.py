"""The command line: one clear message, the documented exit status, no traceback."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from flexi.cli import main
from flexi.paths import ROOT

GOOD = (ROOT / "inventory/lab.yaml").read_text().partition("\nchat:")[0]


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def flexi(*arguments: str) -> Done:
    """The command line as a user calls it, in this process: a start takes longer than what most of these tests do."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["flexi", *arguments])
        patch.setenv("NO_COLOR", "1")
        patch.chdir(ROOT)
        with pytest.raises(SystemExit) as ended:
            main.main()
    return Done(ended.value.code if isinstance(ended.value.code, int) else 0, out.getvalue(), err.getvalue())


def test_a_process_of_its_own_ends_with_the_same_status() -> None:
    command = [sys.executable, "-m", "flexi", "check", "hagn"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "hagen" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["check", "plan", "deploy", "verify", "status", "usage", "doctor"])
def test_a_wrong_site_file_ends_every_command_with_2(tmp_path: Path, command: str) -> None:
    path = tmp_path / "uni.yaml"
    path.write_text(GOOD.replace("parallel: 1", "paralel: 1"))
    done = flexi(command, str(path))
    assert done.returncode == 2
    assert f"uni.yaml:{line_of(path, 'paralel')}" in done.stderr
    assert "parallel" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_this_machine_refuses_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/var/tmp/x")

    monkeypatch.setattr("flexi.cli.site.render_plan", full)
    done = flexi("plan", "example")
    assert (done.returncode, done.stderr) == (1, "flexi: /var/tmp/x: No space left on device\n")


def test_a_secret_that_others_may_read_is_warned_of(tmp_path: Path) -> None:
    secret = tmp_path / "db.secret"
    secret.write_text("postgresql://flexi:x@192.0.2.9/chat\n")
    site = tmp_path / "uni.yaml"
    site.write_text(
        GOOD + "chat:\n  host: gateway\n  name: chat.example.edu\n  database: postgresql\n"
        "  database_url: {file: db.secret}\n"
    )
    for mode, expected in ((0o644, 1), (0o640, 1), (0o600, 0), (0o400, 0)):
        secret.chmod(mode)
        done = flexi("check", str(site))
        assert done.returncode == 0, done.stderr
        words = f"chat.database_url: warning: others on this machine may read {secret}: chmod 600 {secret}"
        assert done.stdout.count(words) == expected
        report = json.loads(flexi("check", "--json", str(site)).stdout)
        assert [w["where"] for w in report["warnings"]].count("chat.database_url") == expected


def test_a_file_that_is_not_there_comes_with_what_to_do(tmp_path: Path) -> None:
    site = tmp_path / "uni.yaml"
    chat = GOOD + "chat:\n  host: gateway\n  name: chat.example.edu\n"
    for lines, words in (
        (
            "  agreement: {version: '1', de: nope.md}\n",
            "nope.md cannot be read (no such file or directory): put the file",
        ),
        ("  logo: nope.png\n", "nope.png cannot be read (no such file or directory): put the file there"),
        (
            "  database: postgresql\n  database_url: {command: exit 3}\n",
            f"`exit 3` failed with status 3: try it in a shell, in {tmp_path}",
        ),
    ):
        site.write_text(chat + lines)
        done = flexi("check", str(site))
        assert (done.returncode, done.stdout) == (2, "")
        assert words in done.stderr


def line_of(path: Path, text: str) -> int:
    return next(number for number, line in enumerate(path.read_text().splitlines(), 1) if text in line)


def test_an_unknown_site_names_the_known_ones() -> None:
    done = flexi("check", "hagn")
    assert done.returncode == 2
    assert "hagen" in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["deploy", "--help"], ["lab", "--help"]])
def test_help_is_not_an_error(arguments: list[str]) -> None:
    done = flexi(*arguments)
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_no_command_shows_the_commands_and_is_an_input_error() -> None:
    done = flexi()
    assert done.returncode == 2
    assert "deploy" in done.stdout + done.stderr


def test_check_is_json_for_programs(tmp_path: Path) -> None:
    done = flexi("check", "lab", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert (report["schema"], report["site"], report["ok"]) == (1, "lab", True)
    assert {"where", "message"} == set(report["warnings"][0])

    path = tmp_path / "uni.yaml"
    path.write_text(GOOD.replace("parallel: 1", "paralel: 1"))
    done = flexi("check", str(path), "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 2
    assert report["ok"] is False
    finding = report["findings"][0]
    assert finding["line"] == line_of(path, "paralel")
    assert "parallel" in finding["remedy"]


def test_an_unknown_option_is_an_input_error() -> None:
    done = flexi("deploy", "lab", "--quickly")
    assert done.returncode == 2
    assert "--quickly" in done.stderr


def test_an_unknown_host_in_limit_is_refused_before_anything_runs() -> None:
    done = flexi("deploy", "lab", "--limit", "server-z")
    assert done.returncode == 2
    assert "server-a" in done.stderr
    assert "pyinfra" not in done.stdout


def test_an_unknown_host_is_refused_before_any_is_asked() -> None:
    done = flexi("doctor", "lab", "--host", "server-z")
    assert done.returncode == 2
    assert "server-z: the site has no such host; it has server-a" in done.stderr


@pytest.mark.parametrize(("host", "words"), [("server-z", "it has server-a"), ("gateway", "gateway is the gateway")])
def test_a_host_that_cannot_leave_is_refused_before_anybody_is_asked(host: str, words: str) -> None:
    """Without a terminal the question itself is an error: what is wrong with the host must come first."""
    done = flexi("remove", "lab", host)
    assert done.returncode == 2
    assert words in done.stderr


def test_plan_is_json_for_programs() -> None:
    done = flexi("plan", "hagen", "--json")
    assert done.returncode == 0
    plan = json.loads(done.stdout)
    assert {host["name"] for host in plan["hosts"]} >= {"server-a", "server-b"}


def test_the_pyinfra_inventory_refuses_a_wrong_site_file(tmp_path: Path) -> None:
    """By hand, without the wrapper: pyinfra itself must end with 2 and the findings, before it connects."""
    site = tmp_path / "uni.yaml"
    site.write_text(GOOD.replace("count: 8", "count: eight"))
    inventory = tmp_path / "uni.py"
    inventory.write_text((ROOT / "inventory/lab.py").read_text())
    pyinfra = Path(sys.executable).with_name("pyinfra")
    done = subprocess.run(
        [pyinfra, "-y", str(inventory), "deploy.py"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert f"uni.yaml:{line_of(site, 'eight')}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "words"), [(("--since", "soon"), "7d or 12h"), (("--csv", "--json"), "one of the two")]
)
def test_usage_says_what_it_takes(options: tuple[str, ...], words: str) -> None:
    done = flexi("usage", "hagen", *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_certificate_that_is_not_there_is_a_finding_for_programs(tmp_path: Path) -> None:
    path = tmp_path / "uni.yaml"
    path.write_text(GOOD.rstrip() + "\n  tls: {certificate: ./no.pem, key: ./no.key}\n")
    done = flexi("check", str(path), "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"]) == (2, False)
    assert "no.pem" in report["findings"][0]["reason"]
