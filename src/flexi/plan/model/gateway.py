"""The plan's part for the gateway."""

from __future__ import annotations

from typing import Literal

from flexi.catalog.consumers import ANONYMOUS_CLASS, DEFAULT_MAX_ANSWER_TOKENS, Priority
from flexi.catalog.frozen import Frozen as _Frozen
from flexi.plan.model.chat import ChatEdgePlan
from flexi.plan.model.haproxy import HaproxyPlan
from flexi.site.consumers import Consumer

RESERVED_PRIORITY = 2
"""A consumer with at most so many interactive requests at once may wait where the queue is full already."""


class PeerPlan(_Frozen):
    """A gateway as the others know it."""

    name: str
    address: str


class FailoverPlan(_Frozen):
    """How a gateway shares an address with another one (VRRP, by keepalived)."""

    address: str
    """The floating one."""
    own_address: str
    peer_address: str
    priority: int
    """The higher one takes the address where nobody has it yet."""
    router_id: int


class GatewayHostPlan(_Frozen):
    """What a host needs to be a gateway; what all gateways have in common stands in GatewayPlan."""

    packages: tuple[str, ...]
    peers: tuple[PeerPlan, ...]
    """All gateways, this one among them: they tell each other what consumers have used. One that is alone tells itself,
    over a reload."""
    peers_port: int
    failover: FailoverPlan | None = None
    """None where there is one gateway only."""


class Backend(_Frozen):
    """One model at the gateway: the instances that hold it."""

    name: str
    """HAProxy section name: `model_llama3_8b`."""
    model: str
    names: tuple[str, ...]
    """Lower-case spellings that route here: the model, and `x` for `x:latest`."""
    aliases: tuple[str, ...] = ()
    """The same of its aliases, from the site file."""
    context: int
    """Tokens for each request; the smallest where groups differ."""
    embedding: bool
    servers: tuple[BackendServer, ...]

    @property
    def show_name(self) -> str:
        """The section for what needs no place at an instance."""
        return f"show_{self.name}"


class BackendServer(_Frozen):
    name: str
    """HAProxy server name: the group."""
    group: str
    address: str
    port: int
    agent_port: int
    max_connections: int
    """What the instance runs at once for one model (OLLAMA_NUM_PARALLEL); the rest queues."""


class ClassPlan(_Frozen):
    """What each consumer of a class may do."""

    name: str
    models: tuple[str, ...] | None
    """As the site file spells them; None means all."""
    at_once: int
    per_minute: int | None
    """Requests in a minute of the clock (UTC), `per_hour` and `per_day` likewise; None means no bound."""
    per_hour: int | None
    per_day: int | None
    priority: Priority
    networks: tuple[str, ...]
    """Empty means everywhere."""
    options: Literal["any", "fixed"] | tuple[str, ...]
    """Which of `GUARDED_OPTIONS` a request may set."""
    max_answer_tokens: int | None = None
    """Most tokens of an answer; None means the gateway's."""

    @property
    def limits(self) -> tuple[tuple[str, int], ...]:
        """Name and figure of each bound that it has."""
        names = ("at_once", "per_minute", "per_hour", "per_day")
        return tuple((name, value) for name in names if (value := getattr(self, name)) is not None)

    @property
    def base(self) -> int:
        """Where its requests stand in a queue before their number at once is added; HAProxy serves the lowest first
        (set-priority-class takes -2047 to 2047)."""
        return {"interactive": 0, "batch": 1000}[self.priority]


class AcmePlan(_Frozen):
    """An authority that issues and renews the gateway's certificate by itself (RFC 8555)."""

    email: str
    directory: str
    account: str | None
    """External account binding: a file on the admin's machine, absolute. A secret; read when it is brought."""
    responder_port: int
    """Loopback port where certbot answers the authority's question; HAProxy leads it there from port 80."""


class TlsPlan(_Frozen):
    """HTTPS at the gateway."""

    source: Literal["files", "acme", "self-signed"]
    names: tuple[str, ...]
    """What a certificate made here is for, as OpenSSL writes it: `DNS:flexi.example.edu`, `IP:192.0.2.1`."""
    domains: tuple[str, ...]
    """What one from anywhere else must be for: the gateway's public name, and the chat's."""
    certificate: str | None = None
    key: str | None = None
    """With `certificate`, of source files: on the admin's machine, absolute. Read when it is brought, so no plan that
    is printed holds it."""
    acme: AcmePlan | None = None
    redirect_port: int | None = None
    """Where plain HTTP is led to HTTPS, and an ACME authority asks."""
    plain_port: int | None = None
    """Where the API is served over plain HTTP as well."""
    hsts_s: int = 0
    """`max-age` of Strict-Transport-Security (RFC 6797); 0 sends no such header."""


class LedgerPlan(_Frozen):
    """What the gateway remembers of its requests, and for how long."""

    port: int
    """Loopback port of its figures."""
    socket: str
    """Unix socket that takes the records, one datagram each."""
    retention_days: int
    """How long a line of the access log stays; with 0 none is written."""
    usage_days: int
    """How long the hourly sums by consumer and model stay."""


class GatewayPlan(_Frozen):
    hosts: tuple[str, ...]
    """The first one, and its standby where there is one. They are changed in the opposite order."""
    address: str
    """The one that users reach: the floating one of two gateways."""
    name: str
    """The public host name, for URLs that people are shown."""
    port: int
    catalogue_port: int
    """Loopback port of flexi-agent's catalogue, which answers the lists (/api/tags, /api/ps, /v1/models)."""
    metrics_port: int
    """Loopback port of HAProxy's own figures, in Prometheus's text format at /metrics."""
    ledger: LedgerPlan
    max_connections: int
    """Clients that are connected at once; more wait in the kernel until one leaves (HAProxy's `maxconn`)."""
    timeout_s: int
    queue_timeout_s: int
    queue_length: int
    """Requests that wait for one model; more are refused."""
    body_limit_bytes: int
    max_answer_tokens: int = DEFAULT_MAX_ANSWER_TOKENS
    """Most tokens of an answer, where its consumer's class has no bound of its own."""
    guard_sockets: tuple[str, ...]
    """Unix sockets between HAProxy and the guard's workers, one for each."""
    inner_socket: str
    """Unix socket on which HAProxy takes what the guard lets through."""
    anonymous_paths: tuple[str, ...]
    """Paths that need no key."""
    cors: tuple[str, ...] = ()
    """Origins whose scripts may use the API."""
    backends: tuple[Backend, ...]
    consumers: tuple[Consumer, ...]
    classes: tuple[ClassPlan, ...] = ()
    """Those of the site file, and those that are always there: `DEFAULT_CLASS`, `ANONYMOUS_CLASS`, and that of
    `HEALTH_CONSUMER`."""
    tls: TlsPlan | None = None
    """None where the gateway speaks plain HTTP."""
    chat: ChatEdgePlan | None = None
    haproxy: HaproxyPlan

    @property
    def host(self) -> str:
        """The first one."""
        return self.hosts[0]

    @property
    def anonymous_class(self) -> str:
        return ANONYMOUS_CLASS

    @property
    def body_limit_mib(self) -> int:
        return self.body_limit_bytes // 2**20

    @property
    def process_connections(self) -> int:
        """Of HAProxy as a whole: a client's, the guard's for the same request, and some for its figures."""
        return 2 * self.max_connections + (self.chat.connections if self.chat else 0) + 200

    @property
    def guard_timeout_s(self) -> int:
        """How long the guard may say nothing: every attempt may wait in the queue and for its first token."""
        return (self.timeout_s + self.queue_timeout_s) * 2

    @property
    def queue_bound(self) -> int:
        """The queue's length for a consumer that has little under way; see RESERVED_PRIORITY."""
        return self.queue_length + max(8, self.queue_length // 4)

    @property
    def reserved_priority(self) -> int:
        return RESERVED_PRIORITY

    @property
    def scheme(self) -> str:
        return "https" if self.tls else "http"

    @property
    def loopback_url(self) -> str:
        """The users' port as the gateway itself reaches it; a certificate is none for this address."""
        return f"{self.scheme}://127.0.0.1:{self.port}/"

    @property
    def url(self) -> str:
        """Over TLS by name, which is what the certificate is for; without by address, which works without DNS too."""
        if self.tls:
            return f"https://{self.name}" + ("" if self.port == 443 else f":{self.port}")
        return f"http://{self.address}" + ("" if self.port == 80 else f":{self.port}")
