"""The ledger's figures for Prometheus: by consumer and model, and distributions by model.

A distribution has a series for each of its buckets, so it has no consumers: hundreds of them would be tens of
thousands of series. By consumer there are counts and sums, whose quotient is the mean.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from flexi_host.common.exposition import family, histogram, summary
from flexi_host.ledger.records import Request

BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
NOBODY = "-"
"""The label of what is not known: a consumer without a key, a request without a model."""

_TIMES = (
    ("queue", "Seconds that requests waited in the gateway for their turn."),
    ("first_byte", "Seconds from the request's arrival to the first byte of the answer."),
    ("duration", "Seconds from the request's arrival to the last byte of the answer."),
)
_By = tuple[str, ...]


@dataclass
class _Times:
    count: int = 0
    total_s: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))

    def add(self, seconds: float) -> None:
        self.count += 1
        self.total_s += seconds
        self.buckets[bisect.bisect_left(BOUNDS_S, seconds)] += 1


class Figures:
    """Counted since the ledger began; Prometheus knows a restart by counters that fell."""

    def __init__(self) -> None:
        self._requests: Counter[_By] = Counter()
        self._tokens: Counter[_By] = Counter()
        self._retries: Counter[_By] = Counter()
        self._by_consumer: dict[tuple[str, _By], _Times] = {}
        self._by_model: dict[tuple[str, _By], _Times] = {}

    def add(self, request: Request) -> None:
        consumer, class_, model = (word or NOBODY for word in (request.consumer, request.class_, request.model))
        status = str(request.status or NOBODY)
        self._requests[consumer, class_, model, status, request.end] += 1
        for kind, tokens in (("prompt", request.prompt_tokens), ("answer", request.answer_tokens)):
            if tokens:
                self._tokens[consumer, class_, model, kind] += tokens
        if request.retries:
            self._retries[(model,)] += request.retries
        if request.server is None or request.first_byte_ms is None:
            return
        for name, milliseconds in (
            ("queue", request.queue_ms or 0),
            ("first_byte", request.first_byte_ms),
            ("duration", request.total_ms),
        ):
            self._by_consumer.setdefault((name, (consumer, class_, model)), _Times()).add(milliseconds / 1000)
            self._by_model.setdefault((name, (class_, model)), _Times()).add(milliseconds / 1000)

    def text(self, own: Mapping[str, tuple[str, str, float]]) -> str:
        """All of them in Prometheus's format; `own` has the ledger's: name to (help, type, value)."""
        parts = [
            _counters(
                "flexi_gateway_requests_total",
                "Requests that ended, and how: done, client (it went away), instance, refused, gateway.",
                ("consumer", "class", "model", "status", "end"),
                self._requests,
            ),
            _counters(
                "flexi_gateway_tokens_total",
                "Tokens of prompts and answers, where the answer told them.",
                ("consumer", "class", "model", "kind"),
                self._tokens,
            ),
            _counters(
                "flexi_gateway_retries_total",
                "Times that a request was sent to another instance before its first byte.",
                ("model",),
                self._retries,
            ),
        ]
        for name, words in _TIMES:
            parts.append(
                summary(
                    f"flexi_gateway_{name}_seconds",
                    words,
                    [
                        (_labels(("consumer", "class", "model"), key), times.count, times.total_s)
                        for key, times in _of(self._by_consumer, name)
                    ],
                )
            )
            parts.append(
                histogram(
                    f"flexi_gateway_model_{name}_seconds",
                    words,
                    BOUNDS_S,
                    [
                        (_labels(("class", "model"), key), times.buckets, times.total_s)
                        for key, times in _of(self._by_model, name)
                    ],
                )
            )
        parts += [family(name, words, [({}, value)], kind) for name, (words, kind, value) in own.items()]
        return "".join(parts)


def _of(series: Mapping[tuple[str, _By], _Times], name: str) -> Iterable[tuple[_By, _Times]]:
    return sorted(((key, times) for (of, key), times in series.items() if of == name), key=lambda pair: pair[0])


def _labels(names: tuple[str, ...], values: _By) -> dict[str, str]:
    return dict(zip(names, values, strict=True))


def _counters(name: str, words: str, labels: tuple[str, ...], values: Counter[_By]) -> str:
    return family(name, words, [(_labels(labels, key), float(values[key])) for key in sorted(values)], "counter")
