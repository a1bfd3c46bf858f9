"""An answer that is still worked out ends with the client that asked for it.

ASGI, standard library only. Open WebUI notices a client that leaves only while it sends (StreamingResponse of
Starlette); while it waits for a model it goes on, and the model with it. What the chat's page asks for is Open WebUI's
own matter: it runs as a task that outlives the page on purpose and ends with the page's button, and the request that
begins it names the page's `session_id` (main.py, chat_completion, release 0.12.4).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from flexi_chat.gate.access import App, Message, Receive, Scope, Send

_OF_THE_PAGE = b'"session_id"'


class EndsWithClient:
    """`inner`, whose work on a request that `asks_model` ends when its client leaves before the answer has begun."""

    def __init__(self, inner: App, asks_model: Callable[[Scope], bool]) -> None:
        self._inner = inner
        self._asks_model = asks_model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._asks_model(scope):
            await self._inner(scope, receive, send)
            return
        request = _Request(receive, send)
        work = asyncio.ensure_future(self._inner(scope, request.receive, request.send))
        gone = asyncio.ensure_future(request.gone())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            abandoned = not work.done() and gone.result()
            if abandoned:
                work.cancel()
            await asyncio.wait({work})
            if not work.cancelled():
                work.result()
            elif not abandoned:
                raise asyncio.CancelledError
        finally:
            # Also where the server itself ends this request.
            for task in (work, gone):
                task.cancel()
            await request.close()


class _Request:
    """Both sides of one request. One reader of the connection at a time: after the body only `_next` reads."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._whole = asyncio.Event()
        self._next: asyncio.Future[Message] | None = None
        self._begun = False
        self._of_the_page = False
        self._end = b""

    async def receive(self) -> Message:
        if self._next is not None:
            return await asyncio.shield(self._next)
        message = await self._receive()
        if message["type"] == "http.request":
            data = self._end + message.get("body", b"")
            self._of_the_page = self._of_the_page or _OF_THE_PAGE in data
            self._end = data[1 - len(_OF_THE_PAGE) :]
            if message.get("more_body"):
                return message
            self._next = asyncio.ensure_future(self._receive())
        self._whole.set()
        return message

    async def send(self, message: Message) -> None:
        self._begun = True
        await self._send(message)

    async def gone(self) -> bool:
        """Wait until the client has left; whether the work on its answer shall end."""
        await self._whole.wait()
        if self._next is not None:
            await asyncio.shield(self._next)
        return not (self._begun or self._of_the_page)

    async def close(self) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait({self._next})
