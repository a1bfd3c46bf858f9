"""Who accepted which agreement, and when: one table beside Open WebUI's own, in the same database and backup."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from sqlalchemy import Column, Engine, Integer, MetaData, String, Table, select, text
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from flexi_chat.gate.agreement import Agreement

_tables = MetaData()
acceptances = Table(
    "flexi_agreement",
    _tables,
    Column("user_id", String(255), primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("version", String(255), nullable=False),
    Column("language", String(8), nullable=False),
    Column("accepted_at", Integer, nullable=False),  # Unix time, seconds
)


class Acceptances:
    """The acceptances of one agreement; `agreement` None is accepted by everybody.

    Raises SQLAlchemyError where the database does not answer: no answer is no acceptance.
    """

    def __init__(self, engine: Engine, agreement: Agreement | None) -> None:
        self._engine = engine
        self._agreement = agreement
        self._known: set[str] = set()

    async def accepted(self, user: str) -> bool:
        """Whether `user` (Open WebUI's id) accepted the words in force. Nobody takes an acceptance back, so a yes is
        remembered; a no is asked again, since another worker may have written it."""
        if self._agreement is None or user in self._known:
            return True
        if not await asyncio.to_thread(self._is_written, user, self._agreement):
            return False
        self._known.add(user)
        return True

    async def accept(self, user: str, language: str) -> None:
        """Write down that `user` accepted the words in force, shown in `language`; the first time counts."""
        if self._agreement is not None:
            await asyncio.to_thread(self._write, user, language, self._agreement)
            self._known.add(user)

    def _is_written(self, user: str, agreement: Agreement) -> bool:
        one = acceptances.c.user_id == user, acceptances.c.digest == agreement.digest
        with self._engine.connect() as connection:
            return connection.execute(select(acceptances.c.user_id).where(*one)).first() is not None

    def _write(self, user: str, language: str, agreement: Agreement) -> None:
        row = {
            "user_id": user,
            "digest": agreement.digest,
            "version": agreement.version,
            "language": language,
            "accepted_at": int(time.time()),
        }
        try:
            with self._engine.begin() as connection:
                connection.execute(acceptances.insert().values(row))
        except IntegrityError:
            if not self._is_written(user, agreement):
                raise


def make_table(engine: Engine) -> None:
    """Make the table where there is none; several workers may try at once."""
    try:
        _tables.create_all(engine)
    except (OperationalError, ProgrammingError, IntegrityError):
        _tables.create_all(engine)


def listed(engine: Engine) -> list[dict[str, Any]]:
    """All acceptances of users who still have an account, oldest first."""
    asked = text(
        "SELECT u.email AS mail, u.name AS name, a.version AS version, a.digest AS digest, a.language AS language, "
        'a.accepted_at AS accepted_at FROM flexi_agreement a JOIN "user" u ON u.id = a.user_id '
        "ORDER BY a.accepted_at, u.email"
    )
    make_table(engine)
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(asked).mappings()]
