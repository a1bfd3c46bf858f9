"""Every host in the plan: packages, apt sources, proxy, time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from urllib.parse import urlsplit

from flexi.catalog import platforms
from flexi.plan.model.base import AptSourcePlan, BasePlan, ProxyPlan
from flexi.site.model import Site
from flexi.site.schema.site_file import Host


def proxy_plan(site: Site) -> ProxyPlan | None:
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


def base_plan(site: Site, name: str, host: Host) -> BasePlan:
    packages = ["ca-certificates", "curl", "nftables", "python3"]
    if host.cuda:
        packages.append("gpg")  # to look at a repository's signing key before it is trusted
    sources = tuple(_apt_sources(site, host))
    cuda = [sources_file(site, platforms.CUDA_SOURCE)] if host.cuda and host.gpus else []
    return BasePlan(
        hostname=name,
        hosts_entries=tuple((other.address, other_name) for other_name, other in site.content.hosts.items()),
        packages=tuple(sorted(packages)),
        proxy=proxy_plan(site),
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
            file=sources_file(site, source.name),
            uri=source.uri,
            suites=source.suites,
            components=source.components,
            keyring=keyring if own_key else platforms.DISTRIBUTION_KEYRINGS[host.platform],
            key=site.beside(source.key),
            key_url=source.key_url,
            key_fingerprint=source.key_fingerprint,
            snapshot=source.snapshot,
        )


def sources_file(site: Site, name: str) -> str:
    directory = platforms.APT_SOURCES_ONLY if site.content.mirrors.apt_only else platforms.APT_SOURCES
    return f"{directory}/flexi-{name}.sources"
