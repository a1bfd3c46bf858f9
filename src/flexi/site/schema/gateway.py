"""`gateway:` in a site file: the one API, and who may use how much of it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from flexi.catalog.consumers import ANONYMOUS_CLASS, DEFAULT_CLASS, DEFAULT_MAX_ANSWER_TOKENS, Priority
from flexi.catalog.ollama import GUARDED_OPTIONS
from flexi.configfile import names
from flexi.configfile.findings import suggestion
from flexi.configfile.section import HostName, ModelName, Network, Port, Section
from flexi.site.schema.tls import Tls

OpenPath = Literal["tags", "version", "show"]
ClassName = Annotated[str, AfterValidator(names.class_name)]
Origin = Annotated[str, AfterValidator(names.origin)]
Limit = Annotated[int, Field(ge=1, le=1_000_000_000)]


def _models(value: Any) -> Any:
    """`all`, or names: one message instead of one for each of the two."""
    if value == "all":
        return value
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise names.refused("is no selection of models", "write all, or a list like ['llama3:8b']")
    return tuple(names.model_name(item) for item in value)


def _options(value: Any) -> Any:
    """`any`, `fixed`, or names of options."""
    if value in ("any", "fixed"):
        return value
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise names.refused("is no choice of options", "write any, fixed, or a list like [num_ctx]")
    for item in value:
        if item not in GUARDED_OPTIONS:
            raise names.refused(f"names {item!r}, which is no guarded option", suggestion(item, GUARDED_OPTIONS))
    return tuple(value)


ModelSelection = Annotated[
    Any,
    BeforeValidator(_models),
    WithJsonSchema({"anyOf": [{"const": "all"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]
OptionSelection = Annotated[
    Any,
    BeforeValidator(_options),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": ["any", "fixed"]},
                {"type": "array", "items": {"enum": list(GUARDED_OPTIONS)}, "minItems": 1},
            ]
        }
    ),
]


class ConsumerClass(Section):
    """What the consumers of a class may do; each of them by itself."""

    models: ModelSelection = Field(
        default="all", description="`all`, or the models that they may use.", examples=[["llama3:8b"]]
    )
    at_once: int = Field(
        default=32, ge=1, le=1000, description="Requests at the same time, those that wait included.", examples=[8]
    )
    per_minute: Limit | None = Field(default=None, description="Requests in a minute of the clock.", examples=[60])
    per_hour: Limit | None = Field(default=None, description="Requests in an hour of the clock.", examples=[1000])
    per_day: Limit | None = Field(default=None, description="Requests in a day, from midnight UTC.", examples=[5000])
    priority: Priority = Field(
        default="interactive",
        description="Where instances are busy, `interactive` requests go before those of `batch`.",
        examples=["batch"],
    )
    networks: tuple[Network, ...] = Field(
        default=(),
        strict=False,
        description="Networks that their keys may be used from; empty means everywhere.",
        examples=[["198.51.100.0/24"]],
    )
    options: OptionSelection = Field(
        default="fixed",
        description="Settings that would load a model anew for everyone, or unload it: `any` may be sent, or those of "
        "a list, or none (`fixed`).",
        examples=[["num_ctx"]],
    )
    max_answer_tokens: Limit | None = Field(
        default=None,
        description="Most tokens of an answer, instead of `gateway.max_answer_tokens`; it may be larger or smaller.",
        examples=[1024],
    )


BUILT_IN_CLASSES: Mapping[str, ConsumerClass] = MappingProxyType(
    {DEFAULT_CLASS: ConsumerClass(), ANONYMOUS_CLASS: ConsumerClass(at_once=4, per_minute=60)}
)


class Log(Section):
    """What the gateway remembers of requests. Never a prompt, an answer or a whole address."""

    retention_days: int = Field(
        default=7,
        ge=0,
        le=365,
        description="Days that a line of the access log stays, one for each request with its consumer; 0: none.",
        examples=[7],
    )
    usage_days: int = Field(
        default=400,
        ge=1,
        le=3660,
        description="Days that the hourly sums by consumer and model stay, for `flexi usage`.",
        examples=[400],
    )


class Gateway(Section):
    """The one Ollama API in front of all instances."""

    host: HostName = Field(description="Which of `hosts` it runs on; a GPU host will do.", examples=["gateway"])
    standby: HostName | None = Field(
        default=None,
        description="A second host for the gateway, which takes over when the first fails. Needs `floating_address`.",
        examples=["gateway-2"],
    )
    floating_address: Annotated[str, AfterValidator(names.address)] | None = Field(
        default=None,
        description="IPv4 address that the two gateways share, in the network of both; `name` leads to it.",
        examples=["192.0.2.10"],
    )
    vrrp_id: int = Field(
        default=51,
        ge=1,
        le=255,
        description="Number of the pair in its network (VRRP, RFC 5798); no other pair there may have it.",
        examples=[51],
    )
    name: Annotated[str, AfterValidator(names.gateway_name)] = Field(
        description="Public name, as users type it.", examples=["flexi.example.edu"]
    )
    port: Port | None = Field(
        default=None, description="Port that users reach; default: 443 with `tls`, 80 without.", examples=[8443]
    )
    tls: Tls | None = Field(default=None, description="HTTPS, and where its certificate comes from.")
    anonymous: tuple[OpenPath, ...] = Field(
        default=(),
        strict=False,
        description="What needs no API key: tags (GET /api/tags), version (GET /api/version), show (POST /api/show).",
        examples=[["tags", "version"]],
    )
    allow_from: tuple[Network, ...] = Field(
        default=(),
        strict=False,
        description="Networks that may use the gateway; empty means everyone.",
        examples=[["198.51.100.0/24"]],
    )
    timeout: int = Field(
        default=600,
        ge=10,
        le=86_400,
        description="Seconds that an answer may pause; Ollama sends nothing before the first token.",
        examples=[600],
    )
    queue_timeout: int = Field(
        default=300, ge=1, le=86_400, description="Seconds that a request may wait for its turn.", examples=[300]
    )
    queue_length: int = Field(
        default=200,
        ge=1,
        le=100_000,
        description="Requests that may wait for one model; more get a 503 with Retry-After. A quarter more is kept for "
        "consumers that have at most two under way.",
        examples=[200],
    )
    body_limit: int = Field(
        default=32, ge=1, le=1024, description="Largest request in MiB; images count in base64.", examples=[32]
    )
    max_answer_tokens: Limit = Field(
        default=DEFAULT_MAX_ANSWER_TOKENS,
        description="Most tokens of an answer, thinking included. It holds where a request names no number or a larger "
        "one, and the answer then says so (X-Answer-Limit). No answer gets more tokens than its model's context has.",
        examples=[4096],
    )
    aliases: dict[ModelName, ModelName] = Field(
        default={},
        description="Other names for models of the site, for clients that insist on a name. Answers and lists say the "
        "model's own name.",
        examples=[{"gpt-4o-mini": "llama3:8b"}],
    )
    classes: dict[ClassName, ConsumerClass] = Field(
        default={},
        description="What consumers of a class may do, each by itself. `default` is the class of keys that name no "
        "other, `anonymous` that of requests without a key (each address by itself): both are there in any case, and "
        "may be set here. Others are named by `flexi keys add --class`.",
    )
    cors: tuple[Origin, ...] = Field(
        default=(),
        strict=False,
        description="Origins of pages whose scripts may use the API; empty means none.",
        examples=[["https://moodle.example.edu"]],
    )
    log: Log = Log()
