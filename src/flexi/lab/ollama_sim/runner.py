"""A loaded model: its slots, its pace and how an answer flows out of it.

Source: llm/server.go (Completion, Embedding).
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from time import monotonic, monotonic_ns
from typing import Protocol

from . import catalogue
from .estimate import effective_context
from .options import Options, RunnerOptions
from .placement import Placement
from .store import Model

CPU_SLOWDOWN = 20
"""How much slower a model is on the CPU than on a GPU."""
PROMPT_SPEEDUP = 40
"""How much faster a prompt is read than an answer is written."""
FIRST_TOKEN_SECONDS = 0.02
POLL_SECONDS = 0.02


class ClientGoneError(Exception):
    """Whoever asked has closed the connection."""


class RunnerError(Exception):
    """The runner died; Ollama answers with status 500."""


class TooLongError(Exception):
    """The prompt is longer than the context and must not be cut; Ollama answers with status 400."""

    def __init__(self) -> None:
        super().__init__("the input length exceeds the context length")


class Caller(Protocol):
    """The request that a runner works for."""

    def check(self) -> None:
        """Raise ClientGoneError as soon as nobody waits for the answer any more."""


@dataclass(frozen=True)
class Chunk:
    """A piece of an answer. The last one has `done_reason` and the counts; durations in nanoseconds."""

    text: str
    done_reason: str = ""
    prompt_tokens: int = 0
    prompt_ns: int = 0
    tokens: int = 0
    eval_ns: int = 0

    @property
    def done(self) -> bool:
        return bool(self.done_reason)


def pause(seconds: float, caller: Caller) -> None:
    """Sleep, and raise ClientGoneError if the caller goes away meanwhile."""
    end = monotonic() + seconds
    idle = threading.Event()
    while True:
        caller.check()
        left = end - monotonic()
        if left <= 0:
            return
        idle.wait(min(left, POLL_SECONDS))


class Runner:
    """One model in memory. Not its own process here, but with the limits of one."""

    _numbers = itertools.count(1)

    def __init__(
        self,
        model: Model,
        options: RunnerOptions,
        placement: Placement,
        parallel: int,
        speed: float,
        gpus_lost: Callable[[set[str]], bool],
        shift: bool = True,
    ) -> None:
        self.number = next(self._numbers)
        self.model = model
        self.options = options
        self.placement = placement
        self.parallel = parallel
        self.context = effective_context(model, options.num_ctx)
        self.shift = shift
        self.crashed = False
        self._gpus_lost = gpus_lost
        full = float(model.values.get(catalogue.RATE_KEY, 50.0))
        on_gpu = placement.gpu_share
        self._rate = speed / (on_gpu / full + (1 - on_gpu) * CPU_SLOWDOWN / full)
        self._speed = speed
        self._slots = threading.Condition()
        self._queue: deque[object] = deque()
        self._active = 0

    @contextmanager
    def _slot(self, caller: Caller) -> Iterator[None]:
        """One of the `parallel` slots, first come, first served."""
        ticket = object()
        with self._slots:
            self._queue.append(ticket)
            try:
                while self._queue[0] is not ticket or self._active >= self.parallel:
                    caller.check()
                    self._slots.wait(POLL_SECONDS)
                self._active += 1
            finally:
                self._queue.remove(ticket)
                self._slots.notify_all()
        try:
            yield
        finally:
            with self._slots:
                self._active -= 1
                self._slots.notify_all()

    def _check_gpus(self) -> None:
        if self.placement.by_gpu and self._gpus_lost(set(self.placement.by_gpu)):
            self.crashed = True
        if self.crashed:
            raise RunnerError(
                "an error was encountered while running the model: CUDA error: unspecified launch failure"
            )

    def complete(
        self,
        caller: Caller,
        prompt: Sequence[str],
        reply: Sequence[str],
        options: Options,
        *,
        truncate: bool,
        shift: bool,
    ) -> Iterator[Chunk]:
        """Stream `reply` (tokens) for `prompt` (tokens) at this model's pace, shared with the other active requests.

        Raises ClientGoneError, RunnerError or TooLongError.
        """
        if len(prompt) > self.context and not truncate:
            raise TooLongError
        with self._slot(caller):
            self._check_gpus()
            prompt_tokens = min(len(prompt), self.context)
            start = monotonic_ns()
            seconds = FIRST_TOKEN_SECONDS / self._speed + prompt_tokens / (self._rate * PROMPT_SPEEDUP)
            pause(seconds, caller)
            prompt_ns = monotonic_ns() - start
            limit: float = options.num_predict
            if limit < 0 or limit > 10 * self.context:
                limit = 10 * self.context
            elif limit == 0:
                limit = math.inf  # no bound: `numPredict > 0` in runner/*/runner.go
            if not shift:
                limit = min(limit, max(self.context - prompt_tokens, 1))
            start = monotonic_ns()
            due = monotonic()
            count, text, sent = 0, "", 0
            reason = "stop"
            for token in reply:
                if count >= limit:
                    reason = "length"
                    break
                due += self._active / self._rate
                pause(due - monotonic(), caller)
                if count % 32 == 31:
                    self._check_gpus()
                count += 1
                text += token
                stopped = _first_stop(text, options.stop)
                if stopped is not None:
                    text = text[:stopped]
                    break
                # Text that may turn out to be the start of a stop sequence waits.
                ready = len(text) - _held_back(text, options.stop)
                if ready > sent:
                    yield Chunk(text[sent:ready])
                    sent = ready
            if len(text) > sent:
                yield Chunk(text[sent:])
            yield Chunk("", reason, prompt_tokens, prompt_ns, count, monotonic_ns() - start)

    def read(self, caller: Caller, tokens: int) -> None:
        """Take the time that an embedding of so many tokens takes; raises as `complete` does.

        A text that is being read is read to its end, whoever waits for it (runner/llamarunner/runner.go, embeddings).
        """
        if tokens > self.context:
            raise TooLongError
        slot = ExitStack()
        slot.enter_context(self._slot(caller))
        seconds = FIRST_TOKEN_SECONDS / self._speed + tokens / (self._rate * PROMPT_SPEEDUP)
        end = monotonic() + seconds
        try:
            self._check_gpus()
            pause(seconds, caller)
        except ClientGoneError:
            rest = threading.Timer(max(0.0, end - monotonic()), slot.close)
            rest.daemon = True
            rest.start()
            raise
        except BaseException:
            slot.close()
            raise
        slot.close()


def _first_stop(text: str, stops: Sequence[str]) -> int | None:
    places = [text.find(stop) for stop in stops if stop and stop in text]
    return min(places) if places else None


def _held_back(text: str, stops: Sequence[str]) -> int:
    longest = 0
    for stop in stops:
        for length in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:length]):
                longest = length
                break
    return longest
