"""The HTTP side: routes, who may ask, how answers are written, and noticing that a client has gone.

Sources: server/routes.go (GenerateRoutes, allowedHostsMiddleware, streamResponse, Serve).
"""

from __future__ import annotations

import contextlib
import http.server
import ipaddress
import re
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from . import log
from .anthropic import Anthropic
from .api import Answer, Api, ApiError, Reply, Stream
from .devices import Discovery, SimulatedDriver, VramLedger
from .dialects import ANTHROPIC, OLLAMA, OPENAI, RESPONSES, Dialect
from .environment import Environment
from .goformat import go_json, human_bytes2
from .openai import OpenAi
from .responses import Responses
from .runner import ClientGoneError
from .scheduler import Scheduler
from .store import Store

GIB = 2**30
_CORS_METHODS = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
_CORS_HEADERS = (
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,X-Stainless-Async,"
    "X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,X-Stainless-Os,"
    "X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,X-Stainless-Runtime,"
    "X-Stainless-Runtime-Version,X-Stainless-Timeout"
)
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
_MAX_BODY = 512 * 2**20


@dataclass(frozen=True)
class Route:
    """One endpoint, and in which form it writes errors and streams."""

    methods: tuple[str, ...]
    path: re.Pattern[str]
    answer: Callable[[_Handler, tuple[str, ...]], Answer | str]
    dialect: Dialect = OLLAMA


class OllamaServer:
    """A simulated Ollama server, listening from the moment it is made."""

    def __init__(self, environment: Environment, driver: SimulatedDriver, version: str) -> None:
        self.environment = environment
        self.version = version
        self._discovery = Discovery(driver, environment.visible_devices, version, environment.system_memory)
        self._scheduler = Scheduler(environment, self._discovery, VramLedger(driver), version)
        self._store = Store(environment.models)
        self._api = Api(environment, self._store, self._scheduler, version)
        self.routes = _routes(self._api)
        self._http = _HttpServer((environment.host, environment.port), self)
        self.port: int = self._http.server_address[1]
        self.url = f"http://{environment.connect_host}:{self.port}"
        self._thread: threading.Thread | None = None
        self.closing = threading.Event()
        self._count = threading.Lock()
        self.active_requests = 0
        """Requests that are being answered at this moment."""

    @property
    def pending_requests(self) -> int:
        """Those of the active requests that wait for a model to be loaded."""
        return self._scheduler.pending

    @property
    def listens_on_loopback(self) -> bool:
        return ipaddress.ip_address(str(self._http.server_address[0])).is_loopback

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        with self._count:
            self.active_requests += 1
        try:
            yield
        finally:
            with self._count:
                self.active_requests -= 1

    def prepare(self) -> None:
        """What the real server does and logs before it answers: settings, prune, discovery, default context."""
        environment = self.environment
        settings = " ".join(f"{key}:{value}" for key, value in sorted(environment.values.items()))
        log.info("server config", env=f"map[{settings}]")
        log.info(f"Ollama cloud disabled: {str(environment.no_cloud).lower()}")
        if environment.no_prune:
            self._store.blobs_dir  # noqa: B018  (makes the directory)
        else:
            self._store.prune()
        host = f"[{environment.host}]" if ":" in environment.host else environment.host
        shown = "[::]" if environment.host == "0.0.0.0" else host
        log.info(f"Listening on {shown}:{self.port} (version {self.version})")
        self._discovery.bootstrap()
        total = sum(device.total - environment.gpu_overhead for device in self._discovery.devices)
        default = 262144 if total >= 47 * GIB else 32768 if total >= 23 * GIB else 4096
        log.info("vram-based default context", total_vram=human_bytes2(total), default_num_ctx=default)
        if environment.context_length == 0:
            self._api.default_context = default

    def start(self) -> OllamaServer:
        """Serve in a thread of this process."""
        self.prepare()
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""

        def stop(signum: int, frame: object) -> None:
            threading.Thread(target=self._http.shutdown, daemon=True).start()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        self.prepare()
        self._http.serve_forever(0.05)
        self.close()

    def close(self) -> None:
        self.closing.set()
        if self._thread is not None:
            self._http.shutdown()
            self._thread.join()
        self._http.server_close()
        self._scheduler.close()


class _HttpServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def __init__(self, address: tuple[str, int], ollama: OllamaServer) -> None:
        self.ollama = ollama
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # The base class looks its own name up in DNS, which can take seconds.
        socket.socket.setsockopt(self.socket, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, (ConnectionError, TimeoutError)):
            log.error("panic while answering", client=client_address, error=repr(error))


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _HttpServer
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self._endings: list[Callable[[], None]] = []

    # The caller, as the API sees it

    def check(self) -> None:
        """Raise ClientGoneError if the client has closed its side, or the server stops."""
        if self.server.ollama.closing.is_set():
            raise ClientGoneError
        try:
            watch = select.poll()
            watch.register(self.connection, select.POLLIN)
            gone = bool(watch.poll(0)) and self.connection.recv(1, socket.MSG_PEEK) == b""
        except (OSError, ValueError):  # reset, or closed on our side
            gone = True
        if gone:
            raise ClientGoneError

    def on_end(self, action: Callable[[], None]) -> None:
        self._endings.append(action)

    # One method of the base class for each HTTP method

    def do_GET(self) -> None:
        self._handle()

    do_HEAD = do_POST = do_DELETE = do_PUT = do_PATCH = do_OPTIONS = do_GET  # noqa: N815

    def _handle(self) -> None:
        started = time.monotonic()
        self._status = 0
        try:
            with self.server.ollama.counted():
                self._dispatch()
        except (ClientGoneError, ConnectionError):
            self._status = self._status or 499
            self.close_connection = True
        finally:
            while self._endings:
                self._endings.pop()()
            moment = time.strftime("%Y/%m/%d - %H:%M:%S")
            took = time.monotonic() - started
            what = f'{self.client_address[0]} | {self.command} "{self.path}"'
            log.request(f"[GIN] {moment} | {self._status} | {took:.6f}s | {what}")

    def _dispatch(self) -> None:
        body = self._read_body()
        path = unquote(urlsplit(self.path).path)
        if not self._origin_allowed() or not self._host_allowed():
            return
        matching = [(route, found) for route in self.server.ollama.routes if (found := route.path.fullmatch(path))]
        if not matching:
            self._redirect_or_404(path)
            return
        for route, found in matching:
            if self.command in route.methods:
                self._body = body
                self._answer(route, found.groups())
                return
        allowed = ", ".join(method for route, _ in matching for method in route.methods)
        self._send(405, b"405 method not allowed", "text/plain", [("Allow", allowed)])

    def body(self) -> bytes:
        return self._body

    def _answer(self, route: Route, groups: tuple[str, ...]) -> None:
        try:
            answer = route.answer(self, groups)
            if isinstance(answer, str):
                self._send(200, answer.encode(), "text/plain; charset=utf-8")
            elif isinstance(answer, Reply):
                data = b"" if answer.body is None else go_json(answer.body).encode()
                self._send(200, data, answer.content_type if data else None)
            else:
                self._stream(answer, route.dialect)
        except ApiError as error:
            self._error(error, route.dialect)

    def _stream(self, answer: Stream, dialect: Dialect) -> None:
        """Write objects as they come. Like the real server, send no headers before the first of them."""
        items = answer.items
        # Closed at once when the client has gone, so that the runner's slot is free for the next.
        with contextlib.closing(answer.items):
            first = next(items, None)
            chunked = self.request_version == "HTTP/1.1"
            self._status = 200
            self.send_response(200)
            self.send_header("Content-Type", dialect.stream_type)
            self._cors()
            if chunked:
                self.send_header("Transfer-Encoding", "chunked")
            else:
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            try:
                while first is not None:
                    self._piece(dialect.frame(first), chunked)
                    first = next(items, None)
                self._piece(dialect.end, chunked)
            except ApiError as error:
                self._piece(dialect.frame({"error": str(error)}), chunked)
            if chunked:
                self.wfile.write(b"0\r\n\r\n")

    def _piece(self, data: bytes, chunked: bool) -> None:
        if data:  # an empty chunk would end the answer
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) if chunked else data)

    def _error(self, error: ApiError, dialect: Dialect) -> None:
        body = dialect.error(error.status, str(error))
        self._send(error.status, go_json(body).encode(), dialect.error_type)

    def _send(
        self, status: int, data: bytes, content_type: str | None, headers: list[tuple[str, str]] | None = None
    ) -> None:
        self._status = status
        self.send_response(status, "Client Closed Request" if status == 499 else None)
        for key, value in headers or ():
            self.send_header(key, value)
        if content_type:
            self.send_header("Content-Type", content_type)
        self._cors()
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD" and status != 204:
            self.wfile.write(data)

    def _redirect_or_404(self, path: str) -> None:
        other = path[:-1] if path.endswith("/") else path + "/"
        if path != "/" and any(
            route.path.fullmatch(other) and self.command in route.methods for route in self.server.ollama.routes
        ):
            self._send(301 if self.command == "GET" else 307, b"", None, [("Location", other)])
        else:
            self._send(404, b"404 page not found", "text/plain")

    def _read_body(self) -> bytes:
        if (self.headers.get("Transfer-Encoding") or "").lower() == "chunked":
            parts: list[bytes] = []
            while True:
                size = int(self.rfile.readline(1024).split(b";")[0] or b"0", 16)
                if size == 0:
                    while self.rfile.readline(65536) not in (b"\r\n", b"\n", b""):
                        pass  # trailers
                    return b"".join(parts)
                parts.append(self.rfile.read(size))
                self.rfile.readline(16)
        length = int(self.headers.get("Content-Length") or 0)
        return self.rfile.read(min(length, _MAX_BODY)) if length > 0 else b""

    # Who may ask

    def _origin_allowed(self) -> bool:
        """gin-contrib/cors: browsers on other sites get 403, preflight requests their answer."""
        origin = self.headers.get("Origin")
        host = self.headers.get("Host", "")
        if not origin or origin in (f"http://{host}", f"https://{host}"):
            return True
        if not self.server.ollama.environment.origin_allowed(origin):
            self._send(403, b"", None)
            return False
        if self.command == "OPTIONS":
            self._send(
                204,
                b"",
                None,
                [
                    ("Access-Control-Allow-Methods", _CORS_METHODS),
                    ("Access-Control-Allow-Headers", _CORS_HEADERS),
                    ("Access-Control-Max-Age", "43200"),
                ],
            )
            return False
        return True

    def _cors(self) -> None:
        origin = self.headers.get("Origin")
        environment = self.server.ollama.environment
        if origin and environment.origin_allowed(origin):
            self.send_header("Access-Control-Allow-Origin", "*" if environment.origin_allowed("*") else origin)

    def _host_allowed(self) -> bool:
        """A server on loopback answers only to names that mean this machine (against DNS rebinding)."""
        if not self.server.ollama.listens_on_loopback:
            return True
        host = _without_port(self.headers.get("Host", "")).lower()
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            pass
        else:
            if address.is_loopback or address.is_private or address.is_unspecified:
                return True
        if host in ("", "localhost", socket.gethostname().lower()) or host.endswith(_LOCAL_SUFFIXES):
            if self.command == "OPTIONS":
                self._send(204, b"", None)
                return False
            return True
        self._send(403, b"", None)
        return False

    def version_string(self) -> str:
        return ""

    def send_response(self, code: int, message: str | None = None) -> None:
        self.send_response_only(code, message)
        self.send_header("Date", self.date_time_string())

    def log_message(self, format: str, *args: object) -> None:
        pass


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _routes(api: Api) -> tuple[Route, ...]:
    openai, responses, anthropic = OpenAi(api), Responses(api), Anthropic(api)

    def get(
        path: str, answer: Callable[[_Handler], Answer | str], dialect: Dialect = OLLAMA, *, head: bool = False
    ) -> Route:
        methods = ("GET", "HEAD") if head else ("GET",)
        return Route(methods, re.compile(path), lambda handler, groups: answer(handler), dialect)

    def post(
        path: str, answer: Callable[[_Handler, bytes], Answer], dialect: Dialect = OLLAMA, *, method: str = "POST"
    ) -> Route:
        return Route((method,), re.compile(path), lambda handler, groups: answer(handler, handler.body()), dialect)

    return (
        get("/", lambda handler: "Ollama is running", head=True),
        get("/api/version", lambda handler: Reply({"version": api.version}), head=True),
        get("/api/status", api.status),
        get("/api/tags", api.tags, head=True),
        get("/api/ps", api.ps),
        post("/api/show", api.show),
        post("/api/generate", api.generate),
        post("/api/chat", api.chat),
        post("/api/embed", api.embed),
        post("/api/embeddings", api.embeddings),
        post("/api/pull", api.pull),
        post("/api/create", api.create),
        post("/api/copy", api.copy),
        post("/api/delete", api.delete, method="DELETE"),
        get("/v1/models", openai.models, OPENAI),
        Route(
            ("GET",),
            re.compile("/v1/models/([^/]+)"),
            lambda handler, groups: openai.model(handler, groups[0]),
            OPENAI,
        ),
        post("/v1/chat/completions", openai.chat, OPENAI),
        post("/v1/completions", openai.completions, OPENAI),
        post("/v1/embeddings", openai.embeddings, OPENAI),
        post("/v1/responses", responses.create, RESPONSES),
        post("/v1/messages", anthropic.messages, ANTHROPIC),
    )
