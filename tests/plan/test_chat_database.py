"""The chat's PostgreSQL and Redis: what the plan asks of its host, and what Open WebUI is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexi.errors import InputError
from flexi.local_files.chat_place import place
from flexi.plan import build_plan
from flexi.plan.build.chat_database import POSTGRES, database_environment, database_plan
from flexi.plan.build.needs import package_set
from flexi.plan.model.chat import ChatPlan
from flexi.site import load_site

SITE = """\
site: {{name: x}}
ssh: {{user: admin}}
driver: {{branch: 535-server}}
hosts:
  one:
    address: 192.0.2.1
    gpus: {{model: RTX A5000, count: 1}}
    groups: {{a: {{gpus: [0], models: [llama3:8b]}}}}
  two: {{address: 192.0.2.2, platform: {platform}}}
gateway: {{host: two, name: flexi.example.edu}}
chat: {{host: two, name: chat.example.edu{more}}}
"""


def chat(tmp_path: Path, more: str = "", platform: str = "debian-12") -> ChatPlan:
    file = tmp_path / "x.yaml"
    file.write_text(SITE.format(more=f", {more}" if more else "", platform=platform))
    found = build_plan(load_site(file)).chat
    assert found
    return found


def test_sqlite_needs_nothing(tmp_path: Path) -> None:
    assert database_plan(chat(tmp_path), "debian-12") is None
    assert database_environment(chat(tmp_path)) == ()


def test_a_database_of_our_own_has_no_password(tmp_path: Path) -> None:
    """PostgreSQL knows the chat by its user, over a socket: nothing to keep secret, nothing on a port."""
    plan = chat(tmp_path, "database: postgresql, workers: 2")
    needs = database_plan(plan, "debian-12")
    assert needs
    assert needs.packages == ("postgresql-15", "postgresql-15-pgvector")
    assert needs.redis_package == "redis-server"
    settings = dict(database_environment(plan))
    assert settings["DATABASE_URL"] == "postgresql+psycopg://flexi-chat@/flexi-chat?host=/run/postgresql"
    assert settings["VECTOR_DB"] == "pgvector"
    assert settings["WEBSOCKET_MANAGER"] == "redis"
    assert settings["REDIS_URL"] == "unix:///run/flexi-chat-redis/redis.sock"
    assert settings["PGVECTOR_CREATE_EXTENSION"] == "false"


def test_one_worker_needs_no_redis(tmp_path: Path) -> None:
    plan = chat(tmp_path, "database: postgresql")
    needs = database_plan(plan, "debian-12")
    assert needs
    assert needs.redis_package is None
    assert not {"REDIS_URL", "WEBSOCKET_MANAGER"} & set(dict(database_environment(plan)))


def test_those_of_the_site_are_only_reached(tmp_path: Path) -> None:
    """Their addresses hold passwords: they are no settings that everybody may read."""
    own = "database: postgresql, workers: 3, database_url: {command: pass show db}, redis_url: {file: redis.secret}"
    plan = chat(tmp_path, own)
    needs = database_plan(plan, "debian-12")
    assert needs
    assert (needs.server, needs.packages, needs.redis_package) == (False, ("postgresql-client",), None)
    settings = dict(database_environment(plan))
    assert not {"DATABASE_URL", "REDIS_URL", "PGVECTOR_CREATE_EXTENSION"} & set(settings)
    assert settings["WEBSOCKET_MANAGER"] == "redis"


@pytest.mark.parametrize("workers", range(1, 17))
def test_all_workers_together_have_fewer_connections_than_postgresql(workers: int, tmp_path: Path) -> None:
    """max_connections is 100, of which 3 are the superuser's (PostgreSQL 15, 20.3.1); each worker has a connection of
    its own for a moment when it starts."""
    settings = dict(database_environment(chat(tmp_path, f"database: postgresql, workers: {workers}")))
    each = int(settings["DATABASE_POOL_SIZE"]) + int(settings["PGVECTOR_POOL_SIZE"])
    assert settings["DATABASE_POOL_MAX_OVERFLOW"] == settings["PGVECTOR_POOL_MAX_OVERFLOW"] == "0"
    assert workers * each <= 97 - 3
    assert each >= 4


def test_every_platform_has_a_postgresql(tmp_path: Path) -> None:
    for platform, row in POSTGRES.items():
        plan = build_plan(load_site_with(tmp_path, platform))
        needed = package_set(plan.host("two")).packages
        assert {*row.packages, "redis-server"} <= set(needed), platform


def load_site_with(tmp_path: Path, platform: str):
    chat(tmp_path, "database: postgresql, workers: 2", platform)
    return load_site(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("postgresql://chat:geheim@DB.example.edu/chats?sslmode=require", "db.example.edu:5432/chats"),
        ("postgres://chat:ge%2Fheim@db.example.edu:5433/chats", "db.example.edu:5433/chats"),
        ("postgresql+psycopg://chat:geheim@/chats?host=db.example.edu&port=6432", "db.example.edu:6432/chats"),
        ("postgresql://chat:geheim@[2001:db8::7]/chats", "2001:db8::7:5432/chats"),
        ("postgresql://chat:geheim@db.example.edu", "db.example.edu:5432/chat"),  # libpq: a database of the user's name
        ("postgresql:///chats?user=chat&password=geheim", "localhost:5432/chats"),
    ],
)
def test_where_the_chats_are_is_said_without_a_password(url: str, where: str, tmp_path: Path) -> None:
    (tmp_path / "db.secret").write_text(f"{url}\n")
    plan = chat(tmp_path, "database: postgresql, database_url: {file: db.secret}")
    assert place(plan) == where


@pytest.mark.parametrize(
    "url",
    [
        "mysql://chat:geheim@db.example.edu/chats",
        "db.example.edu/geheim",
        "postgresql://chat:1/geheim@db.example.edu/chats",
        "postgresql://chat:1#geheim@db.example.edu/chats",
        "postgresql://chat:1?geheim@db.example.edu/chats",
    ],
)
def test_what_is_no_address_is_refused_without_a_word_of_it(url: str, tmp_path: Path) -> None:
    (tmp_path / "db.secret").write_text(url)
    plan = chat(tmp_path, "database: postgresql, database_url: {file: db.secret}")
    with pytest.raises(InputError, match=r"chat\.database_url: is no address of a PostgreSQL") as refused:
        place(plan)
    assert "geheim" not in str(refused.value)


def test_places_on_the_host_have_names(tmp_path: Path) -> None:
    assert place(chat(tmp_path)) == "sqlite"
    assert place(chat(tmp_path, "database: postgresql")) == "postgresql"
