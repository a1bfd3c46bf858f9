"""Files of the chat that go."""

from __future__ import annotations

import contextlib

from flexi_chat.webui.client import Webui, WebuiError


def delete_file(webui: Webui, file: str) -> None:
    """Delete the file with the id `file`, what was read from it included. WebuiError where the file stays."""
    # Deleting it alone leaves its text in Chroma: routers/files.py asks to delete nothing of a collection, and
    # retrieval/vector/dbs/chroma.py then deletes nothing. A file that failed has no hash and may have no text.
    with contextlib.suppress(WebuiError):
        webui.post("/api/v1/retrieval/delete", {"collection_name": f"file-{file}", "file_id": file})
    webui.delete(f"/api/v1/files/{file}")
