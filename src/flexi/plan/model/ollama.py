"""The plan's part for Ollama: releases, instances and their models."""

from __future__ import annotations

from flexi.catalog.frozen import Frozen as _Frozen


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
