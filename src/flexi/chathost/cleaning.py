"""`python -m flexi.chathost.cleaning --url URL [--days N]`: what the chat need not keep any longer, once a day.

Chats whose last message is older than N days (none without it), files that nothing uses any more, and what was left of
accounts that are gone. Prints how many, as one JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

from sqlalchemy.exc import SQLAlchemyError

from . import acceptances, belongings
from .database import engine
from .internal import internal
from .webui import WebuiError

DAY_S = 86_400


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="flexi.chathost.cleaning")
    parser.add_argument("--url", required=True)
    parser.add_argument("--days", type=int)
    options = parser.parse_args(arguments)
    now = int(time.time())
    try:
        database = engine()
        acceptances.make_table(database)
        _, webui = internal(options.url)
        chats = 0 if options.days is None else belongings.forget_chats(database, now - options.days * DAY_S)
        # A day's grace: a file is uploaded before the message that it goes with is sent.
        files = belongings.unused_files(database, now - DAY_S)
        for file in files:
            webui.delete(f"/api/v1/files/{file}")
        rows = belongings.forget(database)
    except (SQLAlchemyError, WebuiError) as error:
        print(json.dumps({"problem": str(error) if isinstance(error, WebuiError) else type(error).__name__}))
        return 1
    print(json.dumps({"chats": chats, "files": len(files), "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
