"""What the operations of the chat's database would run, and how PostgreSQL's answers are read."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from pyinfra.api.exceptions import PyinfraError
from test_operations import Fake

from flexi.chathost import turns
from flexi.facts import ChatDatabase, ChatDatabaseTruth
from flexi.operations.chat_database import chats_stay_seen, database_made, redis_installed

NAME = "flexi-chat"
DATABASE = "runuser -u postgres"
SQLITE = "/var/lib/flexi-chat/webui.db"
A_FILE = ["user=flexi-chat group=flexi-chat mode=-rw------- atime=1 mtime=1 ctime=1 size=1 'x'"]


def doing(commands: list[str]) -> list[str]:
    """Without those of facts."""
    return [text for text in commands if any(word in text for word in ("CREATE", "systemctl", "apt-get -y"))]


def test_only_what_is_missing_is_made() -> None:
    found, commands = Fake({}).run(database_made, database=NAME)
    assert found
    kinds = ("ROLE", "DATABASE", "EXTENSION")
    assert all(f"CREATE {kind}" in text for text, kind in zip(doing(commands), kinds, strict=True))
    _, commands = Fake({DATABASE: ["role", "database"]}).run(database_made, database=NAME)
    (only,) = doing(commands)
    assert "CREATE EXTENSION" in only
    assert f"-d {NAME}" in only
    found, commands = Fake({DATABASE: ["role", "database", "extension"]}).run(database_made, database=NAME)
    assert not found
    assert doing(commands) == []


def test_a_postgresql_that_is_not_there_has_nothing() -> None:
    assert ChatDatabase().process([]) == ChatDatabaseTruth()


def test_chats_in_sqlite_are_not_hidden_by_an_empty_database(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(PyinfraError, match="No hosts remaining"):
        Fake({SQLITE: A_FILE, DATABASE: ["role", "database", "extension"]}).run(chats_stay_seen, database=NAME)
    assert "PostgreSQL would begin empty" in caplog.text
    assert "move that file away; to keep them, set chat.database to sqlite" in caplog.text
    used = Fake({SQLITE: A_FILE, DATABASE: ["role", "database", "extension", "used"]})
    assert not used.run(chats_stay_seen, database=NAME)[0]
    assert not Fake({}).run(chats_stay_seen, database=NAME)[0]


def test_redis_comes_without_a_service_on_a_port() -> None:
    """Its package starts one on 6379 that asks nobody who he is."""
    _, commands = Fake({}).run(redis_installed, package="redis-server", service="redis-server.service")
    first, second, last = (text for text in doing(commands) if "update" not in text)
    assert "systemctl mask" in first
    assert "install" in second
    assert "unmask" in last
    assert "disable" in last


def test_a_redis_of_the_hosts_own_is_left_alone() -> None:
    there = Fake({"dpkg": ["ii  redis-server  5:7.0.15-1  amd64  x"]})
    found, commands = there.run(redis_installed, package="redis-server", service="redis-server.service")
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
