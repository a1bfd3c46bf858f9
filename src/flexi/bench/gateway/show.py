"""The figures for people: a table for the terminal, the same as Markdown, and a plot as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from html import escape

from rich.console import Console
from rich.table import Table

from .measure import (
    DIRECT,
    OPEN,
    OPEN_PACE,
    OURS,
    PACE,
    RELOADS,
    STREAMS,
    Figures,
    Percentiles,
    Run,
    Streams,
)

NAMES = {DIRECT: "the instance itself", OURS: "flexi's gateway"}
NONE = "–"
ROWS = (
    "added until the first token, p50 / p99 (ms)",
    "added to each token, p50 / p99 (ms)",
    "small answers (1/s)",
    f"{STREAMS} streams of {PACE:g} tokens/s: of direct throughput",
    "… CPU for 1,000 tokens (ms)",
    f"{OPEN:,} streams of {OPEN_PACE:g} tokens/s: answered whole",
    "… memory for each (KiB)",
    f"{RELOADS} reloads under {STREAMS} streams: answered whole",
    "… longest pause in a stream (ms)",
)


def named(figures: Figures) -> str:
    name = NAMES.get(figures.name, figures.name)
    return f"{name} {figures.version}".strip()


def cells(run: Run, figures: Figures) -> list[str]:
    """A column of the table: one cell for each of `ROWS`."""
    ours = figures.name != DIRECT
    return [
        _pair(run.added_first_ms(figures)) if ours else f"({_pair(figures.first)})",
        _pair(run.added_chunk_ms(figures)) if ours else f"({_pair(figures.chunk)})",
        f"{figures.requests_per_s:,.0f}" + (f" ({_wrong(figures.requests_wrong)})" if figures.requests_wrong else ""),
        f"{run.throughput(figures):.3f}",
        _or_none(figures.load.cpu_ms_per_1000_tokens, "{:.0f}"),
        _whole(figures.open),
        _or_none(figures.open.memory_kib_per_stream, "{:.0f}"),
        NONE if figures.reload is None else _whole(figures.reload),
        NONE if figures.reload is None else f"{figures.reload.longest_gap_ms:.0f}",
    ]


def _pair(times: Percentiles) -> str:
    return f"{times.p50:.2f} / {times.p99:.2f}"


def _or_none(value: float | None, form: str) -> str:
    return NONE if value is None else form.format(value)


def _whole(streams: Streams) -> str:
    return f"{streams.whole:,} of {streams.count:,}"


def _wrong(wrong: dict[str, int]) -> str:
    return f"{sum(wrong.values()):,} failed"


def show(run: Run, console: Console) -> None:
    table = Table("", *(named(figures) for figures in run.figures), box=None, padding=(0, 1))
    for row, *values in _rows(run):
        table.add_row(row, *values)
    console.print(table)
    for figures in run.figures:
        for part in (figures.load, figures.open, figures.reload):
            for words, count in part.wrong.items() if part else ():
                console.print(f"{named(figures)}, {part.count:,} streams: {count:,} × {words}" if part else "")
    console.print(f"{run.cores} cores, load average before it {run.load_before:.1f}, {run.when}")


def _rows(run: Run) -> list[tuple[str, ...]]:
    columns = [cells(run, figures) for figures in run.figures]
    return [(row, *(column[number] for column in columns)) for number, row in enumerate(ROWS)]


def markdown(run: Run) -> str:
    """The table for docs/admin/benchmark.md."""
    lines = [("", *(named(figures) for figures in run.figures)), *_rows(run)]
    text = ["| " + " | ".join(line) + " |" for line in lines]
    text.insert(1, "|" + " --- |" * len(lines[0]))
    return "\n".join(text) + "\n"


def as_json(run: Run) -> dict[str, object]:
    ratios = [
        {
            "name": figures.name,
            "added_first_ms": asdict(run.added_first_ms(figures)),
            "added_chunk_ms": asdict(run.added_chunk_ms(figures)),
            "throughput": round(run.throughput(figures), 4),
        }
        for figures in run.figures
    ]
    return {"schema": 1, **asdict(run), "ratios": ratios}


# -- the plot ------------------------------------------------------------------------------------------------------

WIDTH, BAR, LEFT, HEAD = 860, 26, 190, 46
PANEL = (WIDTH - LEFT) // 2
_COLOURS = {OURS: "#2e7d5b"}
_OTHER = "#8a97a6"


def svg(run: Run) -> str:
    """Two panels of bars, for each proxy: what it adds until the first token (p50), and CPU for 1,000 tokens.

    Both on a logarithmic axis from the smallest figure's decade, because the proxies differ by orders of magnitude.
    """
    proxies = [figures for figures in run.figures if figures.name != DIRECT]
    panels = [
        ("Added until the first token, p50, ms", [run.added_first_ms(figures).p50 for figures in proxies]),
        ("CPU for 1,000 tokens, ms", [figures.load.cpu_ms_per_1000_tokens or 0.0 for figures in proxies]),
    ]
    height = HEAD + BAR * len(proxies) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for number, figures in enumerate(proxies):
        y = HEAD + BAR * number + 17
        weight = ' font-weight="600"' if figures.name == OURS else ""
        parts.append(f'<text x="{LEFT - 10}" y="{y}" text-anchor="end"{weight}>{escape(named(figures))}</text>')
    for place, (title, values) in enumerate(panels):
        parts += _panel(LEFT + place * PANEL, title, values, [figures.name for figures in proxies])
    note = f"Logarithmic. {run.cores} cores, {run.when[:10]}; docs/admin/benchmark.md says how it was measured."
    parts.append(f'<text x="{LEFT}" y="{height - 12}" fill="#5b6673" font-size="11">{escape(note)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _panel(x: int, title: str, values: Sequence[float], names: Sequence[str]) -> list[str]:
    parts = [f'<text x="{x}" y="24" font-weight="600">{escape(title)}</text>']
    for number, (value, name) in enumerate(zip(values, names, strict=True)):
        y = HEAD + BAR * number
        length = bar_length(value, values, PANEL - 90)
        parts.append(
            f'<rect x="{x}" y="{y}" width="{length}" height="{BAR - 8}" fill="{_COLOURS.get(name, _OTHER)}" rx="2"/>'
        )
        parts.append(f'<text x="{x + length + 6}" y="{y + 14}">{value:,.3g}</text>')
    return parts


def bar_length(value: float, values: Sequence[float], width: int) -> int:
    """Pixels of a bar on a logarithmic axis that begins at the decade below the smallest of `values`."""
    known = [other for other in values if other > 0]
    if value <= 0 or not known:
        return 1
    low = math.floor(math.log10(min(known)))
    span = max(math.log10(max(known)) - low, 1e-9)
    return max(1, round(width * (math.log10(value) - low) / span))
