"""Which models the lab's hosts have."""

from __future__ import annotations

from lab_site import Site


def model_of(site: Site, host: str) -> str:
    """A generating model that only this host has."""
    for backend in site.plan.gateway.backends:
        groups = {server.group for server in backend.servers}
        instances = [instance for instance in site.plan.instances if instance.group in groups]
        if {instance.host for instance in instances} != {host}:
            continue
        model = next(m for m in instances[0].models if m.name == backend.model)
        if not model.embedding and (model.tokens_per_second or 0) > 40:
            return backend.model
    raise AssertionError(f"the lab has no quick model on {host} alone")
