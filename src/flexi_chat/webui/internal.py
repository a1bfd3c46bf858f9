"""A session of the account that flexi manages the chat with: without a password, and however people sign in."""

from __future__ import annotations

import os

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from flexi_chat.gate.access import INTERNAL
from flexi_chat.webui.client import Webui, WebuiError, token
from flexi_chat.webui.database import engine


def internal(url: str) -> tuple[str, Webui]:
    """The account's id, and a caller with a session of it. WebuiError where there is no such account yet."""
    asked = text('SELECT u.id, a.session_stamp FROM "user" u JOIN auth a ON a.id = u.id WHERE u.email = :mail')
    try:
        with engine().connect() as connection:
            row = connection.execute(asked, {"mail": INTERNAL}).first()
    except SQLAlchemyError as error:
        raise WebuiError(0, f"the chat's database does not answer ({type(error).__name__})") from None
    if row is None:
        raise WebuiError(0, f"the chat has no account {INTERNAL}: has it started once?")
    return row[0], Webui(url, token(os.environ["WEBUI_SECRET_KEY"], row[0], row[1]))
