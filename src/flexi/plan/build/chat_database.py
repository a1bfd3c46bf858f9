"""Where the chat keeps what people wrote: Open WebUI's settings for it, and the programs that its host needs.

Names of settings: open_webui/env.py, config.py and internal/db.py of 0.12.4. Tried: PostgreSQL 15 with pgvector 0.8.0
and Redis 7.0, both by Unix sockets, with psycopg 3 alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from flexi.catalog.platforms import PlatformName
from flexi.plan.model.chat import ChatDatabasePlan, ChatPlan

NAME = "flexi-chat"
"""Of the database and of its owner, who is the user of the same name: PostgreSQL knows it by its socket (`peer`)."""
SQLITE = "sqlite"
LOCAL = "postgresql"
"""How the places of chats that need no address are called: Open WebUI's own file, and PostgreSQL on the chat's host."""
URL = f"postgresql+psycopg://{NAME}@/{NAME}?host=/run/postgresql"
REDIS_SOCKET = "/run/flexi-chat-redis/redis.sock"

_CONNECTIONS = 90
"""Of PostgreSQL's 100 (max_connections), without those kept for its superuser, a dump, and a person who looks."""


@dataclass(frozen=True)
class Postgres:
    """PostgreSQL of a platform."""

    server: str
    """The package; its binaries and its cluster come with it."""
    sources: tuple[str, ...]
    unverified: str | None = None

    @property
    def packages(self) -> tuple[str, ...]:
        return (self.server, f"{self.server}-pgvector")


_PGDG = "pgvector is in PostgreSQL's own archive for it (apt.postgresql.org), which mirrors.apt must name"

POSTGRES: Mapping[PlatformName, Postgres] = MappingProxyType(
    {
        "ubuntu-22.04": Postgres("postgresql-14", ("packages.ubuntu.com: jammy, main",), unverified=_PGDG),
        "ubuntu-24.04": Postgres(
            "postgresql-16",
            ("packages.ubuntu.com: noble, main; postgresql-16-pgvector in universe",),
            unverified="not tried on this platform",
        ),
        "debian-12": Postgres(
            "postgresql-15", ("tried on Debian 12.15, with pgvector built from Debian 13's source",), unverified=_PGDG
        ),
    }
)
CLIENT = "postgresql-client"
REDIS = "redis-server"


def database_plan(chat: ChatPlan, platform: PlatformName) -> ChatDatabasePlan | None:
    """What the chat's host needs for it; None where SQLite will do."""
    if chat.database == "sqlite":
        return None
    server = chat.database_url is None
    redis = chat.workers > 1 and chat.redis_url is None
    return ChatDatabasePlan(
        name=NAME,
        server=server,
        packages=POSTGRES[platform].packages if server else (CLIENT,),
        redis_package=REDIS if redis else None,
    )


def database_environment(chat: ChatPlan) -> tuple[tuple[str, str], ...]:
    """Settings of Open WebUI that are no secrets."""
    if chat.database == "sqlite":
        return ()
    each = _CONNECTIONS // chat.workers
    vectors = max(1, each // 4)
    found = [
        ("VECTOR_DB", "pgvector"),
        ("DATABASE_POOL_SIZE", str(each - vectors)),
        ("DATABASE_POOL_MAX_OVERFLOW", "0"),
        ("PGVECTOR_POOL_SIZE", str(vectors)),
        ("PGVECTOR_POOL_MAX_OVERFLOW", "0"),
    ]
    if chat.database_url is None:
        # To make an extension takes the superuser's rights, who has made it.
        found += [("DATABASE_URL", URL), ("PGVECTOR_CREATE_EXTENSION", "false")]
    if chat.workers > 1:
        found.append(("WEBSOCKET_MANAGER", "redis"))
        if chat.redis_url is None:
            found.append(("REDIS_URL", f"unix://{REDIS_SOCKET}"))
    return tuple(found)
