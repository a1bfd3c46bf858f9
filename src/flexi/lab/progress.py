"""Telling a person how far the lab is: a spinner on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console


class Progress(Protocol):
    def step(self, what: str) -> contextlib.AbstractContextManager[None]:
        """Around one piece of work."""
        ...


class Silent:
    """For tests and programs."""

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        yield


class Shown:
    """A line for each finished piece of work with the time it took; rich leaves colour out where it is unwanted."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        start = time.monotonic()
        if self._console.is_terminal:
            with self._console.status(f"{what} …"):
                yield
        else:
            yield
        self._console.print(f"{what:<28}{time.monotonic() - start:6.1f} s", highlight=False)
