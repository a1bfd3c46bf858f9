"""What the chat works out for a client of its API ends with that client, and with nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from flexi_chat.gate.abandoned import EndsWithClient

LEFT = {"type": "http.disconnect"}


def body(*pieces: bytes) -> list[dict[str, Any]]:
    """A request's body as uvicorn gives it."""
    return [
        {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
        for number, piece in enumerate(pieces, 1)
    ]


class Model:
    """An application that reads a request, waits for a model, and answers."""

    def __init__(self, begin_first: bool = False, after: Callable[[], Awaitable[None]] | None = None) -> None:
        self.asked = asyncio.Event()
        self.answered = asyncio.Event()
        self.ended = ""
        self._begin_first = begin_first
        self._after = after

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            while (await receive()).get("more_body"):
                pass
            if self._begin_first:
                await send({"type": "http.response.start", "status": 200, "headers": []})
            self.asked.set()
            await self.answered.wait()
            if not self._begin_first:
                await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})
            if self._after is not None:
                await self._after()
            self.ended = "answered"
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise


class Client:
    """Says what it is given, and then nothing until it leaves."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self._messages = list(messages)
        self.left = asyncio.Event()
        self.heard: list[str] = []

    async def receive(self) -> dict[str, Any]:
        if self._messages:
            return self._messages.pop(0)
        await self.left.wait()
        return LEFT

    async def send(self, message: Any) -> None:
        self.heard.append(message["type"])
        if message["type"] == "http.response.body":
            self.left.set()  # as uvicorn, once all is said


WAITS = {"type": "http", "path": "/api/chat/completions", "method": "POST"}


def serve(model: Model, client: Client) -> asyncio.Future[None]:
    app = EndsWithClient(model, lambda scope: scope["path"] == WAITS["path"])
    return asyncio.ensure_future(app(dict(WAITS), client.receive, client.send))


def test_the_work_ends_when_its_client_leaves() -> None:
    async def leave() -> None:
        model, client = Model(), Client(*body(b'{"stream": false, ', b'"messages": []}'))
        served = serve(model, client)
        await model.asked.wait()
        client.left.set()
        await asyncio.wait_for(served, 5)
        assert (model.ended, client.heard) == ("cancelled", [])

    asyncio.run(leave())


@pytest.mark.parametrize(
    ("begin_first", "pieces"),
    [
        (True, (b"{}",)),
        (False, (b'{"session_id": "s", "chat_id": "c"}',)),
        (False, (b'{"session', b'_id": "s", "chat_id": "c"}')),
    ],
    ids=["a stream that has begun", "the page's", "the page's, in pieces"],
)
def test_what_ends_in_its_own_way_is_left_alone(begin_first: bool, pieces: tuple[bytes, ...]) -> None:
    async def leave() -> None:
        model, client = Model(begin_first), Client(*body(*pieces))
        served = serve(model, client)
        await model.asked.wait()
        client.left.set()
        # Until everybody who could do something about it has had a turn.
        for _ in range(20):
            await asyncio.sleep(0)
        assert model.ended == ""
        model.answered.set()
        await asyncio.wait_for(served, 5)
        assert model.ended == "answered"

    asyncio.run(leave())


def test_what_is_done_behind_an_answer_goes_on() -> None:
    """Titles, for example: uvicorn says `disconnect` of an answer that is whole as well."""

    async def go() -> None:
        later = asyncio.Event()

        async def after() -> None:
            await later.wait()

        model, client = Model(after=after), Client(*body(b"{}"))
        served = serve(model, client)
        await model.asked.wait()
        model.answered.set()
        await client.left.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        later.set()
        await asyncio.wait_for(served, 5)
        assert model.ended == "answered"

    asyncio.run(go())


def test_failures_and_the_servers_own_end_pass() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("no")

    async def go() -> None:
        app = EndsWithClient(broken, lambda scope: True)
        client = Client(*body(b"{}"))
        with pytest.raises(RuntimeError, match="no"):
            await app(dict(WAITS), client.receive, client.send)
        model, client = Model(), Client(*body(b"{}"))
        served = serve(model, client)
        await model.asked.wait()
        served.cancel()
        with pytest.raises(asyncio.CancelledError):
            await served
        for _ in range(5):
            await asyncio.sleep(0)
        assert model.ended == "cancelled"
        assert len(asyncio.all_tasks()) == 1, "something is left behind"

    asyncio.run(go())
