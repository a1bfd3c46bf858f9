"""The gate in front of Open WebUI, with a small application inside that knows its users by their tokens."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import pytest

from flexi_chat.gate.access import INTERNAL, PAGE, WHO, Access, Gate
from flexi_chat.gate.agreement import Agreement, Page, way_back

USERS = {"t-ada": ("1", "ada@example.edu", True), "k-ada": ("1", "ada@example.edu", False), "t-bob": ("2", "b", True),
         "t-flexi": ("0", INTERNAL, True)}  # fmt: skip
ACCESS = {"/health": Access.OPEN, "/": Access.PAGE, "/c/1": Access.PAGE}


@dataclass
class Inner:
    """Answers `who` as Open WebUI's route does, and writes down what else reaches it."""

    reached: list[str] = field(default_factory=list)
    headers: dict[bytes, bytes] = field(default_factory=dict)
    asked: int = 0
    broken: bool = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != WHO:
            self.reached.append(scope["path"])
            self.headers = dict(scope["headers"])
            if scope["type"] == "websocket":
                await send({"type": "websocket.accept"})
            else:
                await self._say(send, 200, {})
            return
        self.asked += 1
        if self.broken:
            raise RuntimeError("the database is gone")
        token = dict(scope["headers"]).get(b"authorization", b"").decode().removeprefix("Bearer ")
        if token not in USERS:
            await self._say(send, 401, {"detail": "Not authenticated"})
            return
        user, mail, session = USERS[token]
        await self._say(send, 200, {"id": user, "email": mail, "name": "", "session": session})

    async def _say(self, send: Any, status: int, said: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(said).encode()})


class Book:
    def __init__(self) -> None:
        self.written: dict[str, str] = {}

    async def accepted(self, user: str) -> bool:
        return user in self.written

    async def accept(self, user: str, language: str) -> None:
        self.written.setdefault(user, language)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Chat:
    def __init__(self, digest: str = "d1", agreement: bool = True, proof: bytes = b"secret") -> None:
        self.inner, self.book, self.now = Inner(), Book(), 0.0
        terms = Agreement("2026-10", {"de": "<p>Regeln</p>", "en": "<p>Rules</p>"}, digest)
        pages = Page(terms, self.book, title="FLEXI", language="de", address="https://chat.example.edu", key=b"k")
        self.gate = Gate(
            self.inner,
            lambda scope: ACCESS.get(scope["path"], Access.ACCOUNT),
            self.book,
            pages if agreement else None,
            frozenset({b"authorization", b"cookie", b"x-api-key"}),
            trusted=frozenset({b"x-mail"}),
            proof=proof,
            now=lambda: self.now,
        )
        if not agreement:
            self.book.written |= {user: "" for user, _, _ in USERS.values()}

    def ask(
        self,
        path: str,
        token: str = "",
        method: str = "GET",
        body: bytes = b"",
        client: str = "192.0.2.1",
        **headers: str,
    ) -> Answer:
        sent: list[Any] = []
        path, _, query = path.partition("?")
        shown = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            shown["authorization"] = f"Bearer {token}"
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "client": (client, 1),
            "server": ("192.0.2.80", 8095),
            "headers": [(name.encode(), value.encode()) for name, value in shown.items()],
        }
        asyncio.run(self.gate(scope, _given({"type": "http.request", "body": body}), _into(sent)))
        start, *rest = sent
        answered = {name.decode(): value.decode() for name, value in start["headers"]}
        return Answer(start["status"], answered, b"".join(part["body"] for part in rest))

    def agree(self, token: str, **changes: str) -> Answer:
        page = self.ask(PAGE, token).body.decode()
        form = dict(re.findall(r'name="(\w+)" value="([^"]*)"', page)) | changes
        return self.ask(PAGE, token, "POST", urlencode(form).encode())


def _given(message: Any) -> Any:
    async def receive() -> Any:
        return message

    return receive


def _into(sent: list[Any]) -> Any:
    async def send(message: Any) -> None:
        sent.append(message)

    return send


@pytest.fixture
def chat() -> Chat:
    return Chat()


def test_who_has_not_accepted_is_told_where_to(chat: Chat) -> None:
    for token in ("t-ada", "k-ada"):
        answer = chat.ask("/api/chat/completions", token, "POST")
        assert answer.status == 403
        said = json.loads(answer.body)
        assert said["detail"] == "Accept the user agreement (2026-10) first: https://chat.example.edu/flexi/agreement"
        assert said["error"]["message"] == said["detail"]
        assert answer.headers["x-flexi-agreement"] == "2026-10"
    assert chat.inner.reached == []


def test_after_accepting_everything_passes_also_with_an_api_key_and_for_that_user_only(chat: Chat) -> None:
    assert chat.agree("t-ada", to="/c/1").headers["location"] == "/c/1"
    assert chat.book.written == {"1": "de"}
    assert chat.ask("/api/models", "t-ada").status == 200
    assert chat.ask("/api/models", "k-ada").status == 200
    assert chat.ask("/api/models", "t-bob").status == 403
    assert chat.inner.reached == ["/api/models", "/api/models"]


def test_strangers_are_refused_without_asking_the_application(chat: Chat) -> None:
    assert chat.ask("/api/models").status == 401
    assert chat.inner.asked == 0
    assert chat.ask("/api/models", "nobody").status == 401
    assert chat.ask("/health").status == 200
    assert chat.inner.reached == ["/health"]


def test_an_application_that_cannot_say_who_asks_lets_nobody_through(chat: Chat) -> None:
    chat.agree("t-ada")
    chat.inner.broken = True
    assert chat.ask("/api/models", "t-ada").status == 503
    assert chat.inner.reached == []


def test_good_credentials_are_remembered_for_a_while_and_bad_ones_never(chat: Chat) -> None:
    chat.agree("t-ada")
    asked = chat.inner.asked
    for _ in range(3):
        chat.ask("/api/models", "t-ada")
    assert chat.inner.asked == asked + 1
    chat.now = 301.0
    chat.ask("/api/models", "t-ada")
    assert chat.inner.asked == asked + 2
    for _ in range(2):
        chat.ask("/api/models", "t-bob")
    assert chat.inner.asked == asked + 4
    # With something beside it, the same token is another question: the application decides which one counts.
    asked = chat.inner.asked
    assert chat.ask("/api/models", "t-ada", cookie="token=t-bob").status == 200
    assert chat.inner.asked == asked + 1


def test_the_form_is_good_for_its_user_its_text_and_its_language_only(chat: Chat) -> None:
    page = chat.ask(PAGE, "t-ada").body.decode()
    form = dict(re.findall(r'name="(\w+)" value="([^"]*)"', page))
    assert chat.ask(PAGE, "t-bob", "POST", urlencode(form).encode()).headers["location"] == PAGE
    assert chat.ask(PAGE, "t-ada", "POST", urlencode(form | {"language": "en"}).encode()).headers["location"] == PAGE
    other = Chat(digest="d2")
    assert other.ask(PAGE, "t-ada", "POST", urlencode(form).encode()).headers["location"] == PAGE
    assert chat.ask(PAGE, "t-ada", "POST", b"x" * 20_000).headers["location"] == PAGE
    assert chat.ask(PAGE, "", "POST", urlencode(form).encode()).headers["location"] == "/auth"
    assert chat.book.written == other.book.written == {}
    assert chat.ask(PAGE, "t-ada", "POST", urlencode(form).encode()).headers["location"] == "/"
    assert chat.book.written == {"1": "de"}


def test_an_api_key_accepts_nothing(chat: Chat) -> None:
    assert chat.ask(PAGE, "k-ada").status == 403
    assert chat.ask(PAGE, "k-ada", "POST").status == 403


def test_the_page_speaks_the_browsers_language(chat: Chat) -> None:
    def language(**headers: str) -> str:
        return re.findall(r'<html lang="(\w+)">', chat.ask(PAGE, "t-ada", **headers).body.decode())[0]

    assert language() == "de"
    assert language(accept_language="en-GB,en;q=0.9,de;q=0.8") == "en"
    assert language(accept_language="fr,de;q=0.5,en;q=0.3") == "de"
    assert "Rules" in chat.ask(f"{PAGE}?lang=en", "t-ada", accept_language="de").body.decode()


def test_browsers_that_open_the_chat_are_taken_to_the_agreement(chat: Chat) -> None:
    assert chat.ask("/c/1", "t-ada", accept="text/html").headers["location"] == f"{PAGE}?to=/c/1"
    assert chat.ask("/c/1", "t-ada", accept="*/*").status == 200
    assert chat.ask("/c/1", "", accept="text/html").status == 200
    chat.agree("t-ada")
    assert chat.ask("/c/1", "t-ada", accept="text/html").status == 200


def test_the_internal_account_works_from_the_same_host_only(chat: Chat) -> None:
    assert chat.ask("/api/v1/groups/", "t-flexi", client="127.0.0.1").status == 200
    assert chat.ask("/api/v1/groups/", "t-flexi", client="127.0.0.1", x_forwarded_for="192.0.2.7").status == 403
    assert chat.ask("/api/v1/groups/", "t-flexi").status == 403
    assert chat.ask(PAGE, "t-flexi").headers["location"] == "/auth"
    assert chat.ask("/api/v1/groups/", "t-flexi", client="192.0.2.80").status == 200
    assert len(chat.inner.reached) == 2


def test_without_an_agreement_strangers_and_the_internal_account_are_still_refused() -> None:
    chat = Chat(agreement=False)
    assert chat.ask("/api/models", "t-ada").status == 200
    assert chat.ask("/api/models").status == 401
    assert chat.ask("/api/models", "t-flexi").status == 403
    assert chat.ask(PAGE, "t-ada").status == 404


def test_nobody_reaches_the_question_from_outside(chat: Chat) -> None:
    assert chat.ask(WHO, "t-ada").status == 404
    assert chat.ask("/flexi/anything", "t-ada").status == 404
    assert chat.inner.reached == []


def test_web_sockets_are_refused_before_they_open(chat: Chat) -> None:
    def opened(token: str) -> str:
        sent: list[Any] = []
        headers = [(b"authorization", f"Bearer {token}".encode())]
        scope = {"type": "websocket", "path": "/api/v1/audio/realtime", "headers": headers, "client": ("192.0.2.1", 1)}
        asyncio.run(chat.gate(scope, _given({"type": "websocket.connect"}), _into(sent)))
        return str(sent[0]["type"])

    chat.agree("t-ada")
    assert opened("t-ada") == "websocket.accept"
    assert opened("t-bob") == opened("") == "websocket.close"


@pytest.mark.parametrize(
    "to", ["//evil.example", "/\\evil.example", "https://evil.example", "", "x", PAGE, "/a\r\nb: c"]
)
def test_the_way_back_leads_to_no_other_site(to: str) -> None:
    assert way_back(to) == "/"
    assert way_back("/c/1?x=y#z") == "/c/1?x=y#z"


def test_headers_that_say_who_comes_need_the_proof_of_the_web_server_in_front(chat: Chat) -> None:
    def said(chat: Chat, **headers: str) -> dict[bytes, bytes]:
        chat.ask("/health", **headers)
        return chat.inner.headers

    assert said(chat, X_Mail="eve", accept="*/*") == {b"accept": b"*/*"}
    assert said(chat, x_mail="eve", x_flexi_proof="guessed") == {}
    assert said(chat, x_mail="ada", x_flexi_proof="secret") == {b"x-mail": b"ada"}
    assert said(Chat(proof=b""), x_mail="eve", x_flexi_proof="") == {}
