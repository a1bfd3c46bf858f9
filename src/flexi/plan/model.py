"""The plan: everything that follows from a site file, ready to be carried out.

Every reader of flexi (roles, health checks, bench, documentation, `flexi plan`) reads these classes and
nothing else, so that none of them can disagree. They are plain frozen data: building them does no I/O.

Units: bytes are `int` bytes, VRAM of a card is `int` bytes, durations are seconds, rates are tokens per second.
"""

from __future__ import annotations

from typing import Literal

from flexi.agent.smi import Expected

from .chat_model import ChatEdgePlan, ChatHostPlan, ChatPlan
from .frozen import Frozen as _Frozen
from .moodle_model import MoodlePlan
from .ssh_model import SshPlan as SshPlan

PlatformName = Literal["ubuntu-22.04", "ubuntu-24.04", "debian-12"]
Priority = Literal["interactive", "batch"]
DEFAULT_CLASS = "default"
"""The class of keys that name no other."""
DEFAULT_MAX_ANSWER_TOKENS = 16_384
"""Some 12,000 words or 18 minutes of a model that writes 15 tokens a second: more than an answer that people read, room
for a model that thinks first, and an end for one that repeats itself."""
ANONYMOUS_CLASS = "anonymous"
"""The class of requests without a key, on paths that need none."""
HEALTH_CONSUMER = "flexi-health"
"""Whose key the gateway makes for its own health checks. Its class has the same name and no bounds."""
GUARDED_OPTIONS = (
    "keep_alive",
    "num_ctx",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "use_mmap",
    "num_thread",
    "draft_num_predict",
    "shift",
)
"""What in a request loads a model anew or unloads it, for everyone (Ollama 0.24.0, server/sched.go needsReload; and
keep_alive, which sets how long the model stays)."""
RESERVED_PRIORITY = 2
"""A consumer with at most so many interactive requests at once may wait where the queue is full already."""
RoleName = Literal["base", "firewall", "driver", "cuda", "ollama", "agent", "gateway", "chat"]


class ProxyPlan(_Frozen):
    """The site's HTTP proxy, and what is reached without it."""

    https: str | None
    http: str | None
    direct: tuple[str, ...]
    """Hosts, domains and networks: loopback, the site's hosts, its mirrors, and what the site file adds."""

    @property
    def apt(self) -> tuple[tuple[str, str], ...]:
        """Names and values of apt's settings (apt-transport-http(1)); of `direct` apt knows single hosts only."""
        hosts = [name for name in self.direct if not set("/:") & set(name)]
        found = [("Acquire::http::Proxy", self.http)] if self.http else []
        # Left out, apt would take http's for https as well.
        found.append(("Acquire::https::Proxy", self.https or "DIRECT"))
        found += [(f"Acquire::{scheme}::Proxy::{host}", "DIRECT") for scheme in ("http", "https") for host in hosts]
        return tuple(found)

    @property
    def environment(self) -> tuple[tuple[str, str], ...]:
        """For curl and apt; curl reads http_proxy in small letters only (curl(1))."""
        named = (("http_proxy", self.http), ("https_proxy", self.https), ("no_proxy", ",".join(self.direct)))
        return tuple((name, value) for name, value in named if value)


class PinPlan(_Frozen):
    """One stanza of an apt preferences file (`man apt_preferences`)."""

    packages: str
    pin: str
    priority: int
    reason: str


class AptSourcePlan(_Frozen):
    """An apt repository of the site, as a file of its own (deb822, `man sources.list`)."""

    file: str
    """Path of that file on the host."""
    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    keyring: str
    """Path on the host of the key that the repository must be signed with."""
    key: str | None = None
    """The key's file on the admin's machine; None where the host has it or fetches it."""
    key_url: str | None = None
    key_fingerprint: str | None = None
    snapshot: bool = False
    """Of an earlier day: its index may have expired."""


class PackageSet(_Frozen):
    """What a host's roles ask apt for, and the pins that hold meanwhile: what a bundle's repository is made for."""

    platform: PlatformName
    packages: tuple[str, ...]
    pins: tuple[PinPlan, ...]


class BundlePlan(_Frozen):
    """The prepared folder from which a host gets everything, without the internet."""

    folder: str
    """On the admin's machine, absolute."""
    home: str
    """On the host."""
    apt_uri: str
    """On the host: the base of its apt repository."""
    apt_suite: str
    """The index of what this host needs; a name that changes with its packages and pins."""
    apt_config: str
    """On the host: with this file in APT_CONFIG, apt knows the repository above and no other."""
    apt_lists: str
    """On the host: apt's lists of that repository, beside the host's own."""


class BasePlan(_Frozen):
    hostname: str
    hosts_entries: tuple[tuple[str, str], ...]
    """(address, name) of every host of the site, so that names work without DNS."""
    packages: tuple[str, ...]
    proxy: ProxyPlan | None = None
    ntp_servers: tuple[str, ...] = ()
    unattended_blacklist: tuple[str, ...] = ()
    """Regular expressions for `Unattended-Upgrade::Package-Blacklist` (matched at the start of the name)."""
    apt_sources: tuple[AptSourcePlan, ...] = ()
    apt_tools: tuple[str, ...] = ()
    """Packages that must be there before a repository's key can be fetched and looked at."""
    apt_sources_only: str | None = None
    """The directory whose apt sources are the only ones in use; None where the host's own are used too."""
    apt_files: tuple[str, ...] = ()
    """Every apt source that flexi writes on this host; what it wrote earlier and is not here goes."""


class FirewallRule(_Frozen):
    """Accept TCP to `port` from `sources` (addresses or networks; empty means everyone)."""

    port: int
    sources: tuple[str, ...]
    purpose: str


class FirewallPlan(_Frozen):
    rules: tuple[FirewallRule, ...]
    vrrp_from: tuple[str, ...] = ()
    """Addresses that VRRP (protocol 112, RFC 5798) is taken from."""


class DriverPlan(_Frozen):
    branch: str
    """As the site file names it, e.g. `535-server`."""
    major: int
    packages: tuple[str, ...]
    holds: tuple[str, ...]
    """Package names to `apt-mark hold` once they are installed."""
    pins: tuple[PinPlan, ...]
    version_package: str
    """The package whose version is the driver's, e.g. `nvidia-utils-535-server`."""
    kernel: str
    """The kernel's flavour, e.g. `generic`: the releases of its kernels (`uname -r`) end with it, and HWE's with the
    flavour that they are of (`generic`)."""
    module_package: str
    """`{release}` in it stands for a kernel's release: the package that brings the driver's modules for that kernel,
    prebuilt (Ubuntu) or by way of its headers (Debian, DKMS). Installed for each kernel before it is booted."""
    kernel_packages: tuple[str, ...]
    """Follow the newest kernel of the flavour: a kernel update upgrades those of them that are installed, together."""
    wanted_version: str | None
    """The one version of `version_package` that will do, as apt writes it; None where any of the branch will."""


class CudaPlan(_Frozen):
    """The CUDA toolkit, from NVIDIA's repository and without that repository's driver."""

    version: str
    packages: tuple[str, ...]
    repository: str | None
    """Base URL of the flat repository, without a trailing slash; None where the packages come from a bundle."""
    key_url: str
    key_fingerprint: str | None
    """Of the signing key; None only behind a mirror whose key the site file does not pin."""
    sources_file: str
    """Path of the repository's apt source on the host."""
    pins: tuple[PinPlan, ...]


class ModelOnInstance(_Frozen):
    """A model that an instance preloads and keeps."""

    name: str
    """Full name with tag, as clients say it: `llama3:8b`."""
    source: str
    """What `/api/pull` is asked for: equal to `name`, or `mirror:port/library/llama3:8b` behind a mirror."""
    insecure: bool
    """True where the source is a plain-HTTP mirror."""
    weights_bytes: int
    kv_cache_bytes: int
    """For `parallel` requests at `context` tokens each, f16 unless the group says otherwise."""
    context: int
    """Tokens per request: the group's context, or the model's own limit where that is smaller."""
    embedding: bool
    """Embedding-only models are loaded through /api/embed (generate refuses them)."""
    tokens_per_second: float | None
    """Expected single-stream rate where one is known (source in the model catalogue), else None."""
    gpu_count: int = 1
    """How many of the group's GPUs Ollama will split it over."""
    slots: int = 1
    """Requests that it answers at once: the group's `parallel`, or 1 where Ollama allows no more."""


class InstancePlan(_Frozen):
    """One Ollama server: `ollama@<group>.service`."""

    group: str
    host: str
    port: int
    gpus: tuple[int, ...] | tuple[str, ...]
    """Indices in PCI bus order, or UUIDs (`GPU-…`), as the site file says; resolved to UUIDs on the host."""
    vram_bytes: int
    """Of all the group's GPUs together."""
    environment: tuple[tuple[str, str], ...]
    """Everything in the environment file but CUDA_VISIBLE_DEVICES, which needs the host's UUIDs."""
    home: str
    store: str
    parallel: int
    models: tuple[ModelOnInstance, ...]
    """In the order in which they are downloaded and loaded: that of the site file."""
    gpu_used_bytes: tuple[int, ...] = ()
    """Computed use of each of its GPUs with all models loaded: weights, KV cache, compute graph and CUDA context."""

    @property
    def unit(self) -> str:
        return f"ollama@{self.group}.service"

    @property
    def environment_file(self) -> str:
        return f"/etc/ollama/{self.group}.env"


class OllamaPlan(_Frozen):
    version: str
    archive_url: str
    checksums_url: str
    """The release's own `sha256sum.txt`; used when the site file pins no digest."""
    sha256: str | None
    packages: tuple[str, ...]
    instances: tuple[InstancePlan, ...]


class AgentPlan(_Frozen):
    check_port: int
    """Where HAProxy's agent-check asks `<group> <model>`."""
    interval_s: int
    """How often every instance is looked at and keep-alive is re-asserted where it was lost."""


class Window(_Frozen):
    """A weekly time in which hosts may be rebooted. Days are ISO weekdays (1 is Monday), times minutes of the host's
    own clock; one that ends before it starts goes on after midnight."""

    text: str
    """As the site file says it."""
    days: tuple[int, ...]
    start_minute: int
    end_minute: int


class MaintenancePlan(_Frozen):
    """How a change that interrupts a host's service is made."""

    reboot_windows: tuple[Window, ...] = ()
    """When a reboot needs no permission."""
    drain_timeout_s: int = 300
    """How long answers that are being written may take to end before their instance is stopped."""


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


class HostPlan(_Frozen):
    name: str
    platform: PlatformName
    ssh: SshPlan
    roles: tuple[RoleName, ...]
    """In the order in which they run."""
    gpu_model: str | None
    gpu_count: int
    gpu_memory_mib: int | None = None
    """Memory of one card that the plan counts with."""
    gpu_memory_said: bool = False
    """The site file states it, so that less than a card has is on purpose."""
    gpu_place: str = ""
    """Name of the site file and the line that says which cards these are; empty without cards."""
    base: BasePlan
    firewall: FirewallPlan
    driver: DriverPlan | None
    cuda: CudaPlan | None
    ollama: OllamaPlan | None
    agent: AgentPlan | None
    gateway: GatewayHostPlan | None = None
    chat: ChatHostPlan | None = None
    bundle: BundlePlan | None = None
    """None where the host downloads what it needs."""
    environment: tuple[tuple[str, str], ...] = ()
    """Variables that every command of a deploy finds on this host."""
    maintenance: MaintenancePlan = MaintenancePlan()

    @property
    def expected_gpus(self) -> Expected | None:
        """What each card of this host has to be; None without cards."""
        if self.gpu_model is None:
            return None
        return Expected(self.gpu_model, self.gpu_memory_mib, self.gpu_memory_said)


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


class Grant(_Frozen):
    """A key that is good until `expires`, in seconds since 1970; None where it does not end."""

    sha256: str
    """Hex digest of the key; the key itself is random and is never stored."""
    expires: int | None = None


class Consumer(_Frozen):
    """Who uses the API: a name, what it may do, and what tells its requests."""

    name: str
    class_name: str
    grants: tuple[Grant, ...]
    """Its key, and for a while after a rotation the one before."""


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


class Warning_(_Frozen):  # noqa: N801 (Warning is Python's own)
    """Something that works but that the admin should know; `where` is `file:line` or a plan path."""

    where: str
    message: str


class Plan(_Frozen):
    site: str
    contact: str | None
    hosts: tuple[HostPlan, ...]
    gateway: GatewayPlan
    chat: ChatPlan | None = None
    moodle: MoodlePlan | None = None
    warnings: tuple[Warning_, ...] = ()

    def host(self, name: str) -> HostPlan:
        """The host called `name`; KeyError where the site has none."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise KeyError(name)

    @property
    def instances(self) -> tuple[InstancePlan, ...]:
        return tuple(i for h in self.hosts if h.ollama for i in h.ollama.instances)
