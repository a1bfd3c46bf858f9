"""The CUDA toolkit in the plan."""

from __future__ import annotations

from flexi.catalog import platforms
from flexi.plan.build.base import sources_file
from flexi.plan.model.cuda import CudaPlan
from flexi.site.model import Site
from flexi.site.schema.site_file import Host


def cuda_plan(site: Site, host: Host) -> CudaPlan:
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
        sources_file=sources_file(site, platforms.CUDA_SOURCE),
    )
