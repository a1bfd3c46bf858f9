"""How far files are: bars on a terminal, a line for each finished file elsewhere."""

from __future__ import annotations

import threading
from types import TracebackType

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

_NAME = 44


class StoppedError(Exception):
    """Another file failed, or a person pressed Ctrl-C: nobody waits for this one any more."""


class Bar:
    """One file. `total` is None while nobody knows how large it is."""

    def __init__(self, bars: Bars, name: str, total: int | None, done: int) -> None:
        self._bars = bars
        self._name = name
        self._done = done
        self._task: TaskID | None = None
        if bars.shown is not None:
            self._task = bars.shown.add_task(_short(name), total=total, completed=done)

    def advance(self, count: int) -> None:
        """`count` bytes more. StoppedError where the whole work is given up."""
        if self._bars.stopped:
            raise StoppedError
        self._done += count
        if self._bars.shown is not None and self._task is not None:
            self._bars.shown.advance(self._task, count)

    def expect(self, total: int) -> None:
        """How large it is, or about that: known by now."""
        if self._bars.shown is not None and self._task is not None:
            self._bars.shown.update(self._task, total=total)

    def restart(self, done: int = 0) -> None:
        """What came so far does not count: the file begins again, with `done` bytes there."""
        self._done = done
        if self._bars.shown is not None and self._task is not None:
            self._bars.shown.update(self._task, completed=done)

    def finished(self, what: str = "") -> None:
        """The file is there. `what` says so in a line where there are no bars."""
        if self._bars.shown is not None and self._task is not None:
            self._bars.shown.remove_task(self._task)
        if what:
            self._bars.line(f"{self._name}: {what} ({decimal(self._done)})")


class Bars:
    """Bars below each other, as many as there are files in work. Use as a context; safe for several threads."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._lock = threading.Lock()
        self.stopped = False
        self.shown: Progress | None = None
        if console.is_terminal and not quiet:
            self.shown = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                DownloadColumn(),
                TransferSpeedColumn(),
                console=console,
                transient=True,
            )

    def __enter__(self) -> Bars:
        if self.shown is not None:
            self.shown.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopped = True
        if self.shown is not None:
            self.shown.stop()

    def bar(self, name: str, total: int | None, done: int = 0) -> Bar:
        return Bar(self, name, total, done)

    def line(self, text: str) -> None:
        if not self._quiet:
            with self._lock:
                self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _short(name: str) -> str:
    """The end of a long name: that is where files differ."""
    return name if len(name) <= _NAME else "…" + name[1 - _NAME :]
