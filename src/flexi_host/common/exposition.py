"""Prometheus's text format (https://prometheus.io/docs/instrumenting/exposition_formats/, version 0.0.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Sample = tuple[Mapping[str, str], float]


def family(name: str, text: str, samples: Sequence[Sample], kind: str = "gauge") -> str:
    """A metric with its help, type and samples; `kind` is `gauge` or `counter`."""
    return _head(name, text, kind) + "".join(sample(name, labels, value) for labels, value in samples)


def summary(name: str, text: str, samples: Sequence[tuple[Mapping[str, str], int, float]]) -> str:
    """A summary without quantiles: (labels, count, sum) of each series."""
    lines = [_head(name, text, "summary")]
    for labels, count, total in samples:
        lines += [sample(f"{name}_sum", labels, total), sample(f"{name}_count", labels, count)]
    return "".join(lines)


def histogram(
    name: str, text: str, bounds: Sequence[float], samples: Sequence[tuple[Mapping[str, str], Sequence[int], float]]
) -> str:
    """(labels, counts, sum) of each series. `counts` has one figure for each upper bound and one for what is above."""
    lines = [_head(name, text, "histogram")]
    for labels, counts, total in samples:
        below = 0
        for bound, count in zip((*(f"{bound:g}" for bound in bounds), "+Inf"), counts, strict=True):
            below += count
            lines.append(sample(f"{name}_bucket", {**labels, "le": bound}, below))
        lines += [sample(f"{name}_sum", labels, total), sample(f"{name}_count", labels, below)]
    return "".join(lines)


def _head(name: str, text: str, kind: str) -> str:
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


def sample(name: str, labels: Mapping[str, str], value: float) -> str:
    """One line."""
    pairs = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
    number = str(int(value)) if value == int(value) else repr(value)
    return f"{name}{{{pairs}}} {number}\n" if pairs else f"{name} {number}\n"


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
