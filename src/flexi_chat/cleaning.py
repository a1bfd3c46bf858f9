"""`python -m flexi_chat.cleaning --url URL`: what the chat need not keep any longer, once a day.

Chats that last changed more than `FLEXI_RETENTION_DAYS` days ago (none where it is empty), files that nothing uses any
more, and what was left of accounts that are gone. Prints how many, as one JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence

from sqlalchemy.exc import SQLAlchemyError

from flexi_chat.gate import acceptances
from flexi_chat.webui import belongings
from flexi_chat.webui.client import WebuiError
from flexi_chat.webui.database import engine
from flexi_chat.webui.files import delete_file
from flexi_chat.webui.internal import internal

DAY_S = 86_400


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="flexi_chat.cleaning")
    parser.add_argument("--url", required=True)
    options = parser.parse_args(arguments)
    now, days = int(time.time()), os.environ["FLEXI_RETENTION_DAYS"]
    try:
        database = engine()
        acceptances.make_table(database)
        _, webui = internal(options.url)
        chats = belongings.forget_chats(database, now - int(days) * DAY_S) if days else 0
        # A day's grace: a file is uploaded before the message that it goes with is sent.
        files = belongings.unused_files(database, now - DAY_S)
        for file in files:
            delete_file(webui, file)
        rows = belongings.forget(database)
        belongings.wipe(database)
    except (SQLAlchemyError, WebuiError) as error:
        print(json.dumps({"problem": str(error) if isinstance(error, WebuiError) else type(error).__name__}))
        return 1
    print(json.dumps({"chats": chats, "files": len(files), "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
