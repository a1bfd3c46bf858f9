"""What is added up of requests: for the usage by the hour and for the last minutes."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields

from flexi_host.ledger.records import Request


@dataclass
class Sums:
    """Figures of many requests. Times are milliseconds in all, of the `timed` ones that reached an instance."""

    requests: int = 0
    refused: int = 0
    failed: int = 0
    """Because of an instance or of the gateway itself."""
    left: int = 0
    """The client went away before the end."""
    prompt_tokens: int = 0
    answer_tokens: int = 0
    timed: int = 0
    queue_ms: int = 0
    first_byte_ms: int = 0
    total_ms: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    def add(self, request: Request) -> None:
        self.requests += 1
        self.refused += request.end == "refused"
        self.failed += request.end in ("instance", "gateway")
        self.left += request.end == "client"
        self.prompt_tokens += request.prompt_tokens or 0
        self.answer_tokens += request.answer_tokens or 0
        if request.server is not None and request.first_byte_ms is not None:
            self.timed += 1
            self.queue_ms += request.queue_ms or 0
            self.first_byte_ms += request.first_byte_ms
            self.total_ms += request.total_ms
        self.bytes_in += request.bytes_in
        self.bytes_out += request.bytes_out

    def merge(self, other: Sums) -> None:
        for name in FIGURES:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def row(self) -> tuple[int, ...]:
        """The figures in the order of `FIGURES`."""
        return astuple(self)


FIGURES = tuple(field.name for field in fields(Sums))
