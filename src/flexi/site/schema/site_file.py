"""What an admin may write into a site file. The one place where keys, types, defaults and their meaning are set.

docs/reference/site-file.md and docs/site.schema.json are generated from here (`python -m flexi.docgen`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from flexi.catalog import ModelFacts
from flexi.catalog.platforms import PlatformName
from flexi.configfile import names
from flexi.configfile.section import (
    FilePath,
    GroupName,
    HostName,
    Line,
    ModelName,
    Network,
    Port,
    Section,
    Url,
    UrlOrPath,
)
from flexi.site.schema.chat import Chat
from flexi.site.schema.gateway import Gateway
from flexi.site.schema.moodle import Moodle

KvCache = Literal["f16", "q8_0", "q4_0"]


class SiteInfo(Section):
    """Who this is."""

    name: Annotated[str, AfterValidator(names.site_name)] = Field(
        description="Short name of the site, as the commands and the pages show it.", examples=["hagen"]
    )
    contact: Line | None = Field(
        default=None, description="Whom users turn to: an address or a page.", examples=["flexi@example.edu"]
    )


class Ssh(Section):
    """How the admin's machine reaches the hosts."""

    user: Annotated[str, AfterValidator(names.unix_user)] = Field(
        description="The user to log in as; may use sudo without a password.", examples=["admin"]
    )
    port: Port = Field(default=22, description="Port of the SSH server on the hosts.", examples=[22])
    config: FilePath | None = Field(
        default=None,
        description="OpenSSH client configuration; relative paths start at the site file.",
        examples=["../.lab/lab/ssh_config"],
    )
    identity: FilePath | None = Field(
        default=None, description="Private key; relative paths start at the site file.", examples=["~/.ssh/flexi"]
    )
    allow_from: tuple[Network, ...] = Field(
        default=(),
        strict=False,
        description="Networks that may use SSH on the hosts; empty means everyone.",
        examples=[["198.51.100.0/24"]],
    )


class AptSource(Section):
    """An apt repository beside the hosts' own: a mirror of the distribution, or a snapshot of an earlier day."""

    name: Annotated[str, AfterValidator(names.label)] = Field(
        description="Names its file on the hosts, `flexi-<name>.sources`.", examples=["jammy-snapshot"]
    )
    platform: PlatformName = Field(
        description="The hosts of this platform get it, GPUs or not.", examples=["ubuntu-22.04"]
    )
    uri: Annotated[str, AfterValidator(names.apt_uri)] = Field(
        description="Where `dists/` lies: http, https, or file for a directory of the hosts. Through the proxy, if "
        "there is one, unless `no_proxy` names its host.",
        examples=["https://mirror.example.edu/ubuntu"],
    )
    suites: tuple[Annotated[str, AfterValidator(names.apt_word)], ...] = Field(
        min_length=1, strict=False, description="Suites of it, by code name.", examples=[["jammy-security"]]
    )
    components: tuple[Annotated[str, AfterValidator(names.apt_word)], ...] = Field(
        default=("main",),
        min_length=1,
        strict=False,
        description="Components; Ubuntu's drivers are in restricted, Debian's in contrib, non-free and "
        "non-free-firmware.",
        examples=[["main", "restricted"]],
    )
    key: FilePath | None = Field(
        default=None,
        description="OpenPGP key of a repository that signs with its own: a file `.asc` (text) or `.gpg` (binary); "
        "relative paths start at the site file. Default: the distribution's keys.",
        examples=["mirror.asc"],
    )
    key_url: Url | None = Field(
        default=None,
        description="Where the hosts fetch that key instead; `key_fingerprint` must be set.",
        examples=["https://mirror.example.edu/mirror.asc"],
    )
    key_fingerprint: Annotated[str, AfterValidator(names.fingerprint)] | None = Field(
        default=None,
        description="OpenPGP fingerprint of the key at `key_url`.",
        examples=["F6ECB3762474EDA9D21B7022871920D1991BC93C"],
    )
    snapshot: bool = Field(
        default=False,
        description="The repository shows an earlier day: apt must not mind that its index has expired.",
        examples=[True],
    )


class Mirrors(Section):
    """Where downloads come from; what is left out comes from its maker."""

    apt: tuple[AptSource, ...] = Field(
        default=(),
        strict=False,
        description="Apt repositories beside the hosts' own: a local mirror, or a snapshot that still has a driver.",
    )
    apt_only: bool = Field(
        default=False,
        description="The hosts use the repositories of `apt` and `cuda` and none of their own, whose files stay.",
        examples=[True],
    )
    bundle: FilePath | None = Field(
        default=None,
        description="Folder on this machine that `flexi bundle` made; relative paths start at the site file. The hosts "
        "then get packages, Ollama and models from it over SSH, and ask nothing else.",
        examples=["./bundle"],
    )
    ollama: UrlOrPath | None = Field(
        default=None,
        description="Holds `v<version>/ollama-linux-amd64.tar.zst` and `v<version>/sha256sum.txt`: a URL, or a folder "
        "on this machine (`./…`, `/…`, `file:…`), or the archive itself there. Default: Ollama's releases on GitHub.",
        examples=["https://mirror.example.edu/ollama", "./ollama-linux-amd64.tar.zst"],
    )
    cuda: Url | None = Field(
        default=None,
        description="NVIDIA's CUDA repository for the hosts' platform. Default: developer.download.nvidia.com.",
        examples=["https://mirror.example.edu/cuda/repos/ubuntu2204/x86_64"],
    )
    cuda_key_fingerprint: Annotated[str, AfterValidator(names.fingerprint)] | None = Field(
        default=None,
        description="OpenPGP fingerprint of the key of the `cuda` mirror. Left out, its key is trusted as it comes.",
        examples=["EB693B3035CD5710E231E123A4B469963BF863CC"],
    )
    models: Url | None = Field(
        default=None,
        description="Registry that models are pulled from, without a path. Default: registry.ollama.ai.",
        examples=["https://registry.example.edu"],
    )
    pypi: Url | None = Field(
        default=None,
        description="Package index that the chat's Python packages come from (simple repository API). Default: PyPI.",
        examples=["https://mirror.example.edu/pypi/simple"],
    )


class Proxy(Section):
    """The HTTP proxy through which the hosts reach the internet; the site's hosts and other mirrors than
    those of `apt` are reached directly."""

    https: Annotated[str, AfterValidator(names.proxy)] | None = Field(
        default=None,
        description="For https addresses: apt, flexi's downloads, and the instances' pulls. No user name or password.",
        examples=["http://proxy.example.edu:3128"],
    )
    http: Annotated[str, AfterValidator(names.proxy)] | None = Field(
        default=None,
        description="For http addresses: apt and flexi's downloads.",
        examples=["http://proxy.example.edu:3128"],
    )
    no_proxy: tuple[Annotated[str, AfterValidator(names.without_proxy)], ...] = Field(
        default=(),
        strict=False,
        description="Further hosts, domains and networks that are reached without it.",
        examples=[["intranet.example.edu", "192.0.2.0/24"]],
    )


class Driver(Section):
    """The NVIDIA driver of all GPU hosts."""

    branch: str = Field(
        default="535-server",
        description="Driver branch. 535 ended in June 2026 and runs Ollama up to 0.24.0; Ollama 0.30 and later "
        "need 550 or newer.",
        examples=["535-server", "580-server"],
    )
    kernel: Literal["generic", "generic-hwe-22.04", "generic-hwe-24.04", "amd64", "cloud-amd64"] = Field(
        default="generic",
        description="Kernel flavour that the hosts run; the driver's modules are for it. On Debian, generic is amd64.",
        examples=["generic"],
    )


class Ollama(Section):
    """The Ollama release of all GPU hosts."""

    version: Annotated[str, AfterValidator(names.version)] = Field(
        default="0.24.0", description="Release to run. 0.24.0 is the last for driver 535.", examples=["0.24.0"]
    )
    sha256: Annotated[str, AfterValidator(names.sha256)] | None = Field(
        default=None,
        description="Digest of `ollama-linux-amd64.tar.zst`. Left out, the release's own sha256sum.txt decides.",
        examples=["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],
    )


class Maintenance(Section):
    """How changes that interrupt a host are made: one host after the other, each emptied first."""

    reboots: tuple[Annotated[str, AfterValidator(names.window)], ...] = Field(
        default=(),
        strict=False,
        description="Weekly windows, by the hosts' own clocks, in which a deploy may reboot a host that needs it. "
        "Outside of them it needs `--allow-reboot`. Days: `daily`, `Sun`, `Sat,Sun`, `Mon-Fri`.",
        examples=[["Sun 02:00-05:00"]],
    )
    drain_timeout: int = Field(
        default=300,
        ge=0,
        le=86_400,
        description="Seconds that answers which are being written get to end before their instance is stopped.",
        examples=[300],
    )


class Gpus(Section):
    """The cards of a host; all of one model."""

    model: Line = Field(description="Name as in nvidia-smi, without NVIDIA.", examples=["RTX A5000"])
    count: int = Field(ge=1, le=64, description="How many the host has.", examples=[8])
    memory_mib: int | None = Field(
        default=None,
        ge=1024,
        le=1024 * 1024,
        description="Memory of one card in MiB as nvidia-smi shows it; needed for cards that flexi does not know.",
        examples=[24564],
    )


def _selection(value: Any) -> Any:
    """`all`, indices, or UUIDs: one message instead of one for each of the three."""
    if value == "all":
        return value
    if isinstance(value, str):
        raise names.refused("is no selection of GPUs", "did you mean 'all'?" if value[:1] in "aA" else _SELECTION)
    if not isinstance(value, list) or not value:
        raise names.refused("is no selection of GPUs", _SELECTION)
    if all(isinstance(item, str) for item in value):
        return tuple(names.gpu_uuid(item) for item in value)
    if all(isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 64 for item in value):
        return tuple(value)
    raise names.refused("is no selection of GPUs", _SELECTION)


_SELECTION = "write all, indices like [0, 1], or UUIDs like [GPU-…]"

GpuSelection = Annotated[
    Any,
    BeforeValidator(_selection),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": "all"},
                {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 63}, "minItems": 1},
                {"type": "array", "items": {"type": "string", "pattern": "^GPU-[0-9a-f-]{36}$"}, "minItems": 1},
            ]
        }
    ),
]


class Group(Section):
    """A GPU group: the cards that one Ollama instance owns, and the models that it keeps on them."""

    gpus: GpuSelection = Field(
        description="`all`, indices in PCI bus order, or UUIDs. Groups of a host share no card.",
        examples=["all", [0, 1]],
    )
    models: tuple[ModelName, ...] = Field(
        min_length=1,
        strict=False,
        description="Models that are downloaded, loaded before the first request, and kept for ever, in this order.",
        examples=[["llama3:8b"]],
    )
    context: int = Field(
        default=8192,
        ge=256,
        le=1_048_576,
        description="Tokens for each request: prompt and answer together.",
        examples=[8192],
    )
    parallel: int = Field(
        default=2,
        ge=1,
        le=64,
        description="Requests that a model answers at once, each with a context in VRAM; the rest wait at the gateway.",
        examples=[2],
    )
    kv_cache: KvCache = Field(
        default="f16",
        description="Precision of the contexts in VRAM; q8_0 takes half of f16 at a small loss of quality.",
        examples=["f16"],
    )

    def card_count(self, host: Host) -> int:
        """How many cards the group has on its host."""
        if self.gpus == "all":
            return host.gpus.count if host.gpus else 0
        return len(self.gpus)


class Allow(Section):
    """A TCP port that the firewall opens beside flexi's own."""

    port: Port = Field(description="TCP port.", examples=[6556])
    sources: tuple[Network, ...] = Field(
        default=(),
        alias="from",
        strict=False,
        description="Networks that may use it; empty means everyone.",
        examples=[["198.51.100.7"]],
    )
    purpose: Annotated[str, AfterValidator(names.purpose)] = Field(
        description="What for, in a few words; the rule's comment.", examples=["Checkmk"]
    )


class Firewall(Section):
    """What the hosts' firewall lets in beside SSH, the gateway, and the gateway's way to the instances."""

    allow: tuple[Allow, ...] = Field(
        default=(),
        strict=False,
        description="TCP ports to open for other programs: monitoring, backup.",
        examples=[[{"port": 6556, "from": ["198.51.100.7"], "purpose": "Checkmk"}]],
    )


class Host(Section):
    """A machine. One without `gpus` can be the gateway, or have the chat."""

    address: Annotated[str, AfterValidator(names.address)] = Field(
        description="IPv4 address that the gateway and the other hosts use, and SSH where no `ssh.config` maps it.",
        examples=["192.0.2.11"],
    )
    platform: PlatformName = Field(default="ubuntu-22.04", description="Operating system.", examples=["ubuntu-22.04"])
    gpus: Gpus | None = Field(default=None, description="The cards of this host.")
    cuda: Annotated[str, AfterValidator(names.toolkit)] | None = Field(
        default=None,
        description="CUDA toolkit to install for people who compile on the host; Ollama needs none. Quote it.",
        examples=["12.4"],
    )
    groups: dict[GroupName, Group] = Field(
        default={}, description="GPU groups by name; a name is used once in the whole site."
    )
    firewall: Firewall = Field(default=Firewall(), description="Opened on this host, beside the site's `firewall`.")


class SiteFile(Section):
    """A site: its hosts, their GPU groups, the models on them, and the gateway in front."""

    site: SiteInfo
    ssh: Ssh
    mirrors: Mirrors = Mirrors()
    proxy: Proxy = Proxy()
    driver: Driver = Driver()
    ollama: Ollama = Ollama()
    maintenance: Maintenance = Maintenance()
    ntp_servers: tuple[Annotated[str, AfterValidator(names.public_name)], ...] = Field(
        default=(),
        strict=False,
        description="Time servers; default: the distribution's.",
        examples=[["ntp.example.edu"]],
    )
    models: dict[ModelName, ModelFacts] = Field(
        default={}, description="Models that flexi's catalogue does not know, or knows differently."
    )
    firewall: Firewall = Field(default=Firewall(), description="Opened on every host.")
    hosts: dict[HostName, Host] = Field(min_length=1, description="The machines, by host name.")
    gateway: Gateway
    chat: Chat | None = None
    moodle: Moodle | None = None
