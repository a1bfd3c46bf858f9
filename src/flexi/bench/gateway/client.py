"""The bench's clients: one process that asks, and says on standard output how it was answered.

    python -m flexi.bench.gateway.client         with a Job as JSON on standard input

Prints lines of JSON: `{"open": n}` once all streams of a job have had their first token, and last the result.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from .wire import STAMP, Messages, allow_many_files, now_us, question

GRACE_S = 30.0
"""How much longer than its tokens take a stream may last before it counts as lost."""


@dataclass(frozen=True)
class Place:
    """Where a request goes: an address, the model to name there, and the key if one is needed."""

    address: str
    port: int
    model: str
    key: str = ""


@dataclass(frozen=True)
class Target:
    """Something that is measured. Requests go to its places in turn."""

    name: str
    path: str
    places: tuple[Place, ...]

    def request(self, number: int, prompt: str, *, stream: bool) -> tuple[Place, bytes]:
        """The request with this number: where it goes, and its bytes."""
        place = self.places[number % len(self.places)]
        chat = {"model": place.model, "stream": stream, "messages": [{"role": "user", "content": prompt}]}
        body = json.dumps(chat).encode()
        lines = [f"POST {self.path} HTTP/1.1", f"Host: {place.address}", "Content-Type: application/json"]
        lines += [f"Authorization: Bearer {place.key}"] if place.key else []
        return place, ("\r\n".join([*lines, f"Content-Length: {len(body)}"]) + "\r\n\r\n").encode() + body


@dataclass(frozen=True)
class Job:
    """What to ask. Unused fields of a kind keep their defaults."""

    kind: Literal["serial", "streams", "requests"]
    targets: tuple[Target, ...]
    rounds: int = 1
    """serial: targets take turns so many times, so that what else happens on the computer meets all of them."""
    count: int = 1
    """serial: requests of a turn. streams: streams at once. requests: connections."""
    tokens: int = 1
    pace: float = 0.0
    """Tokens per second of each stream; 0: all at once."""
    ramp_s: float = 0.0
    """streams: over which time they are opened."""
    seconds: float = 0.0
    """requests: for how long."""

    @classmethod
    def parsed(cls, text: str) -> Job:
        value = json.loads(text)
        targets = tuple(
            Target(target["name"], target["path"], tuple(Place(**place) for place in target["places"]))
            for target in value.pop("targets")
        )
        return cls(targets=targets, **value)

    def text(self) -> str:
        return json.dumps(asdict(self))


class Answer(asyncio.Protocol):
    """A connection on which one answer after the other is read."""

    def __init__(self) -> None:
        self._messages = Messages(self._on_head, self._on_body, self._on_end)
        self._transport: asyncio.Transport | None = None
        self.begin()

    def begin(self) -> None:
        """Forget the last answer."""
        self.status = 0
        self.sent_us = now_us()
        self.first = asyncio.get_running_loop().create_future()
        """Microseconds from the question to the first token."""
        self.done = asyncio.get_running_loop().create_future()
        """Nothing, or what went wrong, in words."""
        self.delays_us: list[int] = []
        self.longest_gap_us = 0
        self._last_us = 0
        self._tail = b""
        self.refusal = b""

    @property
    def reusable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, request: bytes) -> None:
        assert self._transport is not None
        self.sent_us = now_us()
        self._transport.write(request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._messages.ended()
        self._end(f"connection lost ({type(exc).__name__ if exc else 'closed'})")

    def data_received(self, data: bytes) -> None:
        try:
            self._messages.feed(data)
        except ValueError as error:
            self._end(f"not HTTP: {error}")

    def _on_head(self, start: str, headers: dict[str, str]) -> None:
        self.status = int(start.split(" ")[1])

    def _on_body(self, data: bytes) -> None:
        if self.status != 200:
            self.refusal += data
            return
        text = self._tail + data
        now = now_us()
        for found in STAMP.finditer(text):
            if not self.first.done():
                self.first.set_result(now - self.sent_us)
            else:
                self.longest_gap_us = max(self.longest_gap_us, now - self._last_us)
            self._last_us = now
            self.delays_us.append(now - int(found[1]))
        self._tail = text[text.rfind(b"\n") + 1 :]

    def _on_end(self) -> None:
        self._end("" if self.status == 200 else f"status {self.status}: {self.refusal[:120].decode('latin-1')}")

    def _end(self, words: str) -> None:
        if not self.first.done():
            self.first.cancel()
        if not self.done.done():
            self.done.set_result(words)


@dataclass
class Result:
    """Of one target. Times are microseconds, one figure for each request or token."""

    name: str
    asked: int = 0
    whole: int = 0
    """Answers that came to their end with every token."""
    wrong: dict[str, int] = field(default_factory=dict)
    """What went wrong, and how often."""
    first_us: list[int] = field(default_factory=list)
    delays_us: list[int] = field(default_factory=list)
    """streams: from the instance's writing of a token to its arrival."""
    longest_gap_us: int = 0
    """streams: the longest time between two tokens of one stream."""
    tokens: int = 0
    seconds: float = 0.0
    """From the first question to the end of the last answer."""

    def fail(self, words: str) -> None:
        self.wrong[words] = self.wrong.get(words, 0) + 1

    def take(self, answer: Answer, expected: int) -> None:
        words = answer.done.result()
        if not words and len(answer.delays_us) != expected:
            words = f"broken off after {len(answer.delays_us)} of {expected} tokens"
        self.asked += 1
        self.tokens += len(answer.delays_us)
        if words:
            self.fail(words)
        else:
            self.whole += 1
        if answer.first.done() and not answer.first.cancelled():
            self.first_us.append(answer.first.result())
        self.delays_us += answer.delays_us
        self.longest_gap_us = max(self.longest_gap_us, answer.longest_gap_us)


async def _connect(place: Place) -> Answer:
    _, answer = await asyncio.get_running_loop().create_connection(Answer, place.address, place.port)
    return answer


async def serial(job: Job) -> list[Result]:
    """One request after the other on a kept connection, the targets in turn."""
    results = [Result(target.name) for target in job.targets]
    answers: dict[str, Answer] = {}
    prompt = question(job.tokens, job.pace)
    for _ in range(job.rounds):
        for target, result in zip(job.targets, results, strict=True):
            begin = now_us()
            for _ in range(job.count):
                place, request = target.request(0, prompt, stream=True)
                answer = answers.get(target.name)
                if answer is None or not answer.reusable:
                    answer = answers[target.name] = await _connect(place)
                answer.begin()
                answer.ask(request)
                await asyncio.wait_for(answer.done, GRACE_S)
                result.take(answer, job.tokens)
            result.seconds += (now_us() - begin) / 1e6
    return results


async def streams(job: Job) -> list[Result]:
    """All streams of one target at once; each ends by itself."""
    (target,) = job.targets
    result = Result(target.name)
    limit_s = job.ramp_s + (job.tokens / job.pace if job.pace else 0) + GRACE_S
    answers: list[Answer | None] = []
    begin = now_us()

    async def one(number: int) -> None:
        await asyncio.sleep(job.ramp_s * number / job.count)
        place, request = target.request(number, question(job.tokens, job.pace), stream=True)
        try:
            answer = await _connect(place)
        except OSError as error:
            result.asked += 1
            result.fail(f"no connection: {error.strerror}")
            answers.append(None)
            return
        answer.ask(request)
        try:
            await asyncio.wait({answer.first}, timeout=limit_s)
            answers.append(answer)
            if len(answers) == job.count:
                _say({"open": sum(a is not None and not a.done.done() for a in answers)})
            await asyncio.wait({answer.done}, timeout=max(0.0, limit_s - (now_us() - begin) / 1e6))
            if not answer.done.done():
                answer.done.set_result("no end in time")
            result.take(answer, job.tokens)
        finally:
            answer.close()

    await asyncio.gather(*(one(number) for number in range(job.count)))
    result.seconds = (now_us() - begin) / 1e6
    return [result]


async def requests(job: Job) -> list[Result]:
    """Small whole answers, as many as come, on kept connections."""
    (target,) = job.targets
    result = Result(target.name)
    begin = now_us()
    end = begin + int(job.seconds * 1e6)

    async def one(number: int) -> None:
        answer: Answer | None = None
        place, request = target.request(number, question(1, 0), stream=False)
        while now_us() < end:
            try:
                if answer is None or not answer.reusable:
                    answer = await _connect(place)
                answer.begin()
                answer.ask(request)
                await asyncio.wait_for(answer.done, GRACE_S)
            except (OSError, TimeoutError) as error:
                result.asked += 1
                result.fail(type(error).__name__)
                continue
            result.take(answer, 1)
        if answer is not None:
            answer.close()

    await asyncio.gather(*(one(number) for number in range(job.count)))
    result.seconds = (now_us() - begin) / 1e6
    return [result]


def _say(value: object) -> None:
    print(json.dumps(value), flush=True)


def main(text: str) -> None:
    job = Job.parsed(text)
    allow_many_files()
    run: dict[str, Any] = {"serial": serial, "streams": streams, "requests": requests}
    _say([asdict(result) for result in asyncio.run(run[job.kind](job))])


if __name__ == "__main__":
    main(sys.stdin.read())
