"""Open WebUI's own API, spoken from its host as the account that flexi manages the chat with. Standard library only.

Paths and fields are those of release 0.12.4 (open_webui/routers).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

ANSWER_S = 1800.0
"""What one answer may take: a large file is read and embedded before its upload is answered."""
TOKEN_S = 6 * 3600


class WebuiError(Exception):
    """Open WebUI refused, or did not answer: `status` is HTTP's, 0 where there was no answer."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.words = words


def token(secret: str, account: str, stamp: str | None, now: float | None = None) -> str:
    """A session of `account` (Open WebUI's id), as its own sign-in would make it (utils/auth.py: create_token).

    `stamp` is the account's `session_stamp`: the chat takes back all sessions by changing it.
    """
    issued = int(time.time() if now is None else now)
    claims = {"id": account, "typ": "session", "session_stamp": stamp, "jti": str(uuid.uuid4())}
    header = _base64(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    body = _base64(json.dumps({**claims, "iat": issued, "exp": issued + TOKEN_S}).encode())
    signature = hmac.new(secret.encode(), header + b"." + body, hashlib.sha256).digest()
    return b".".join((header, body, _base64(signature))).decode()


def _base64(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


class Webui:
    """One caller. Each request has a connection of its own, so several threads may ask."""

    def __init__(self, url: str, session: str, timeout_s: float = ANSWER_S) -> None:
        self._address = urlsplit(url)
        self._session = session
        self._timeout_s = timeout_s

    def get(self, path: str, **query: str | int) -> Any:
        return self._json("GET", f"{path}?{urlencode(query)}" if query else path)

    def post(self, path: str, body: object = None) -> Any:
        return self._json("POST", path, json.dumps({} if body is None else body).encode(), "application/json")

    def delete(self, path: str) -> Any:
        return self._json("DELETE", path)

    def upload(self, name: str, kind: str, content: bytes, metadata: Mapping[str, str]) -> Any:
        """Upload a file and wait until it is read and embedded. What became of that is to be asked for."""
        boundary = uuid.uuid4().hex
        # RFC 7578, 5.1.2 and 4.2: UTF-8 as it is; quotes and line ends are escaped as browsers do.
        shown = name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
        parts = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="metadata"\r\n\r\n{json.dumps(metadata)}\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{shown}"\r\n'
            f"Content-Type: {kind}\r\n\r\n"
        )
        body = parts.encode() + content + f"\r\n--{boundary}--\r\n".encode()
        path = "/api/v1/files/?process=true&process_in_background=false"
        return self._json("POST", path, body, f"multipart/form-data; boundary={boundary}")

    def stream(self, path: str, body: object) -> Iterator[Any]:
        """The events of an answer that comes in pieces (text/event-stream), or the one JSON that came instead."""
        connection, answer = self._ask("POST", path, json.dumps(body).encode(), "application/json")
        try:
            if "event-stream" not in (answer.getheader("content-type") or ""):
                yield _parsed(answer.status, answer.read())
                return
            for line in answer:
                text = line.decode("utf-8", "replace").strip()
                if text.startswith("data:") and text != "data: [DONE]":
                    yield _parsed(answer.status, text.removeprefix("data:").strip().encode())
        except (OSError, http.client.HTTPException) as error:
            raise WebuiError(0, f"the answer broke off ({error})") from None
        finally:
            connection.close()

    def _json(self, method: str, path: str, body: bytes | None = None, kind: str | None = None) -> Any:
        connection, answer = self._ask(method, path, body, kind)
        try:
            return _parsed(answer.status, answer.read())
        except (OSError, http.client.HTTPException) as error:
            raise WebuiError(0, f"the answer broke off ({error})") from None
        finally:
            connection.close()

    def _ask(
        self, method: str, path: str, body: bytes | None, kind: str | None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(
            self._address.hostname or "", self._address.port or 80, timeout=self._timeout_s
        )
        headers = {"Authorization": f"Bearer {self._session}", "Accept": "application/json, text/event-stream"}
        if kind is not None:
            headers["Content-Type"] = kind
        try:
            connection.request(method, quote(path, safe="/?&=%:+*"), body, headers)
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise WebuiError(0, f"Open WebUI does not answer ({error})") from None
        if answer.status >= 400:
            raw = answer.read()
            connection.close()
            raise WebuiError(answer.status, _words(answer.status, raw))
        return connection, answer


def _parsed(status: int, raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        # An unknown path is answered with the page.
        raise WebuiError(status, "Open WebUI answered with something that is no JSON: is it another release?") from None


def _words(status: int, raw: bytes) -> str:
    try:
        detail = json.loads(raw)["detail"]
    except (ValueError, KeyError, TypeError):
        detail = f"HTTP {status}"
    return detail if isinstance(detail, str) else json.dumps(detail)
