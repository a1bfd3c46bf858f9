"""A user of the chat by its own API, for tests that need no browser."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import httpx
from lab_site import Site, until

AGREEMENT = "/flexi/agreement"


class Member:
    """Signed in, and agreed."""

    def __init__(self, url: str, mail: str, password: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=60, trust_env=False)
        self.mail, self._password = mail, password
        self.sign_in()

    def __enter__(self) -> Member:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def sign_in(self) -> None:
        self._http.cookies.clear()
        self._http.headers.pop("Authorization", None)
        # A chat that was just started is known to its host at once, to the gateway with its next look.
        until(lambda: self._http.get("/api/version").status_code != 503, 30, "the gateway leads to the chat")
        answer = self._http.post("/api/v1/auths/signin", json={"email": self.mail, "password": self._password})
        assert answer.status_code == 200, answer.text
        self._http.headers["Authorization"] = f"Bearer {answer.json()['token']}"

    def must_agree(self) -> bool:
        """Whether the chat still asks for the agreement."""
        return self._http.get("/api/models").status_code == 403

    def agree(self) -> None:
        page = self._http.get(AGREEMENT).text
        form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page))
        answer = self._http.post(AGREEMENT, data=form)
        assert answer.status_code == 303, answer.text

    def request(self, method: str, path: str, body: object | None = None, **headers: str) -> httpx.Response:
        """Whatever the answer is. Keywords are headers, with `_` for `-`."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return self._http.request(method, path, json=body, headers=sent)

    def get(self, path: str) -> Any:
        answer = self._http.get(path)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    def post(self, path: str, body: object) -> Any:
        answer = self._http.post(path, json=body)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    def write(self, text: str, model: str) -> str:
        """Store a conversation with one message, as the page does before it asks a model; returns its id."""
        message = str(uuid.uuid4())
        history = {
            "currentId": message,
            "messages": {message: {"id": message, "role": "user", "content": text, "childrenIds": [], "done": True}},
        }
        body = {"chat": {"title": text[:40], "models": [model], "history": history, "messages": [], "tags": []}}
        return str(self.post("/api/v1/chats/new", body)["id"])

    def written(self) -> list[str]:
        """Every message of the person's conversations."""
        found = []
        answer = self._http.get("/api/v1/chats/all")
        assert answer.status_code == 200, answer.text
        for line in answer.text.splitlines():
            messages = json.loads(line)["chat"]["history"]["messages"]
            found += [message["content"] for message in messages.values()]
        return sorted(found)

    def models(self) -> set[str]:
        return {model["id"] for model in self.get("/api/models")["data"]}

    @property
    def token(self) -> str:
        return str(self._http.headers["Authorization"]).removeprefix("Bearer ")

    def ask_as_the_page(self, model: str, question: str, chat: str) -> None:
        """Begin an answer to a conversation that was written before; its pieces go to a WebSocket that nobody has."""
        body = {"model": model, "messages": [{"role": "user", "content": question}], "stream": True, "chat_id": chat}
        self.post("/api/chat/completions", body | {"id": str(uuid.uuid4()), "session_id": str(uuid.uuid4())})

    @contextmanager
    def asking(self, model: str, question: str) -> Iterator[Iterator[str]]:
        """The lines of an answer while it is written."""
        body = {"model": model, "messages": [{"role": "user", "content": question}], "stream": True}
        with self._http.stream("POST", "/api/chat/completions", json=body) as answer:
            assert answer.status_code == 200
            yield answer.iter_lines()

    def ask(self, model: str, question: str) -> dict[str, Any]:
        """The whole answer, with `sources` where there are some."""
        body = {"model": model, "messages": [{"role": "user", "content": question}], "stream": False}
        answer: dict[str, Any] = self.post("/api/chat/completions", body)
        return answer


def member(site: Site) -> Member:
    """The lab's test account, which has agreed."""
    person = Member(site.env["FLEXI_CHAT_URL"], site.env["FLEXI_CHAT_USER"], site.env["FLEXI_CHAT_PASSWORD"])
    if person.must_agree():
        person.agree()
    return person
