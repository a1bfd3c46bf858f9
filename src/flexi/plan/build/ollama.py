"""Ollama in the plan: its release, and each group's instance with its models."""

from __future__ import annotations

from pathlib import PurePosixPath
from urllib.parse import quote, urlsplit

from flexi.catalog import platforms, ports
from flexi.catalog.fit import Fit, Load
from flexi.plan.build.base import proxy_plan
from flexi.plan.build.environment import instance_environment
from flexi.plan.model.ollama import InstancePlan, ModelOnInstance, OllamaPlan
from flexi.site.model import Site
from flexi.site.schema.site_file import Group, Host

HOMES = "/var/lib/ollama"


def group_ports(host: Host) -> dict[str, int]:
    return {group: ports.FIRST_INSTANCE + index for index, group in enumerate(host.groups)}


def ollama_plan(site: Site, host_name: str, host: Host) -> OllamaPlan:
    wanted = site.content.ollama
    release = _release_address(site)
    instance_ports = group_ports(host)
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
    result = group_fit(site, host, group)
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
            proxy=proxy_plan(site),
        ),
        home=home,
        store=store,
        parallel=group.parallel,
        models=tuple(_model(site, placed.load, placed.gpus) for placed in result.placed),
        gpu_used_bytes=result.used_by_gpu,
    )


def group_fit(site: Site, host: Host, group: Group) -> Fit:
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
