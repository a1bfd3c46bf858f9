"""Warnings about a site that can be deployed all the same."""

from __future__ import annotations

from flexi.catalog import platforms
from flexi.plan.build.ollama import group_fit
from flexi.plan.model.site import Warning_
from flexi.site.model import Site


def site_warnings(site: Site) -> list[Warning_]:
    found = []
    branch = platforms.BRANCHES[site.content.driver.branch]
    for platform in dict.fromkeys(host.platform for host in site.content.hosts.values() if host.gpus):
        shipped = platforms.PLATFORMS[platform].drivers[branch.name]
        if shipped.version is not None:
            message = (
                f"driver {branch.name} ended in June 2026: on {platform}, later packages than {shipped.version} are "
                "empty and pull the next branch. Set driver.branch to 580-server, which runs this Ollama and newer "
                "ones, or name a mirror or snapshot that still has that version in mirrors.apt "
                "(docs/reference/platforms.md)"
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
        if group_fit(site, host, group).tight:
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
