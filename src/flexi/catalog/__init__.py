"""Published figures that the plan computes with, read once from the YAML files beside this module.

Importing this module does the only input: whoever computes takes `CATALOGUE` and `GPU_MEMORY_MIB` as plain data.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ruamel.yaml import YAML


class ModelFacts(BaseModel):
    """What has to be known about a model to say where it fits. Shapes as in the model's GGUF header."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    weights_bytes: int = Field(
        gt=0,
        description="Bytes of the weights: the sum of the layers that Ollama downloads (see `size` in `/api/tags`).",
        examples=[4661211808],
    )
    layers: int = Field(gt=0, le=1000, description="Transformer blocks (`block_count`).", examples=[32])
    heads: int = Field(gt=0, le=1024, description="Attention heads (`attention.head_count`).", examples=[32])
    kv_heads: int = Field(
        gt=0, le=1024, description="Heads that have keys and values of their own (`head_count_kv`).", examples=[8]
    )
    head_dim: int = Field(
        gt=0, le=4096, description="Length of one key or value vector (`attention.key_length`).", examples=[128]
    )
    context: int = Field(gt=0, description="Tokens that the model was trained for (`context_length`).", examples=[8192])
    architecture: str = Field(
        default="unknown",
        pattern=r"^[a-z0-9_-]{1,40}$",
        description="`general.architecture`; Ollama's memory estimate depends on it.",
        examples=["llama"],
    )
    embedding_length: int | None = Field(
        default=None, gt=0, description="Width of the model; default heads × head_dim.", examples=[4096]
    )
    vocabulary: int = Field(default=128_256, gt=0, description="Tokens in the vocabulary.", examples=[128256])
    experts: bool = Field(default=False, description="True for a mixture of experts.")
    embedding: bool = Field(default=False, description="True for a model that only makes embeddings.")
    num_ctx: int | None = Field(
        default=None,
        gt=0,
        description="A num_ctx that the model's published parameters set: it wins over the group's context.",
    )
    parameters: str | None = Field(default=None, description="Size as people say it.", examples=["8B"])
    tokens_per_second: float | None = Field(
        default=None, gt=0, description="Measured single-stream rate, for plausibility checks.", examples=[82.0]
    )
    source: str | None = Field(default=None, description="Where the figures come from.")

    @property
    def width(self) -> int:
        return self.embedding_length or self.heads * self.head_dim


def _text(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _read(name: str) -> dict[str, Any]:
    text = _text(name)
    loaded: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return loaded


CATALOGUE: Mapping[str, ModelFacts] = MappingProxyType(
    {name: ModelFacts.model_validate(facts) for name, facts in _read("models.yaml").items()}
)
"""Models by full name with tag."""

GPU_MEMORY_MIB: Mapping[str, int] = MappingProxyType(
    {name: int(facts["memory_mib"]) for name, facts in _read("gpus.yaml").items()}
)
"""Total memory of a card in MiB, as nvidia-smi shows it, by the name in nvidia-smi without the maker's."""

CHAT_RELEASES = ("0.12.3", "0.12.4")
"""Of Open WebUI, oldest first, whose packages flexi has a lock of."""


def chat_lock(version: str) -> str:
    """All Python packages of a release of Open WebUI but those of chat/left-out.txt, pinned by hash, for pip and uv on
    Python 3.11 and 3.12. KeyError for a release that is none of CHAT_RELEASES."""
    if version not in CHAT_RELEASES:
        raise KeyError(version)
    return _text(f"chat/{version}.lock")


def uv_lock() -> str:
    """uv, which installs them, pinned by hash."""
    return _text("chat/uv.lock")
