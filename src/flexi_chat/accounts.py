"""`python -m flexi_chat.accounts PROGRAM`: who has an account of the chat, and who accepted the agreement.

    list                 all accounts
    add MAIL NAME        a new one, with a password that is shown only now
    reset MAIL           another password; all its sessions end
    remove MAIL          an account with all that belongs to it
    agreements           who accepted which agreement, and when

Prints one JSON. Exit status 1 with `{"problem": …}` where something cannot be done. The environment is that of the
chat's own unit.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from flexi_chat.gate import acceptances
from flexi_chat.gate.access import INTERNAL
from flexi_chat.webui import belongings
from flexi_chat.webui.client import Webui, WebuiError
from flexi_chat.webui.database import engine
from flexi_chat.webui.files import delete_file
from flexi_chat.webui.internal import internal

LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"
"""None that looks like another one: people type it once."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="flexi_chat.accounts")
    parser.add_argument("--url", required=True)
    programs = parser.add_subparsers(dest="program", required=True)
    programs.add_parser("list")
    programs.add_parser("agreements")
    add = programs.add_parser("add")
    add.add_argument("mail")
    add.add_argument("name")
    for name in ("reset", "remove"):
        programs.add_parser(name).add_argument("mail")
    options = parser.parse_args(arguments)
    try:
        database = engine()
        said = _run(options, database)
    except SQLAlchemyError as error:
        said = {"problem": f"the chat's database does not answer ({type(error).__name__})"}
    except WebuiError as error:
        said = {"problem": str(error)}
    print(json.dumps(said, ensure_ascii=False))
    return 1 if "problem" in said else 0


def _run(options: argparse.Namespace, database: Engine) -> dict[str, Any]:
    if options.program == "list":
        return {"accounts": listed(database)}
    if options.program == "agreements":
        return {"agreements": acceptances.listed(database)}
    mail = options.mail.lower()
    if mail == INTERNAL:
        raise WebuiError(0, f"{INTERNAL} is the account that flexi itself uses")
    found = [row for row in listed(database) if row["mail"] == mail]
    _, webui = internal(options.url)
    if options.program == "add":
        if found:
            raise WebuiError(409, f"{mail} has an account already; reset gives it another password")
        password = new_password()
        body = {"name": options.name, "email": mail, "password": password, "role": "user"}
        webui.post("/api/v1/auths/add", body)
        return {"mail": mail, "name": options.name, "password": password}
    if not found:
        raise WebuiError(404, f"nobody has an account with {mail}")
    if options.program == "reset":
        password = new_password()
        webui.post(f"/api/v1/users/{found[0]['id']}/update", {"password": password})
        return {"mail": mail, "name": found[0]["name"], "password": password}
    return {"mail": mail, "files": _remove(webui, database, found[0]["id"])}


def _remove(webui: Webui, database: Engine, user: str) -> int:
    """Remove `user` and what belongs to them: how many files. What shows others who it was goes last."""
    files = belongings.files_of(database, user)
    for file in files:
        delete_file(webui, file)
    webui.delete(f"/api/v1/users/{user}")
    belongings.forget(database)
    return len(files)


def listed(database: Engine) -> list[dict[str, Any]]:
    """All accounts but flexi's own, oldest first. Times are Unix times in seconds, None where it never was."""
    acceptances.make_table(database)
    asked = text(
        "SELECT u.id AS id, u.email AS mail, u.name AS name, u.role AS role, u.created_at AS made, "
        "u.last_active_at AS seen, "
        "(SELECT max(a.accepted_at) FROM flexi_agreement a WHERE a.user_id = u.id) AS accepted "
        'FROM "user" u WHERE u.email <> :internal ORDER BY u.created_at, u.email'
    )
    with database.connect() as connection:
        return [dict(row) for row in connection.execute(asked, {"internal": INTERNAL}).mappings()]


def new_password() -> str:
    """20 letters and digits in groups of five: 100 bits."""
    return "-".join("".join(secrets.choice(LETTERS) for _ in range(5)) for _ in range(4))


if __name__ == "__main__":
    sys.exit(main())
