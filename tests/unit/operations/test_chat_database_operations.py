"""What the operations of the chat's database would run, and how PostgreSQL's answers are read."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from pyinfra.api.exceptions import PyinfraError
from support.fake_host import Fake

from flexi.facts.chat import ChatDatabase, ChatDatabaseState
from flexi.operations import chat_database
from flexi_chat.gate import turns

NAME = "flexi-chat"
DATABASE = "runuser -u postgres"
SQLITE = "/var/lib/flexi-chat/webui.db"
A_FILE = ["user=flexi-chat group=flexi-chat mode=-rw------- atime=1 mtime=1 ctime=1 size=1 'x'"]


def doing(commands: list[str]) -> list[str]:
    """Without those of facts."""
    return [text for text in commands if any(word in text for word in ("CREATE", "systemctl", "apt-get -y"))]


def test_only_what_is_missing_is_made() -> None:
    found, commands = Fake({}).run(chat_database.create, database=NAME)
    assert found
    kinds = ("ROLE", "DATABASE", "EXTENSION")
    assert all(f"CREATE {kind}" in text for text, kind in zip(doing(commands), kinds, strict=True))
    _, commands = Fake({DATABASE: ["role", "database"]}).run(chat_database.create, database=NAME)
    (only,) = doing(commands)
    assert "CREATE EXTENSION" in only
    assert f"-d {NAME}" in only
    found, commands = Fake({DATABASE: ["role", "database", "extension"]}).run(chat_database.create, database=NAME)
    assert not found
    assert doing(commands) == []


def test_a_postgresql_that_is_not_there_has_nothing() -> None:
    assert ChatDatabase().process([]) == ChatDatabaseState()


URL = "db.example.edu:5432/chats"
NOTE = "cat /var/lib/flexi/chat-database"


def host_with(note: str | None, file: bool = False, used: bool = False) -> Fake:
    """`note`: where its chats are, as the last deploy wrote it down."""
    return Fake(
        {
            NOTE: [note] if note else [],
            SQLITE: A_FILE if file else [],
            DATABASE: ["role", "database", "extension", "used"] if used else [],
        }
    )


@pytest.mark.parametrize(
    ("there", "wanted", "now", "then"),
    [
        (("sqlite", True, False), "postgresql", f"SQLite ({SQLITE})", "PostgreSQL on this host"),
        (("postgresql", False, True), "sqlite", "PostgreSQL on this host", f"SQLite ({SQLITE})"),
        (("postgresql", True, True), "sqlite", "PostgreSQL on this host", f"SQLite ({SQLITE})"),
        (("postgresql", False, False), URL, "PostgreSQL on this host", f"PostgreSQL at {URL}"),
        ((URL, False, False), "new.example.edu:5432/chats", f"PostgreSQL at {URL}", "at new.example.edu:5432/chats"),
        ((URL, True, True), "postgresql", f"PostgreSQL at {URL}", "PostgreSQL on this host"),
        ((None, True, False), "postgresql", f"SQLite ({SQLITE})", "PostgreSQL on this host"),
        ((None, False, True), "sqlite", "PostgreSQL on this host", f"SQLite ({SQLITE})"),
    ],
)
def test_chats_are_not_hidden_by_an_empty_database(
    there: tuple[str | None, bool, bool], wanted: str, now: str, then: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(PyinfraError, match="No hosts remaining"):
        host_with(*there).run(chat_database.fail_if_chats_hidden, wanted=wanted)
    assert f"the chats are in {now}, and the site file wants them in " in caplog.text
    assert f"{then}, where the page would begin without them" in caplog.text
    place = there[0] or ("sqlite" if there[1] else "postgresql")
    assert f"`flexi backup` and deploy with `--leave-chats {place}`" in caplog.text
    carried = "sqlite" not in (place, wanted)
    assert ("`flexi restore` then brings them" in caplog.text) is carried
    assert ("nothing carries chats" in caplog.text) is not carried
    found, commands = host_with(*there).run(chat_database.fail_if_chats_hidden, wanted=wanted, left=place)
    assert not found
    assert doing(commands) == []


@pytest.mark.parametrize(
    ("there", "wanted"),
    [
        ((None, False, False), "sqlite"),
        ((None, False, False), "postgresql"),
        ((None, False, False), URL),
        (("sqlite", True, False), "sqlite"),
        (("postgresql", False, True), "postgresql"),
        ((URL, False, False), URL),
        ((None, True, True), "postgresql"),  # before flexi noted it, this was an admin's own choice
        (("sqlite", False, False), "postgresql"),  # nobody can lose what is no longer there
    ],
)
def test_who_has_no_chats_elsewhere_is_not_bothered(there: tuple[str | None, bool, bool], wanted: str) -> None:
    assert not host_with(*there).run(chat_database.fail_if_chats_hidden, wanted=wanted)[0]


def test_another_place_than_where_the_chats_are_is_no_leave_to_hide_them() -> None:
    with pytest.raises(PyinfraError, match="No hosts remaining"):
        host_with("postgresql", False, True).run(chat_database.fail_if_chats_hidden, wanted=URL, left="sqlite")


def test_redis_comes_without_a_service_on_a_port() -> None:
    """Its package starts one on 6379 that asks nobody who he is."""
    _, commands = Fake({}).run(chat_database.install_redis, package="redis-server", service="redis-server.service")
    first, second, last = (text for text in doing(commands) if "update" not in text)
    assert "systemctl mask" in first
    assert "install" in second
    assert "unmask" in last
    assert "disable" in last


def test_a_redis_of_the_hosts_own_is_left_alone() -> None:
    there = Fake({"dpkg": ["ii  redis-server  5:7.0.15-1  amd64  x"]})
    found, commands = there.run(chat_database.install_redis, package="redis-server", service="redis-server.service")
    assert not found
    assert doing(commands) == []


def test_processes_take_turns(tmp_path: Path) -> None:
    """Open WebUI's migrations fail where two processes make the same table."""
    order: list[str] = []

    def second() -> None:
        with turns.one_after_the_other(tmp_path / "data"):
            order.append("second")

    with turns.one_after_the_other(tmp_path / "data"):
        other = threading.Thread(target=second)
        other.start()
        other.join(0.05)
        order.append("first")
    other.join(5)
    assert order == ["first", "second"]
