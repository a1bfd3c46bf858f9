"""Two records of one request: the guard's (tokens, queue, instance) and the edge's (address, what the client got).

The guard's comes first or a moment later; the edge's only when the client has taken its last byte, which a slow one
does minutes later. A request is counted with the first record that says how it went, and its line in the access log
is written when both are there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from flexi_host.ledger.records import Record, Request

EDGE_WAITS_S = 30.0
"""For the guard's record, which follows at once unless the guard has died."""
ANSWER_WAITS_S = 3600.0
"""For the edge's. A client may take its time, and memory is bounded by `MOST`."""
MOST = 50_000


@dataclass(frozen=True)
class Outcome:
    """What follows from a record: requests to count, and whole ones for the access log."""

    counted: tuple[Request, ...] = ()
    whole: tuple[Request, ...] = ()

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(self.counted + other.counted, self.whole + other.whole)


class Pairing:
    """Halves that wait for their other one. Times are of a monotonic clock, in seconds."""

    def __init__(self) -> None:
        # In the order in which they came, so the oldest is the first.
        self._halves: dict[str, tuple[float, Record]] = {}

    def __len__(self) -> int:
        return len(self._halves)

    def take(self, record: Record, now: float) -> Outcome:
        if not record.guarded:
            return Outcome((record.request,), (record.request,))
        waiting = self._halves.get(record.request.id)
        if waiting is None or waiting[1].kind == record.kind:
            # A second record of the same kind: the sender was not sure whether the first had arrived.
            if waiting is not None:
                return Outcome()
            self._halves[record.request.id] = (now, record)
            outcome = Outcome((record.request,)) if record.kind == "answer" else Outcome()
            return outcome + self._bounded()
        del self._halves[record.request.id]
        if record.kind == "answer":
            return Outcome((record.request,), (joined(record.request, waiting[1].request),))
        return Outcome((), (joined(waiting[1].request, record.request),))

    def expire(self, now: float) -> Outcome:
        """What has waited too long stands alone."""
        late = [
            key
            for key, (since, half) in self._halves.items()
            if now - since >= (EDGE_WAITS_S if half.kind == "edge" else ANSWER_WAITS_S)
        ]
        return self._alone(late)

    def halves(self) -> list[Record]:
        """What still waits, oldest first; for the next start of the ledger."""
        return [half for _, half in self._halves.values()]

    def restore(self, halves: list[Record], now: float) -> None:
        """Halves of the ledger's last run: those of the guard were counted then."""
        self._halves.update({half.request.id: (now, half) for half in halves})

    def _bounded(self) -> Outcome:
        return self._alone(list(self._halves)[: max(0, len(self._halves) - MOST)])

    def _alone(self, keys: list[str]) -> Outcome:
        halves = [self._halves.pop(key)[1] for key in keys]
        # An edge's record says `done` of what it passed on: without the guard's word nobody knows the instance's part.
        counted = tuple(half.request for half in halves if half.kind == "edge")
        return Outcome(counted, tuple(half.request for half in halves))


def joined(answer: Request, edge: Request) -> Request:
    """One request of both. Bytes and time are those on the client's connection; a client that left says so.

    HAProxy answers 400 to a client that has closed its connection, and the guard knows better.
    """
    return replace(
        answer,
        at=edge.at,
        status=answer.status if answer.end == "client" or edge.status is None else edge.status,
        end=edge.end if edge.end == "client" and answer.end == "done" else answer.end,
        method=edge.method or answer.method,
        address=edge.address,
        total_ms=edge.total_ms,
        bytes_in=edge.bytes_in,
        bytes_out=edge.bytes_out,
    )
