"""`flexi_host catalogue`: the lists of all instances, as one Ollama would answer them, on the loopback interface."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from flexi_host.catalogue import lists
from flexi_host.catalogue.config import CatalogueConfig
from flexi_host.catalogue.lists import Collector, Snapshot
from flexi_host.common import systemd
from flexi_host.common.names import full_name
from flexi_host.common.ollama import Ollama, Timeouts
from flexi_host.guard import dialect
from flexi_host.guard.dialect import Refusal, shown

IDLE_S = 75.0
"""A kept connection that is silent for longer is closed."""
TIMEOUTS = Timeouts(answer_s=3.0, store_s=5.0)
FIRST_ROUND_S = 12.0
BEAT_S = 5.0
JSON = "application/json"
GIN_JSON = "application/json; charset=utf-8"
MODELS_PREFIX = "/v1/models/"


class Reply:
    """Status, content type and body of an answer."""

    def __init__(self, status: int, kind: str, body: str) -> None:
        self.status = status
        self.kind = kind
        self.body = body.encode()


def reply(path: str, snapshots: Sequence[Snapshot], models: Sequence[str], aliases: Mapping[str, str]) -> Reply:
    """The answer to GET `path`."""
    if path == "/api/tags":
        return _gin(200, {"models": lists.merged_tags(snapshots, models)})
    if path == "/api/ps":
        return _gin(200, {"models": lists.merged_ps(snapshots, models)})
    if path == "/api/version":
        version = lists.lowest_version(snapshots)
        if version is None:
            return _refused(path, 503, "model_unavailable", "no instance has answered yet; try again in 10 s")
        return _gin(200, {"version": version})
    if path == "/v1/models":
        entries = lists.merged_tags(snapshots, models)
        return _openai(200, {"object": "list", "data": [lists.openai_model(entry) for entry in entries]})
    if path.startswith(MODELS_PREFIX) and path != MODELS_PREFIX:
        name = unquote(path[len(MODELS_PREFIX) :])
        wanted = full_name(aliases.get(full_name(name), name))
        for entry in lists.merged_tags(snapshots, models):
            if full_name(str(entry["name"])) == wanted:
                return _openai(200, lists.openai_model(entry, name))
        message = f"model '{shown(name)}' not found; GET /v1/models lists what there is"
        return _refused(path, 404, "model_not_found", message)
    return _refused(path, 404, "not_found", "there is nothing at this path; GET /v1/models lists the models")


def _refused(path: str, status: int, code: str, message: str) -> Reply:
    error = dialect.error(path, Refusal(status, code, message))
    return Reply(status, JSON, json.dumps(error, separators=(",", ":"), ensure_ascii=False) + "\n")


def _gin(status: int, value: object) -> Reply:
    return Reply(status, GIN_JSON, json.dumps(value, separators=(",", ":"), ensure_ascii=False))


def _openai(status: int, value: object) -> Reply:
    return Reply(status, JSON, json.dumps(value, separators=(",", ":"), ensure_ascii=False) + "\n")


class Server(ThreadingHTTPServer):
    """Answers from the collector's snapshots; no request waits for an instance."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], collector: Collector, models: Sequence[str], aliases: Mapping[str, str]
    ) -> None:
        super().__init__(address, _Handler)
        self.collector = collector
        self.models = models
        self.aliases = aliases

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no event; anything else is a mistake of ours, and shown."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "flexi-catalogue"
    sys_version = ""
    timeout = IDLE_S
    server: Server

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _refuse(self) -> None:
        # The body of such a request is not read, so the connection cannot serve another one.
        self.close_connection = True
        self._send(_refused(self.path, 405, "method_not_allowed", "this path takes GET"), with_body=True)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse  # noqa: N815

    def _answer(self, with_body: bool) -> None:
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.close_connection = True
        path = urlsplit(self.path).path
        server = self.server
        self._send(reply(path, server.collector.snapshots(), server.models, server.aliases), with_body)

    def _send(self, answer: Reply, with_body: bool) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if with_body:
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None:
        """The gateway logs requests; a second log of them serves nobody."""


def run(config: CatalogueConfig) -> None:
    """Serve until SIGTERM or SIGINT; OSError where the port cannot be taken."""
    collector = Collector([Ollama(instance.url, TIMEOUTS) for instance in config.instances])
    server = Server(("127.0.0.1", config.port), collector, config.models, config.aliases)
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    collector.start()
    # The first answers shall not be empty lists only because nobody was asked yet.
    collector.wait_for_all(FIRST_ROUND_S)
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    systemd.notify("READY=1")
    while not ending.wait(min(BEAT_S, (systemd.watchdog_s() or 2 * BEAT_S) / 2)):
        if not collector.alive():
            raise RuntimeError("a thread has died; see its traceback above")
        systemd.notify("WATCHDOG=1")
    systemd.notify("STOPPING=1")
