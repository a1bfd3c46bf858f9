"""Nothing that needs an account passes before its user has accepted the agreement.

ASGI, standard library only. What the gate does not know is refused: the wrapped application's own router says what a
path is, and the application itself says who asks. Statements about Open WebUI are read in its source, release 0.12.4.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from typing import Any, Protocol
from urllib.parse import quote

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OWN = "/flexi"
"""Everything below it is answered here and never reaches the application from outside."""
PAGE = f"{OWN}/agreement"
WHO = f"{OWN}/who"
"""Where the gate asks the application who has the credentials of a request."""
LOADER = "/static/loader.js"
"""A script that Open WebUI's page loads before its own, empty as released: the place for an installation's own."""
HEADER = b"x-flexi-agreement"
PROOF = b"x-flexi-proof"
"""Shows that the web server on this host has written the headers that say who comes."""
INTERNAL = "flexi@localhost"
"""The account that flexi manages the chat with; no person's."""

_LOADER = b"""\
// Whoever has not accepted the user agreement is taken to it.
(() => {
  const ask = window.fetch;
  window.fetch = async (...request) => {
    const answer = await ask(...request);
    if (answer.status !== 403 || !answer.headers.has("X-Flexi-Agreement")) return answer;
    location.assign("/flexi/agreement?to=" + encodeURIComponent(location.pathname));
    return new Promise(() => {});
  };
})();
"""
_ABOUT_THE_BODY = frozenset(
    {b"content-length", b"content-type", b"transfer-encoding", b"expect", b"accept-encoding", b"range", b"te"}
)
_ABOUT_THE_CONNECTION = frozenset({b"connection", b"upgrade", b"keep-alive"})
_FORWARDED = frozenset({b"x-forwarded-for", b"forwarded", b"x-real-ip", b"x-forwarded-host", b"x-forwarded-proto"})
_PATIENCE_S = 20.0
_REMEMBERED = 10_000
_log = logging.getLogger("flexi_chat")


class Access(Enum):
    """What a path asks of who calls it."""

    OPEN = "open"
    """Needed to sign in, or to see that the service lives: no model behind it."""
    PAGE = "page"
    """Files of the page."""
    ACCOUNT = "account"
    """All else."""


@dataclass(frozen=True)
class Caller:
    """Who asks, in the application's own words."""

    id: str
    email: str
    name: str
    session: bool
    """Whether a person signed in on the page; False for API keys and what runs on somebody's behalf."""


@dataclass(frozen=True)
class Nobody:
    """The application knows none who has these credentials."""

    status: int


class UnreachableError(Exception):
    """The application did not say who asks."""


class Acceptances(Protocol):
    """Who has accepted the agreement in force."""

    async def accepted(self, user: str) -> bool: ...


class OwnPages(Protocol):
    """The agreement's page."""

    version: str
    address: str

    async def answer(self, scope: Scope, receive: Receive, send: Send, caller: Caller | None) -> None: ...


class Gate:
    """`inner` behind the agreement.

    `access` says what a path asks. `pages` is None where the site has no agreement; then only strangers and the
    internal account from outside are refused. `credentials` are the names, in lower case, of the headers by which the
    application may know its users. `trusted` are those that it believes without a proof: they stay only on requests
    whose `PROOF` is `proof`, which the web server that writes them knows.
    """

    def __init__(
        self,
        inner: App,
        access: Callable[[Scope], Access],
        acceptances: Acceptances,
        pages: OwnPages | None,
        credentials: frozenset[bytes],
        trusted: frozenset[bytes] = frozenset(),
        proof: bytes = b"",
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inner = inner
        self._access = access
        self._acceptances = acceptances
        self._pages = pages
        self._credentials = credentials
        self._trusted = trusted
        self._proof = proof
        self._passed = _Passed(now)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
            return
        if scope["type"] not in ("http", "websocket"):
            raise RuntimeError(f"neither HTTP nor a WebSocket: {scope['type']}")
        try:
            await self._one(self._without_false_headers(scope), receive, send)
        except UnreachableError:
            _log.exception("nobody said who asks")
            await refuse(scope, send, 503, "The chat cannot tell who you are right now; try again in a minute.")

    async def _one(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == OWN or path.startswith(f"{OWN}/"):
            await self._own(scope, receive, send)
            return
        if path == LOADER and scope["type"] == "http" and self._pages is not None:
            await reply(send, 200, "text/javascript; charset=utf-8", _LOADER)
            return
        access = self._access(scope)
        if access is Access.PAGE and self._pages is not None and _opens_a_page(scope) and await self._is_due(scope):
            to = quote(path, safe="/")
            await reply(send, 303, "text/plain", b"", [(b"location", f"{PAGE}?to={to}".encode())])
            return
        if access is Access.ACCOUNT and not await self._may(scope, send):
            return
        await self._inner(scope, receive, send)

    def _without_false_headers(self, scope: Scope) -> Scope:
        proofs = [value for name, value in scope["headers"] if name.lower() == PROOF]
        proven = bool(self._proof) and len(proofs) == 1 and hmac.compare_digest(proofs[0], self._proof)
        false = {PROOF} if proven else {PROOF} | self._trusted
        return {**scope, "headers": [(name, value) for name, value in scope["headers"] if name.lower() not in false]}

    async def _may(self, scope: Scope, send: Send) -> bool:
        """Whether the request may go on; otherwise it has been answered."""
        mark = self._mark(scope)
        if mark is not None and self._passed.knows(mark):
            return True
        caller = await self._who(scope)
        if isinstance(caller, Nobody):
            await refuse(scope, send, caller.status, "Not authenticated")
            return False
        if caller.email == INTERNAL:
            if is_local(scope):
                return True
            await refuse(scope, send, 403, "This account works on the chat's own host only.")
            return False
        if not await self._acceptances.accepted(caller.id):
            assert self._pages is not None
            await refuse(
                scope,
                send,
                403,
                f"Accept the user agreement ({self._pages.version}) first: {self._pages.address}",
                [(HEADER, self._pages.version.encode())],
            )
            return False
        if mark is not None:
            self._passed.remember(mark)
        return True

    async def _is_due(self, scope: Scope) -> bool:
        """Whether somebody who is signed in opens the page and has the agreement before them."""
        try:
            caller = await self._who(scope)
        except UnreachableError:
            return False  # The page itself shows what is wrong; nothing but files is served.
        return (
            isinstance(caller, Caller) and caller.email != INTERNAL and not await self._acceptances.accepted(caller.id)
        )

    async def _own(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._pages is None or scope["type"] != "http":
            await refuse(scope, send, 404, "Not found")
            return
        caller = await self._who(scope)
        known = isinstance(caller, Caller) and caller.email != INTERNAL
        await self._pages.answer(scope, receive, send, caller if known and isinstance(caller, Caller) else None)

    async def _who(self, scope: Scope) -> Caller | Nobody:
        """Ask the application with the request's own headers, so that both read the same credentials alike."""
        if not any(name.lower() in self._credentials for name, _ in scope["headers"]):
            return Nobody(401)
        question = _question(scope)
        answer = _Answer()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._inner(question, answer.receive, answer.send)
        except TimeoutError as error:
            raise UnreachableError("no answer in time") from error
        except Exception as error:
            raise UnreachableError(str(error)) from error
        return answer.read()

    def _mark(self, scope: Scope) -> bytes | None:
        """What stands for the request's credentials; None where it has none."""
        shown = [(n.lower(), v) for n, v in scope["headers"] if n.lower() in self._credentials]
        return hashlib.sha256(repr(shown).encode()).digest() if shown else None


class _Passed:
    """Credentials that were good and whose user had accepted.

    Kept for a while only, and never a refusal: the application looks at the credentials again in each request, so
    signing out and deleting accounts take effect at once.
    """

    KEPT_S = 300.0

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def knows(self, mark: bytes) -> bool:
        return self._until.get(mark, 0.0) > self._now()

    def remember(self, mark: bytes) -> None:
        self._until.pop(mark, None)
        self._until[mark] = self._now() + self.KEPT_S
        while len(self._until) > _REMEMBERED:
            self._until.popitem(last=False)


class _Answer:
    """The answer to one question that was asked inside the process."""

    def __init__(self) -> None:
        self._status = 0
        self._body = b""
        self._asked = False

    async def receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
        elif message["type"] == "http.response.body":
            self._body += message.get("body", b"")

    def read(self) -> Caller | Nobody:
        if self._status in (401, 403):
            return Nobody(self._status)
        if self._status != 200:
            raise UnreachableError(f"answered {self._status}")
        try:
            said = json.loads(self._body)
            return Caller(said["id"], said["email"], said["name"], said["session"] is True)
        except (ValueError, KeyError, TypeError) as error:
            raise UnreachableError("an answer that cannot be read") from error


def is_local(scope: Scope) -> bool:
    """Whether a program on this host asks, and no proxy on somebody's behalf."""
    client, server = scope.get("client"), scope.get("server")
    if client is None or any(name.lower() in _FORWARDED for name, _ in scope["headers"]):
        return False
    try:
        return ip_address(client[0]).is_loopback or (server is not None and client[0] == server[0])
    except ValueError:
        return False


def _opens_a_page(scope: Scope) -> bool:
    """Whether a browser opens a page, rather than loads a part of one."""
    if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
        return False
    return any(name.lower() == b"accept" and b"text/html" in value.lower() for name, value in scope["headers"])


def _question(scope: Scope) -> Scope:
    """`GET WHO` with the headers of `scope`, but for those that belong to its body or its connection."""
    dropped = _ABOUT_THE_BODY | _ABOUT_THE_CONNECTION
    headers = [
        (name, value)
        for name, value in scope["headers"]
        if name.lower() not in dropped and not name.lower().startswith(b"sec-websocket-")
    ]
    kept = {key: scope[key] for key in ("asgi", "client", "server", "extensions") if key in scope}
    return kept | {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": {"ws": "http", "wss": "https"}.get(scope.get("scheme", "http"), scope.get("scheme", "http")),
        "path": WHO,
        "raw_path": WHO.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "state": dict(scope.get("state", {})),
    }


async def refuse(
    scope: Scope, send: Send, status: int, why: str, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    """Say `why` where Open WebUI's clients look for it (`detail`) and where OpenAI's do (`error.message`)."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": why})
        return
    body = json.dumps({"detail": why, "error": {"message": why, "type": "access_denied"}}).encode()
    await reply(send, status, "application/json", body, headers)


async def reply(
    send: Send, status: int, kind: str, body: bytes, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    """One whole HTTP answer, kept by no cache."""
    about = [
        (b"content-type", kind.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": about + (headers or [])})
    await send({"type": "http.response.body", "body": body})
