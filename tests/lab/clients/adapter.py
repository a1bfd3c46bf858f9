"""What the programs of the Python clients share. Standard library only: it runs in each client's own environment.

A program reads one JSON object, the task, from standard input, does every scenario that its client can do, and writes
a line for each: {"scenario": …, "saw": …}, or "failed" and why. It judges nothing; `scenarios.py` does, for all alike.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Task = dict[str, Any]
Saw = dict[str, Any]


def run(scenarios: Mapping[str, Callable[[Task], Saw]]) -> None:
    task: Task = json.load(sys.stdin)
    for name, scenario in scenarios.items():
        try:
            line = {"scenario": name, "saw": scenario(task)}
        except Exception as error:  # whatever the client raises is what its user would see
            where = traceback.extract_tb(error.__traceback__)[-1]
            line = {"scenario": name, "failed": f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"}
        print(json.dumps(line), flush=True)


def streamed(pieces: Iterable[str]) -> Saw:
    """The text of a stream, how many pieces it came in, and the seconds between the first and the last of them."""
    arrived = [(time.monotonic(), piece) for piece in pieces if piece]
    return {
        "text": "".join(piece for _, piece in arrived),
        "pieces": len(arrived),
        "span_s": arrived[-1][0] - arrived[0][0] if arrived else 0,
    }


def timed(action: Callable[[], object]) -> float:
    """Seconds that `action` took."""
    start = time.monotonic()
    action()
    return time.monotonic() - start
