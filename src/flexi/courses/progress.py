"""How far a converge of course bots is: a bar on a terminal, a line for each course elsewhere."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Steps:
    """Use as a context; `step` is told each step before it is made."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._subject = ""
        self._shown: Progress | None = None
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._shown = Progress(*columns, console=console, transient=True)
            self._task = self._shown.add_task("courses", total=None)

    def __enter__(self) -> Steps:
        if self._shown is not None:
            self._shown.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown is not None:
            self._shown.stop()

    def step(self, words: str, done: int, of: int) -> None:
        if self._shown is not None:
            text = words if len(words) <= 60 else words[:59] + "…"
            self._shown.update(self._task, description=text, completed=done, total=of)
            return
        subject = words.partition(": ")[0]
        if subject != self._subject:
            self._subject = subject
            self._console.print(f"{subject} ({done} of {of} done)", highlight=False, markup=False, soft_wrap=True)
