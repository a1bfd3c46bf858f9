"""Open WebUI's database, reached with what its unit says about it."""

from __future__ import annotations

import os
from collections.abc import Mapping

from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import NullPool


def address(environment: Mapping[str, str]) -> str:
    """SQLAlchemy's name of the database: `DATABASE_URL`, or Open WebUI's own SQLite in `DATA_DIR` (its env.py).

    PostgreSQL is spoken with psycopg 3, which Open WebUI brings for its own.
    """
    url = environment.get("DATABASE_URL") or f"sqlite:///{environment['DATA_DIR']}/webui.db"
    for scheme in ("postgresql+psycopg2://", "postgresql://", "postgres://"):
        if url.startswith(scheme):
            return "postgresql+psycopg://" + url.removeprefix(scheme)
    return url


def engine(environment: Mapping[str, str] = os.environ) -> Engine:
    """A connection for each use. SQLite waits up to 10 s for another writer."""
    url = address(environment)
    arguments = {"timeout": 10.0} if url.startswith("sqlite") else {"connect_timeout": 10}
    return create_engine(url, poolclass=NullPool, connect_args=arguments)
