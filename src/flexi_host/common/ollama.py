"""The few calls to an Ollama instance that the agent and the catalogue need, each with a time-out of its own size.

Shapes after Ollama 0.24.0: api/types.go, server/routes.go, server/images.go.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

MAX_BODY_BYTES = 16 * 2**20
MAX_LINE_BYTES = 2**20


class OllamaError(Exception):
    """The call failed; the message says why in words."""


class NotRunning(OllamaError):  # noqa: N818 -- a state of the instance rather than a mistake
    """Nobody listens, or the connection broke: the instance is down or going down."""


class NoAnswer(OllamaError):  # noqa: N818
    """Somebody listens but does not answer in time."""


@dataclass(frozen=True)
class Timeouts:
    """Seconds of silence after which a call is given up."""

    answer_s: float = 3.0
    """For what a healthy instance says from memory: version, ps."""
    store_s: float = 15.0
    """For what reads or writes the store: tags, copy, delete."""
    load_s: float = 1800.0
    """Weights of 80 GB from a hard disk take 13 minutes."""
    pull_s: float = 1800.0
    """Progress comes many times a second, but checking the digest of 80 GB is silent for minutes."""


@dataclass(frozen=True)
class Resident:
    """A model in memory, from /api/ps. Sizes in bytes."""

    size: int
    size_vram: int
    context_length: int
    expires_at: str


@dataclass(frozen=True)
class Progress:
    """One line of a pull. `digest` is empty on lines that are not about a layer."""

    status: str
    digest: str
    completed: int
    total: int


class Ollama:
    """Client of the instance at `url` (http://host:port)."""

    def __init__(self, url: str, timeouts: Timeouts | None = None) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        self._timeouts = timeouts or Timeouts()

    def version(self) -> str:
        return str(self._get("/api/version", self._timeouts.answer_s).get("version", ""))

    def tags(self) -> list[Mapping[str, object]]:
        """The models in the store, as /api/tags shows them."""
        return _models(self._get("/api/tags", self._timeouts.store_s))

    def ps(self) -> list[Mapping[str, object]]:
        """The models in memory, as /api/ps shows them."""
        return _models(self._get("/api/ps", self._timeouts.answer_s))

    def pull(self, model: str, insecure: bool) -> Iterator[Progress]:
        """Download `model`. OllamaError also for an error inside the stream, or when it ends without success."""
        body = {"model": model, "insecure": insecure, "stream": True}
        connection, response = self._open("POST", "/api/pull", body, self._timeouts.pull_s)
        try:
            last = ""
            for value in self._lines(response):
                if value.get("error"):
                    raise OllamaError(str(value["error"]))
                last = str(value.get("status", ""))
                yield Progress(
                    status=last,
                    digest=str(value.get("digest", "")),
                    completed=_count(value.get("completed")),
                    total=_count(value.get("total")),
                )
            if last != "success":
                raise OllamaError(f"the download broke off after {last!r}" if last else "the download broke off")
        finally:
            connection.close()

    def load(self, model: str, embedding: bool) -> None:
        """Load `model` for ever, or make a loaded one stay. No options: those of the instance hold."""
        path = "/api/embed" if embedding else "/api/generate"
        self._send("POST", path, {"model": model, "keep_alive": -1}, self._timeouts.load_s)

    def unload(self, model: str) -> None:
        # /api/generate unloads before it looks at what the model can do, so this is right for embedding models too.
        self._send("POST", "/api/generate", {"model": model, "keep_alive": 0}, self._timeouts.store_s)

    def copy(self, source: str, destination: str) -> None:
        self._send("POST", "/api/copy", {"source": source, "destination": destination}, self._timeouts.store_s)

    def delete(self, model: str) -> None:
        self._send("DELETE", "/api/delete", {"model": model}, self._timeouts.store_s)

    def _get(self, path: str, timeout_s: float) -> Mapping[str, object]:
        text = self._send("GET", path, None, timeout_s)
        try:
            value = json.loads(text)
        except ValueError:
            raise OllamaError(f"{path} answers with something that is not JSON") from None
        if not isinstance(value, dict):
            raise OllamaError(f"{path} answers with something that is not a JSON object")
        return value

    def _send(self, method: str, path: str, body: Mapping[str, object] | None, timeout_s: float) -> bytes:
        connection, response = self._open(method, path, body, timeout_s)
        try:
            return response.read(MAX_BODY_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise _translated(error, path, timeout_s) from None
        finally:
            connection.close()

    def _open(
        self, method: str, path: str, body: Mapping[str, object] | None, timeout_s: float
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        host, port = self._address
        connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            if response.status != 200:
                raise OllamaError(_reason(response))
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise _translated(error, path, timeout_s) from None
        except OllamaError:
            connection.close()
            raise
        return connection, response

    def _lines(self, response: http.client.HTTPResponse) -> Iterator[Mapping[str, object]]:
        while True:
            try:
                line = response.readline(MAX_LINE_BYTES)
            except (OSError, http.client.HTTPException) as error:
                raise _translated(error, "/api/pull", self._timeouts.pull_s) from None
            if not line:
                return
            try:
                value = json.loads(line)
            except ValueError:
                raise OllamaError("/api/pull sent a line that is not JSON") from None
            if isinstance(value, dict):
                yield value


def as_resident(entry: Mapping[str, object]) -> Resident:
    return Resident(
        size=_count(entry.get("size")),
        size_vram=_count(entry.get("size_vram")),
        context_length=_count(entry.get("context_length")),
        expires_at=str(entry.get("expires_at", "")),
    )


def _models(answer: Mapping[str, object]) -> list[Mapping[str, object]]:
    models = answer.get("models")
    return [entry for entry in models if isinstance(entry, dict)] if isinstance(models, list) else []


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _reason(response: http.client.HTTPResponse) -> str:
    text = response.read(MAX_LINE_BYTES).decode("utf-8", "replace").strip()
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if isinstance(value, dict) and value.get("error"):
        text = str(value["error"])
    return f"{text or response.reason} (HTTP {response.status})"


def _translated(error: Exception, path: str, timeout_s: float) -> OllamaError:
    if isinstance(error, TimeoutError):
        return NoAnswer(f"{path} gives no answer in {timeout_s:g} s")
    if isinstance(error, ConnectionRefusedError):
        return NotRunning("connection refused")
    if isinstance(error, (ConnectionError, http.client.RemoteDisconnected, http.client.IncompleteRead)):
        return NotRunning("the connection broke")
    if isinstance(error, OSError):
        return NotRunning(error.strerror or str(error))
    return OllamaError(f"{path} answers with something that is not HTTP: {type(error).__name__}")
