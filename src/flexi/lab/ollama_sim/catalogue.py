"""Simulated models: what their blobs hold.

The blobs are small: a real GGUF header with the published model's shape, two keys that say how much VRAM its weights
take and how fast it writes, and deterministic filling.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

from . import gguf
from .goformat import human_number

WEIGHTS_KEY = "flexi_sim.weights_bytes"
RATE_KEY = "flexi_sim.tokens_per_second"
VOCABULARY_KEY = "flexi_sim.vocabulary"
"""A real file has all the tokens instead; only their number matters here."""

MEDIA_MODEL = "application/vnd.ollama.image.model"
MEDIA_TEMPLATE = "application/vnd.ollama.image.template"
MEDIA_LICENSE = "application/vnd.ollama.image.license"
MEDIA_PARAMS = "application/vnd.ollama.image.params"
MEDIA_SYSTEM = "application/vnd.ollama.image.system"
MEDIA_CONFIG = "application/vnd.docker.container.image.v1+json"
MEDIA_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


@dataclass(frozen=True)
class ModelSpec:
    """A model that the simulated registry offers."""

    architecture: str
    parameters: int
    quantization: str
    weights_bytes: int
    """Bytes that the real weights have, and that the simulated model takes in VRAM."""
    layers: int
    heads: int
    heads_kv: int
    embedding_length: int
    context_length: int
    head_length: int | None = None
    """Length of one key or value vector; None means embedding_length / heads."""
    vocabulary: int = 32_000
    experts: bool = False
    """A mixture of (eight) experts."""
    tokens_per_second: float = 50.0
    """One stream on a GPU."""
    embedding: bool = False
    tools: bool = False
    vision: bool = False
    license: str = ""
    parameters_file: Mapping[str, object] = field(default_factory=dict)
    """Default options that the published model brings (its params layer)."""
    blob_bytes: int = 2 * 2**20
    """Size of the stand-in for the weights that is really downloaded."""


@dataclass(frozen=True)
class Blob:
    media_type: str
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def digest(self) -> str:
        return "sha256:" + hashlib.sha256(self.data).hexdigest()


def model_values(spec: ModelSpec) -> dict[str, gguf.Value]:
    """The GGUF key-values of a model."""
    arch = spec.architecture
    file_type = next((number for number, name in gguf.FILE_TYPES.items() if name == spec.quantization), 0)
    values: dict[str, gguf.Value] = {
        "general.architecture": arch,
        "general.file_type": file_type,
        "general.parameter_count": spec.parameters,
        "general.quantization_version": 2,
        f"{arch}.block_count": spec.layers,
        f"{arch}.context_length": spec.context_length,
        f"{arch}.embedding_length": spec.embedding_length,
        f"{arch}.attention.head_count": spec.heads,
        f"{arch}.attention.head_count_kv": spec.heads_kv,
        VOCABULARY_KEY: spec.vocabulary,
        WEIGHTS_KEY: spec.weights_bytes,
        RATE_KEY: float(spec.tokens_per_second),
    }
    if spec.head_length is not None:
        values[f"{arch}.attention.key_length"] = spec.head_length
        values[f"{arch}.attention.value_length"] = spec.head_length
    if spec.experts:
        values[f"{arch}.expert_count"] = 8
    if spec.embedding:
        values[f"{arch}.pooling_type"] = 1
    if spec.vision:
        values[f"{arch}.vision.block_count"] = 24
    return values


@lru_cache(maxsize=64)
def _filling(seed: bytes, count: int) -> bytes:
    return hashlib.shake_128(seed).digest(count)


def blobs(name: str, spec: ModelSpec) -> tuple[tuple[Blob, ...], Blob]:
    """The layers of a model and its config, the same bytes for the same arguments."""
    head = gguf.header(model_values(spec))
    weights = head + _filling(name.encode() + head, max(spec.blob_bytes - len(head), 0))
    template = "{{ .Tools }}{{ .System }}{{ .Prompt }}" if spec.tools else "{{ .System }}{{ .Prompt }}"
    layers = [Blob(MEDIA_MODEL, weights)]
    for media, text in (
        (MEDIA_TEMPLATE, "" if spec.embedding else template),
        (MEDIA_LICENSE, spec.license),
        (MEDIA_PARAMS, json.dumps(dict(spec.parameters_file)) if spec.parameters_file else ""),
    ):
        if text:
            layers.append(Blob(media, text.encode()))
    config = json.dumps(
        {
            "model_format": "gguf",
            "model_family": spec.architecture,
            "model_families": [spec.architecture],
            "model_type": human_number(spec.parameters),
            "file_type": spec.quantization,
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
        }
    ).encode()
    return tuple(layers), Blob(MEDIA_CONFIG, config)


def manifest(layers: tuple[Blob, ...], config: Blob) -> bytes:
    """The registry's manifest of a model (Docker registry v2, schema 2)."""

    def entry(blob: Blob) -> dict[str, object]:
        return {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size}

    document = {
        "schemaVersion": 2,
        "mediaType": MEDIA_MANIFEST,
        "config": entry(config),
        "layers": [entry(layer) for layer in layers],
    }
    return json.dumps(document).encode()


class Facts(Protocol):
    """What is published about a model: the entries of `flexi.catalog.CATALOGUE` have it."""

    @property
    def weights_bytes(self) -> int: ...
    @property
    def architecture(self) -> str: ...
    @property
    def layers(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def context(self) -> int: ...
    @property
    def vocabulary(self) -> int: ...
    @property
    def experts(self) -> bool: ...
    @property
    def embedding(self) -> bool: ...
    @property
    def num_ctx(self) -> int | None: ...
    @property
    def tokens_per_second(self) -> float | None: ...


_TOOLS = ("command-r-plus", "mistral", "mixtral", "llama3.1", "qwen2.5", "qwen3")
_VISION = ("llava",)
_BITS_PER_WEIGHT = {"F16": 16.0, "Q4_K_M": 4.9, "Q4_0": 4.55}


def spec_of(name: str, facts: Facts) -> ModelSpec:
    """The simulated model for a published one. What the facts do not say follows from its family."""
    family = name.partition(":")[0]
    quantization = "F16" if facts.embedding else "Q4_K_M" if family.startswith(("llama3.1", "qwen")) else "Q4_0"
    return ModelSpec(
        architecture=facts.architecture,
        parameters=int(facts.weights_bytes * 8 / _BITS_PER_WEIGHT[quantization]),
        quantization=quantization,
        weights_bytes=facts.weights_bytes,
        layers=facts.layers,
        heads=facts.heads,
        heads_kv=facts.kv_heads,
        head_length=facts.head_dim,
        embedding_length=facts.width,
        context_length=facts.context,
        vocabulary=facts.vocabulary,
        experts=facts.experts,
        tokens_per_second=facts.tokens_per_second or (5000.0 if facts.embedding else 3e11 / facts.weights_bytes),
        embedding=facts.embedding,
        tools=family in _TOOLS,
        vision=family in _VISION,
        license=f"The license of {family}.",
        parameters_file={"num_ctx": facts.num_ctx} if facts.num_ctx else {"stop": ["<|end|>"]},
    )


def specs(facts: Mapping[str, Facts]) -> dict[str, ModelSpec]:
    """A registry's catalogue from published facts, by `model:tag`."""
    return {name: spec_of(name, entry) for name, entry in facts.items()}
