"""The access log: one line of JSON for each request, a file for each day, and no file that is older than it may be."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Sequence
from datetime import date, datetime, timedelta, timezone
from io import TextIOWrapper
from pathlib import Path

from flexi_host.ledger.records import Request

_NAME = re.compile(r"access-(\d{4}-\d{2}-\d{2})\.log")


class AccessLog:
    """Files `access-YYYY-MM-DD.log` (UTC) in `directory`, for their owner and root alone.

    A line lives `days` days at most: with 7, the files of today and of the six days before. With 0 there is none.
    OSError from `write` where the disk is full: then the lines are lost, and the next call tries again.
    """

    def __init__(self, directory: Path, days: int) -> None:
        self._directory = directory
        self._days = days
        self._day: date | None = None
        self._file: TextIOWrapper | None = None

    def write(self, requests: Sequence[Request], now: float) -> None:
        """Append `requests` to the file of the day of `now`, and remove what is too old when a new day begins."""
        today = datetime.fromtimestamp(now, timezone.utc).date()
        if today != self._day:
            self.close()
            self._prune(today)
            self._day = today
        if not requests or not self._days:
            return
        if self._file is None:
            self._file = self._open(self._directory / f"access-{today.isoformat()}.log")
        try:
            self._file.writelines(line(request) for request in requests)
            self._file.flush()
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            with contextlib.suppress(OSError):  # the same full disk; its lines were lost already
                file.close()

    @staticmethod
    def _open(path: Path) -> TextIOWrapper:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return os.fdopen(handle, "a", encoding="utf-8")

    def _prune(self, today: date) -> None:
        oldest = today - timedelta(days=self._days - 1)
        for path in self._directory.iterdir():
            found = _NAME.fullmatch(path.name)
            if found and date.fromisoformat(found.group(1)) < oldest:
                path.unlink(missing_ok=True)


def line(request: Request) -> str:
    """A request as one line."""
    return json.dumps(request.as_json(), separators=(",", ":")) + "\n"
