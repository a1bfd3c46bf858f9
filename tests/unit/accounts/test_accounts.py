"""`flexi accounts` and `flexi agreements`: what the chat's host is asked, and what a person gets to see."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flexi.cli.main import cli
from flexi.errors import FlexiError, InputError
from flexi.plan.model.site import HostPlan
from flexi.ssh import remote
from flexi.ssh.remote import Answer

SITE = """
site: {name: uni}
ssh: {user: admin}
hosts:
  server-a:
    address: 192.0.2.11
    gpus: {model: A40, count: 1}
    groups: {a: {gpus: all, models: ["llama3:8b"]}}
gateway: {host: server-a, name: flexi.example.edu}
"""
CHAT = "chat: {host: server-a, name: chat.example.edu}\n"
ADA = {"id": "1", "mail": "ada@example.edu", "name": "=Ada", "role": "user", "made": 0, "seen": None, "accepted": 86400}


class Host:
    """The chat's host: its next answer, and the program's arguments that it was asked with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.says = Answer(0, "{}", "")
        self.asked: list[list[str]] = []
        monkeypatch.setattr(remote, "run", self.run)

    def run(self, host: HostPlan, command: str, *_: object) -> Answer:
        assert host.name == "server-a"
        words = shlex.split(command)
        assert words[:3] == ["sudo", "-n", "systemd-run"]
        assert "--uid=flexi-chat" in words
        self.asked.append(words[words.index("flexi_chat.accounts") + 3 :])
        return self.says


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "uni.yaml"
    path.write_text(SITE + CHAT)
    return path


def flexi(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in arguments])


def test_a_new_account_is_asked_for_in_small_letters_and_its_password_shown_once(host: Host, site: Path) -> None:
    host.says = Answer(0, json.dumps({"mail": "ada@example.edu", "name": "Ada", "password": "abc"}), "")
    result = flexi("accounts", "add", site, "Ada@example.edu", "--name", "Ada Lovelace")
    assert host.asked == [["add", "--", "ada@example.edu", "Ada Lovelace"]]
    assert result.stdout == "abc\n"
    assert "shown only now" in result.stderr


def test_what_is_no_mail_address_reaches_no_host(host: Host, site: Path) -> None:
    for mail in ("ada", "--help@x", "a b@example.edu"):
        assert flexi("accounts", "add", site, "--", mail).exit_code == 2
    assert host.asked == []


def test_the_programs_problem_is_the_commands_error(host: Host, site: Path) -> None:
    host.says = Answer(1, '{"problem": "nobody has an account with ada@example.edu"}\n', "")
    result = flexi("accounts", "remove", site, "ada@example.edu", "--yes")
    assert str(result.exception) == "nobody has an account with ada@example.edu"
    assert isinstance(result.exception, FlexiError)
    host.says = Answer(203, "", "no such file")
    assert "is the chat deployed?" in str(flexi("accounts", "list", site).exception)
    host.says = Answer(255, "", "no route")
    assert "does not answer over SSH: no route" in str(flexi("accounts", "list", site).exception)


def test_nothing_is_removed_where_nobody_can_be_asked(host: Host, site: Path) -> None:
    assert isinstance(flexi("accounts", "remove", site, "ada@example.edu").exception, InputError)
    assert host.asked == []


def test_without_accounts_of_its_own_the_chat_makes_none(host: Host, site: Path, tmp_path: Path) -> None:
    site.write_text(SITE + CHAT.replace("}", ", sign_in: {local: false, trusted_headers: {apache: x.conf}}}"))
    for program in ("add", "reset"):
        assert "local is false" in str(flexi("accounts", program, site, "ada@example.edu").exception)
    site.write_text(SITE)
    assert "has no chat" in str(flexi("accounts", "list", site).exception)
    assert host.asked == []


def test_accounts_and_acceptances_as_json_and_for_spreadsheets(host: Host, site: Path) -> None:
    host.says = Answer(0, json.dumps({"accounts": [ADA]}), "")
    (row,) = json.loads(flexi("accounts", "list", site, "--json").stdout)["accounts"]
    assert (row["made"], row["seen"], row["accepted"]) == (
        "1970-01-01T00:00:00+00:00",
        None,
        "1970-01-02T00:00:00+00:00",
    )
    accepted = {"mail": "ada@example.edu", "name": "=Ada", "version": "2026-10", "digest": "d", "language": "de"}
    host.says = Answer(0, json.dumps({"agreements": [{**accepted, "accepted_at": 0}]}), "")
    assert flexi("agreements", site, "--csv").stdout == (
        "mail,name,version,language,accepted_at,digest\nada@example.edu,'=Ada,2026-10,de,1970-01-01T00:00:00+00:00,d\n"
    )
    assert json.loads(flexi("agreements", site, "--json").stdout)["agreements"][0]["version"] == "2026-10"
