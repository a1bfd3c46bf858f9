"""From a site to its plan. Pure: the same site gives the same plan, and nothing is read or written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from . import maintenance, platforms, ports
from .chat import CHAT_CLASS, api_sources, chat_edge, chat_host, chat_plan, chat_rules
from .consumers import HEALTH_CLASS, consumer_class
from .environment import instance_environment
from .fit import Fit, Load
from .gateway_tls import http_rules, tls_plan
from .gateways import gateway_host, peer_rules, vrrp_sources
from .model import (
    AgentPlan,
    AptSourcePlan,
    Backend,
    BackendServer,
    BasePlan,
    BundlePlan,
    CudaPlan,
    DriverPlan,
    FirewallPlan,
    FirewallRule,
    GatewayPlan,
    HostPlan,
    InstancePlan,
    LedgerPlan,
    MaintenancePlan,
    ModelOnInstance,
    OllamaPlan,
    Plan,
    ProxyPlan,
    RoleName,
    SshPlan,
    Warning_,
)
from .moodle import moodle_aliases, moodle_keyless, moodle_origins, moodle_plan
from .needs import package_set, set_name

if TYPE_CHECKING:
    from flexi.site.schema import Group, Host
    from flexi.site.site import Site

HOMES = "/var/lib/ollama"
AGENT_INTERVAL_S = 15
MAX_CONNECTIONS = 4000
"""Bounds the gateway's memory. A stream is two connections on each side of HAProxy, which keep buffers of 16 KiB."""
GUARD_WORKERS = 4
"""Processes of the guard. One relays a few thousand pieces of answers in a second; a gateway has two cores at least."""
GUARD_RUN = "/run/flexi-guard"
INNER_SOCKET = "/run/haproxy/flexi-inner.sock"
LEDGER_SOCKET = "/run/flexi-ledger/ledger.sock"

_OPEN_PATHS = {"tags": "/api/tags", "version": "/api/version", "show": "/api/show"}


def build_plan(site: Site) -> Plan:
    """The plan of a site that `load_site` found fine. ValueError where it could not have come from there."""
    return Plan(
        site=site.content.site.name,
        contact=site.content.site.contact,
        hosts=tuple(_host(site, name, host) for name, host in site.content.hosts.items()),
        gateway=_gateway(site),
        chat=chat_plan(site),
        moodle=moodle_plan(site),
        warnings=tuple(_warnings(site)),
    )


def _gpu_memory_mib(site: Site, host: Host) -> int | None:
    card = site.gpu_bytes(host)
    return card // 2**20 if card else None


def _gpu_place(site: Site, name: str) -> str:
    mark = site.lines.get(("hosts", name, "gpus", "model")) or site.lines.get(("hosts", name, "gpus"))
    return f"{site.path.name}:{mark.line}" if mark else site.path.name


def _host(site: Site, name: str, host: Host) -> HostPlan:
    is_gateway = name in site.gateways
    runs_ollama = host.gpus is not None
    roles: list[RoleName] = ["base", "firewall"]
    if runs_ollama:
        roles += ["driver", *(["cuda"] if host.cuda else []), "ollama", "agent"]  # type: ignore[list-item]
    if is_gateway:
        roles.append("gateway")
    chat = chat_host(site, name)
    if chat:
        roles.append("chat")
    proxy = _proxy(site)
    plan = HostPlan(
        name=name,
        platform=host.platform,
        ssh=SshPlan(
            address=host.address,
            user=site.content.ssh.user,
            port=site.content.ssh.port,
            config=site.beside(site.content.ssh.config),
            identity=site.beside(site.content.ssh.identity),
        ),
        roles=tuple(roles),
        gpu_model=host.gpus.model if host.gpus else None,
        gpu_count=host.gpus.count if host.gpus else 0,
        gpu_memory_mib=_gpu_memory_mib(site, host),
        gpu_memory_said=bool(host.gpus and host.gpus.memory_mib),
        gpu_place=_gpu_place(site, name) if host.gpus else "",
        base=_base(site, name, host),
        firewall=_firewall(site, name, host),
        driver=_driver(site, host) if runs_ollama else None,
        cuda=_cuda(site, host) if runs_ollama and host.cuda else None,
        ollama=_ollama(site, name, host) if runs_ollama else None,
        gateway=gateway_host(site, name) if is_gateway else None,
        chat=chat,
        agent=AgentPlan(check_port=ports.AGENT_CHECK, interval_s=AGENT_INTERVAL_S) if runs_ollama else None,
        environment=proxy.environment if proxy else (),
        maintenance=MaintenancePlan(
            reboot_windows=tuple(maintenance.parse(text) for text in site.content.maintenance.reboots),
            drain_timeout_s=site.content.maintenance.drain_timeout,
        ),
    )
    return _from_bundle(site, plan)


def _proxy(site: Site) -> ProxyPlan | None:
    content = site.content
    if content.proxy.http is None and content.proxy.https is None:
        return None
    mirrors = [content.mirrors.ollama, content.mirrors.cuda, content.mirrors.models, content.mirrors.pypi]
    mirrors += [source.uri for source in content.mirrors.apt]
    direct = ["localhost", "127.0.0.1", "::1"]
    for name, host in content.hosts.items():
        direct += [host.address, name]
    direct += [known for mirror in mirrors if mirror and (known := urlsplit(mirror).hostname)]
    direct += content.proxy.no_proxy
    return ProxyPlan(https=content.proxy.https, http=content.proxy.http, direct=tuple(dict.fromkeys(direct)))


BUNDLE_HOME = "/var/lib/flexi/bundle"
APT_CONFIG = "/etc/flexi/apt-bundle.conf"
APT_LISTS = "/var/lib/flexi/apt-lists"


def _from_bundle(site: Site, plan: HostPlan) -> HostPlan:
    """The plan of a host that gets everything from the site's bundle; as it was where the site has none."""
    folder = site.beside(site.content.mirrors.bundle)
    if folder is None:
        return plan
    packages = package_set(plan)
    # Repositories of the site's own are where the bundle was made from; the hosts need not reach them.
    base = plan.base.model_copy(update={"apt_sources": (), "apt_tools": (), "apt_sources_only": None, "apt_files": ()})
    return plan.model_copy(
        update={
            "base": base,
            "bundle": BundlePlan(
                folder=folder,
                home=BUNDLE_HOME,
                apt_uri=f"file:{BUNDLE_HOME}/apt/{packages.platform}",
                apt_suite=set_name(packages),
                apt_config=APT_CONFIG,
                apt_lists=APT_LISTS,
            ),
            "environment": (*plan.environment, ("APT_CONFIG", APT_CONFIG)),
        }
    )


def _base(site: Site, name: str, host: Host) -> BasePlan:
    packages = ["ca-certificates", "curl", "nftables", "python3"]
    if host.cuda:
        packages.append("gpg")  # to look at a repository's signing key before it is trusted
    sources = tuple(_apt_sources(site, host))
    cuda = [_sources_file(site, platforms.CUDA_SOURCE)] if host.cuda and host.gpus else []
    return BasePlan(
        hostname=name,
        hosts_entries=tuple((other.address, other_name) for other_name, other in site.content.hosts.items()),
        packages=tuple(sorted(packages)),
        proxy=_proxy(site),
        ntp_servers=site.content.ntp_servers,
        unattended_blacklist=platforms.UNATTENDED_BLACKLIST if host.gpus else (),
        apt_sources=sources,
        apt_tools=("ca-certificates", "curl", "gpg") if any(source.key_url for source in sources) else (),
        apt_sources_only=platforms.APT_SOURCES_ONLY if site.content.mirrors.apt_only else None,
        apt_files=(*(source.file for source in sources), *cuda),
    )


def _apt_sources(site: Site, host: Host) -> Iterator[AptSourcePlan]:
    for source in site.content.mirrors.apt:
        if source.platform != host.platform:
            continue
        own_key = source.key or source.key_url
        # apt tells a key's format by the ending; one that is fetched is armoured, as its makers publish them.
        ending = os.path.splitext(source.key)[1] if source.key else ".asc"
        keyring = f"/etc/apt/keyrings/flexi-{source.name}{ending}"
        yield AptSourcePlan(
            file=_sources_file(site, source.name),
            uri=source.uri,
            suites=source.suites,
            components=source.components,
            keyring=keyring if own_key else platforms.DISTRIBUTION_KEYRINGS[host.platform],
            key=site.beside(source.key),
            key_url=source.key_url,
            key_fingerprint=source.key_fingerprint,
            snapshot=source.snapshot,
        )


def _sources_file(site: Site, name: str) -> str:
    directory = platforms.APT_SOURCES_ONLY if site.content.mirrors.apt_only else platforms.APT_SOURCES
    return f"{directory}/flexi-{name}.sources"


def _firewall(site: Site, name: str, host: Host) -> FirewallPlan:
    content = site.content
    rules = [FirewallRule(port=content.ssh.port, sources=content.ssh.allow_from, purpose="SSH")]
    if name in site.gateways:
        sources = api_sources(site)
        rules += [FirewallRule(port=site.users_port, sources=sources, purpose="gateway"), *http_rules(site)]
        rules += peer_rules(site, name)
    rules += chat_rules(site, name)
    if host.gpus:
        only_gateways = tuple(gateway.address for gateway in site.gateways.values())
        rules.append(FirewallRule(port=ports.AGENT_CHECK, sources=only_gateways, purpose="agent check"))
        rules += [
            FirewallRule(port=port, sources=only_gateways, purpose=f"Ollama {group}")
            for group, port in _instance_ports(host).items()
        ]
    rules += [
        FirewallRule(port=allowed.port, sources=allowed.sources, purpose=allowed.purpose)
        for allowed in (*content.firewall.allow, *host.firewall.allow)
    ]
    return FirewallPlan(rules=tuple(rules), vrrp_from=vrrp_sources(site, name))


def _instance_ports(host: Host) -> dict[str, int]:
    return {group: ports.FIRST_INSTANCE + index for index, group in enumerate(host.groups)}


def _driver(site: Site, host: Host) -> DriverPlan:
    wanted = site.content.driver
    branch = platforms.BRANCHES[wanted.branch]
    platform = platforms.PLATFORMS[host.platform]
    shipped = platform.drivers[wanted.branch]
    kernel = platform.kernels[wanted.kernel]

    def flavoured(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name.format(kernel=kernel) for name in names))

    return DriverPlan(
        branch=branch.name,
        major=branch.major,
        packages=flavoured(shipped.packages),
        holds=flavoured(shipped.holds),
        pins=shipped.pins,
        version_package=shipped.version_package,
        kernel=kernel,
        module_package=shipped.module_package,
        kernel_packages=flavoured(shipped.kernel_packages),
        wanted_version=shipped.version,
    )


def _cuda(site: Site, host: Host) -> CudaPlan:
    mirrors = site.content.mirrors
    assert host.cuda is not None
    own = f"{platforms.NVIDIA_REPOSITORIES}/{platforms.PLATFORMS[host.platform].cuda_repository}/x86_64"
    repository = mirrors.cuda or own
    return CudaPlan(
        version=host.cuda,
        packages=(f"cuda-toolkit-{host.cuda.replace('.', '-')}",),
        repository=None if mirrors.bundle else repository,
        key_url=f"{repository}/{platforms.NVIDIA_KEY}",
        key_fingerprint=mirrors.cuda_key_fingerprint if mirrors.cuda else platforms.NVIDIA_KEY_FINGERPRINT,
        pins=platforms.cuda_pins(repository),
        sources_file=_sources_file(site, platforms.CUDA_SOURCE),
    )


def _ollama(site: Site, host_name: str, host: Host) -> OllamaPlan:
    wanted = site.content.ollama
    release = _release_address(site)
    instance_ports = _instance_ports(host)
    return OllamaPlan(
        version=wanted.version,
        archive_url=f"{release}/{_archive_name(site)}",
        checksums_url=f"{release}/sha256sum.txt",
        sha256=wanted.sha256,
        packages=("zstd",),
        instances=tuple(
            _instance(site, host_name, host, name, group, instance_ports[name]) for name, group in host.groups.items()
        ),
    )


def _release_address(site: Site) -> str:
    """Where the archive and its checksums lie: a URL for the hosts, or a `file:` one of the admin's machine."""
    mirrors, version = site.content.mirrors, f"v{site.content.ollama.version}"
    bundle = site.beside(mirrors.bundle)
    if bundle is not None:
        return PurePosixPath(bundle, "ollama", version).as_uri()
    own = mirrors.ollama
    if own is None or own.startswith("http"):
        return f"{own or platforms.OLLAMA_RELEASES}/{version}"
    path = PurePosixPath(site.beside(own) or "")
    return (path.parent if _is_archive(own) else path / version).as_uri()


def _archive_name(site: Site) -> str:
    own = site.content.mirrors.ollama
    local = own is not None and _is_archive(own) and site.content.mirrors.bundle is None
    return quote(PurePosixPath(own).name) if own is not None and local else platforms.OLLAMA_ARCHIVE


def _is_archive(own: str) -> bool:
    return not own.startswith("http") and own.endswith(".tar.zst")


def _instance(site: Site, host_name: str, host: Host, name: str, group: Group, port: int) -> InstancePlan:
    result = _fit(site, host, group)
    home = f"{HOMES}/{name}"
    store = f"{home}/models"
    return InstancePlan(
        group=name,
        host=host_name,
        port=port,
        gpus=tuple(range(group.card_count(host))) if group.gpus == "all" else group.gpus,
        vram_bytes=sum(result.gpu_bytes),
        environment=instance_environment(
            port=port,
            home=home,
            store=store,
            context=group.context,
            parallel=group.parallel,
            models=len(group.models),
            kv_cache=group.kv_cache,
            origins=_origins(site),
            proxy=_proxy(site),
        ),
        home=home,
        store=store,
        parallel=group.parallel,
        models=tuple(_model(site, placed.load, placed.gpus) for placed in result.placed),
        gpu_used_bytes=result.used_by_gpu,
    )


def _fit(site: Site, host: Host, group: Group) -> Fit:
    result = site.fit(host, site.loads(group), group)
    if result.missing is not None:
        raise ValueError(f"{result.missing.name} does not fit: this site was not checked")
    return result


def _origins(site: Site) -> tuple[str, ...]:
    port = site.users_port
    names = dict.fromkeys((site.content.gateway.name, site.users_address))
    default = {"http": 80, "https": 443}
    return tuple(
        f"{scheme}://{name}" + ("" if port in (80, 443, default[scheme]) else f":{port}")
        for name in names
        for scheme in default
    )


def _model(site: Site, load: Load, gpus: int) -> ModelOnInstance:
    source, insecure = _source(site, load.name)
    return ModelOnInstance(
        name=load.name,
        source=source,
        insecure=insecure,
        weights_bytes=load.facts.weights_bytes,
        kv_cache_bytes=load.kv_bytes,
        context=load.context,
        embedding=load.facts.embedding,
        tokens_per_second=load.facts.tokens_per_second,
        gpu_count=gpus,
        slots=load.parallel,
    )


def _source(site: Site, name: str) -> tuple[str, bool]:
    """What to pull for a model, and whether over plain HTTP. A name that carries a registry's host keeps it."""
    mirror = site.content.mirrors.models
    if site.content.mirrors.bundle is not None or mirror is None or name.count("/") == 2:
        return name, False
    parts = urlsplit(mirror)
    path = name if "/" in name else f"library/{name}"
    return f"{parts.netloc}/{path}", parts.scheme == "http"


def _gateway(site: Site) -> GatewayPlan:
    gateway = site.content.gateway
    return GatewayPlan(
        hosts=tuple(site.gateways),
        address=site.users_address,
        name=gateway.name,
        port=site.users_port,
        catalogue_port=ports.CATALOGUE,
        metrics_port=ports.METRICS,
        ledger=LedgerPlan(
            port=ports.LEDGER,
            socket=LEDGER_SOCKET,
            retention_days=gateway.log.retention_days,
            usage_days=gateway.log.usage_days,
        ),
        max_connections=MAX_CONNECTIONS,
        timeout_s=gateway.timeout,
        queue_timeout_s=gateway.queue_timeout,
        queue_length=gateway.queue_length,
        body_limit_bytes=gateway.body_limit * 2**20,
        max_answer_tokens=gateway.max_answer_tokens,
        guard_sockets=tuple(f"{GUARD_RUN}/{number}.sock" for number in range(1, GUARD_WORKERS + 1)),
        inner_socket=INNER_SOCKET,
        anonymous_paths=tuple(_OPEN_PATHS[name] for name in dict.fromkeys((*gateway.anonymous, *moodle_keyless(site)))),
        cors=tuple(dict.fromkeys((*gateway.cors, *moodle_origins(site)))),
        backends=_backends(site),
        consumers=site.consumers,
        classes=(
            *(consumer_class(name, rules) for name, rules in site.classes.items()),
            HEALTH_CLASS,
            *([CHAT_CLASS] if site.content.chat else []),
        ),
        tls=tls_plan(site),
        chat=chat_edge(site),
    )


def _backends(site: Site) -> tuple[Backend, ...]:
    """One for each model of the site, in the order of the file, with every instance that holds it."""
    servers: dict[str, list[BackendServer]] = {}
    loads: dict[str, list[Load]] = {}
    for _, host, group_name, group in site.groups():
        for load in site.loads(group):
            loads.setdefault(load.name.lower(), []).append(load)
            servers.setdefault(load.name.lower(), []).append(
                BackendServer(
                    name=group_name,
                    group=group_name,
                    address=host.address,
                    port=_instance_ports(host)[group_name],
                    agent_port=ports.AGENT_CHECK,
                    max_connections=load.parallel,
                )
            )
    sections = _section_names(list(servers))
    aliases = _aliases(site)
    return tuple(
        Backend(
            name=sections[model],
            model=loads[model][0].name,
            names=model_spellings(model),
            aliases=tuple(aliases.get(model, ())),
            context=min(load.context for load in loads[model]),
            embedding=loads[model][0].facts.embedding,
            servers=tuple(found),
        )
        for model, found in servers.items()
    )


def _aliases(site: Site) -> dict[str, list[str]]:
    """Lower-case spellings of aliases, by the lower-case name of the model that they mean; the site file's own win."""
    found: dict[str, list[str]] = {}
    for alias, model in {**moodle_aliases(site), **site.content.gateway.aliases}.items():
        found.setdefault(model.lower(), []).extend(model_spellings(alias))
    return found


def model_spellings(model: str) -> tuple[str, ...]:
    """Lower-case names that mean `model`: Ollama compares names without case (server/routes.go getExistingName) and
    reads a missing tag as `latest` (types/model/name.go)."""
    lower = model.lower()
    return (lower, lower.removesuffix(":latest")) if lower.endswith(":latest") else (lower,)


def _section_names(models: list[str]) -> dict[str, str]:
    """HAProxy section names; two models that differ in signs only get a number."""
    names: dict[str, str] = {}
    for model in models:
        base = "model_" + re.sub(r"[^a-z0-9]+", "_", model).strip("_")
        name, count = base, 1
        while name in names.values():
            count += 1
            name = f"{base}_{count}"
        names[model] = name
    return names


def _warnings(site: Site) -> list[Warning_]:
    found = []
    branch = platforms.BRANCHES[site.content.driver.branch]
    for platform in dict.fromkeys(host.platform for host in site.content.hosts.values() if host.gpus):
        shipped = platforms.PLATFORMS[platform].drivers[branch.name]
        if shipped.version is not None:
            message = (
                f"driver {branch.name} ended in June 2026: on {platform}, later packages than {shipped.version} are "
                "empty and pull the next branch. Set driver.branch to 580-server, which runs this Ollama and newer "
                "ones, or name a mirror or snapshot that still has that version in mirrors.apt (docs/platforms.md)"
            )
            found.append(Warning_(where=site.where("driver", "branch"), message=message))
    for host_name, host in site.content.hosts.items():
        if not platforms.PLATFORMS[host.platform].tried:
            message = f"flexi was not tried on {host.platform} yet: deploy to one host first, and tell us how it went"
            found.append(Warning_(where=site.where("hosts", host_name, "platform"), message=message))
        if host.gpus is None and host.cuda:
            message = f"no GPU, so no CUDA toolkit {host.cuda} is installed"
            found.append(Warning_(where=site.where("hosts", host_name, "cuda"), message=message))
        elif host.cuda and platforms.version_tuple(host.cuda) > branch.native_cuda:
            native = ".".join(map(str, branch.native_cuda))
            message = (
                f"CUDA {host.cuda} on driver {branch.major} ({native}) runs by minor version compatibility: "
                "programs that compile PTX at run time need a toolkit up to " + native
            )
            found.append(Warning_(where=site.where("hosts", host_name, "cuda"), message=message))
    for host_name, host, group_name, group in site.groups():
        here = ("hosts", host_name, "groups", group_name)
        if _fit(site, host, group).tight:
            message = f"group {group_name} is tight: with 2 % less VRAM its models would not all fit"
            found.append(Warning_(where=site.where(*here), message=message))
        for index, load in enumerate(site.loads(group)):
            if load.context < group.context and not load.facts.embedding:
                message = f"{load.name} was trained for {load.context} tokens: Ollama cuts {group.context} to that"
                found.append(Warning_(where=site.where(*here, "models", index), message=message))
    if site.content.mirrors.cuda and site.content.mirrors.cuda_key_fingerprint is None:
        message = "the mirror's signing key is trusted as it comes: pin it with mirrors.cuda_key_fingerprint"
        found.append(Warning_(where=site.where("mirrors", "cuda"), message=message))
    return found
