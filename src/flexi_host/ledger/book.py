"""The ledger: what is told of each request, in the access log, the usage and the figures.

It takes datagrams from a socket that systemd holds: while the ledger restarts they wait there. What it says on its
loopback port is sums; a single request stands in the access log alone. No prompt and no answer reaches it.
"""

from __future__ import annotations

import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Sequence

from flexi_host.ledger.access_log import AccessLog
from flexi_host.ledger.config import LedgerConfig
from flexi_host.ledger.figures import Figures
from flexi_host.ledger.pairing import Outcome, Pairing
from flexi_host.ledger.recent import Recent
from flexi_host.ledger.records import NotARecordError, Reader, Record
from flexi_host.ledger.usage import Usage, read

DATABASE = "usage.sqlite"
SAY_AGAIN_S = 600.0
"""A disk that stays full is said every ten minutes, not with every request."""


class Ledger:
    """Everything but the sockets. One thread takes and flushes, others may ask."""

    def __init__(
        self,
        config: LedgerConfig,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._reader = Reader(config.models)
        self._pairing = Pairing()
        self._figures = Figures()
        self._recent = Recent()
        self._log = AccessLog(config.log_dir, config.retention_days)
        self._database = config.state_dir / DATABASE
        self._usage = Usage(self._database, config.usage_days)
        self._pairing.restore([Record.load(text) for text in self._usage.kept()], monotonic())
        self._records = {"answer": 0, "edge": 0}
        self._ignored = 0
        self._lost = 0
        self._said: dict[str, float] = {}

    def take(self, datagrams: Sequence[bytes]) -> None:
        """Count what the datagrams say and write the lines of the requests that are whole."""
        with self._lock:
            outcome = Outcome()
            for datagram in datagrams:
                try:
                    record = self._reader.read(datagram)
                except NotARecordError:
                    # HAProxy tells its loggers of starts and broken handshakes too, the latter with whole addresses.
                    self._ignored += 1
                    continue
                self._records[record.kind] += 1
                outcome += self._pairing.take(record, self._monotonic())
            self._book(outcome)

    def flush(self) -> None:
        """What is due by the clock: halves that stay alone, the database, and what is too old."""
        with self._lock:
            self._book(self._pairing.expire(self._monotonic()))
            self._flush_usage()

    def close(self) -> None:
        """Write everything; halves wait in the database for the next start."""
        with self._lock:
            self._flush_usage()
            try:
                self._usage.keep([half.dump() for half in self._pairing.halves()])
            except sqlite3.Error as error:
                self._say(f"{self._database} cannot be written: {error}")
            self._log.close()
            self._usage.close()

    def metrics(self) -> str:
        """In Prometheus's format."""
        with self._lock:
            return self._figures.text(
                {
                    "flexi_ledger_answers_total": ("Records of the guard.", "counter", self._records["answer"]),
                    "flexi_ledger_edges_total": ("Records of HAProxy's log.", "counter", self._records["edge"]),
                    "flexi_ledger_ignored_total": ("Datagrams that are no records.", "counter", self._ignored),
                    "flexi_ledger_lines_lost_total": (
                        "Lines that the access log could not take: its disk is full.",
                        "counter",
                        self._lost,
                    ),
                    "flexi_ledger_halves": ("Requests with one of their two records.", "gauge", len(self._pairing)),
                }
            )

    def recent(self) -> list[dict[str, object]]:
        """Who has used what in the last minutes."""
        with self._lock:
            return self._recent.rows(self._clock())

    def usage(self, since: float, by: Sequence[str]) -> list[dict[str, object]]:
        """Sums since `since` (Unix seconds), what was counted a moment ago included; see `ledger_usage.read`."""
        with self._lock:
            self._flush_usage()
        return read(self._database, since, by)

    def _book(self, outcome: Outcome) -> None:
        now = self._clock()
        for request in outcome.counted:
            self._usage.add(request)
            self._figures.add(request)
            self._recent.add(request, now)
        try:
            self._log.write(outcome.whole, now)
        except OSError as error:
            self._lost += len(outcome.whole)
            self._say(f"the access log cannot be written: {error}")

    def _flush_usage(self) -> None:
        try:
            self._usage.flush(self._clock())
        except sqlite3.Error as error:
            self._say(f"{self._database} cannot be written: {error}; the sums wait in memory")

    def _say(self, words: str) -> None:
        now = self._monotonic()
        if now - self._said.get(words, -SAY_AGAIN_S) >= SAY_AGAIN_S:
            self._said[words] = now
            print(words, file=sys.stderr, flush=True)
