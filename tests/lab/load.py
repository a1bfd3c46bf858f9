"""Clients that ask without a pause, and a record of every answer: what a change costs its users."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlsplit

ANSWER_TIMEOUT_S = 120


@dataclass
class Load:
    """`clients` threads that send one request after the other to one model; half of them stream."""

    url: str
    key: str
    model: str
    clients: int = 4
    tokens: int = 12
    outcomes: Counter[str] = field(default_factory=Counter)
    """`ok`, or what went wrong, with how often."""
    longest_s: float = 0.0

    def __enter__(self) -> Load:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i % 2 == 0,)) for i in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def answered(self) -> int:
        return self.outcomes["ok"]

    @property
    def lost(self) -> dict[str, int]:
        return {what: count for what, count in self.outcomes.items() if what != "ok"}

    def report(self, meanwhile: str) -> str:
        lost = ", ".join(f"{count} x {what}" for what, count in self.lost.items()) or "none"
        return f"{meanwhile}: {self.answered} answers under load, lost: {lost}; the longest took {self.longest_s:.1f} s"

    def _run(self, stream: bool) -> None:
        while not self._stop.is_set():
            start = time.monotonic()
            outcome = self._ask(stream)
            self.outcomes[outcome] += 1
            self.longest_s = max(self.longest_s, time.monotonic() - start)

    def _ask(self, stream: bool) -> str:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=ANSWER_TIMEOUT_S)
        body = {"model": self.model, "prompt": "x", "stream": stream, "options": {"num_predict": self.tokens}}
        try:
            connection.request(
                "POST",
                "/api/generate",
                json.dumps(body),
                {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"},
            )
            response = connection.getresponse()
            lines = response.read().decode().strip().splitlines()
            if response.status != 200:
                return f"status {response.status}: {lines[0][:80] if lines else ''}"
            return "ok" if json.loads(lines[-1]).get("done") is True else "broken off"
        except (OSError, http.client.HTTPException, ValueError) as error:
            return type(error).__name__
        finally:
            connection.close()
