"""How much memory a model needs, by Ollama's own estimate. Source: fs/ggml/ggml.go (GraphSize), llm/server.go (Load).

This is the estimate of the llama engine, which runs all the models of the FLEXI paper. All sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import catalogue
from .store import Model

BYTES_PER_ELEMENT = {"f16": 2.0, "q8_0": 1.0, "q4_0": 0.5}


@dataclass(frozen=True)
class Demand:
    """What a model needs on whatever device it lands."""

    layers: tuple[int, ...]
    """Weights and KV cache of each layer, the output layer last."""
    graph_full: int
    """Compute graph on every GPU that is used, when all layers are on GPUs …"""
    graph_partial: int
    """… and when some are not."""


def weights_bytes(model: Model) -> int:
    """What the weights take: what the simulated model says, or the size of its file."""
    stated = model.values.get(catalogue.WEIGHTS_KEY)
    return int(stated) if stated is not None else model.path.stat().st_size


def effective_context(model: Model, num_ctx: int) -> int:
    """Tokens for each request: no more than the model was trained for."""
    trained = model.architecture_value("context_length", 0)
    return min(num_ctx, trained) if trained > 0 else num_ctx


def estimate(model: Model, num_ctx: int, num_batch: int, parallel: int, cache_type: str) -> Demand:
    """The demand at `num_ctx` tokens for each of `parallel` requests; `cache_type` is f16, q8_0 or q4_0."""
    value = model.architecture_value
    blocks = max(value("block_count", 1), 1)
    per_slot = effective_context(model, num_ctx)
    batch = per_slot if "embedding" in model.capabilities else min(num_batch, per_slot)
    context = per_slot * parallel
    embedding = value("embedding_length", 0)
    heads = max(value("attention.head_count", 1), 1)
    heads_kv = max(value("attention.head_count_kv", heads), 1)
    key = value("attention.key_length", embedding // heads)
    length = value("attention.value_length", embedding // heads)
    vocabulary = int(model.values.get(catalogue.VOCABULARY_KEY, 0))

    cache = int(context * (key + length) * heads_kv * BYTES_PER_ELEMENT.get(cache_type, 2.0))
    weights = weights_bytes(model)
    weight = weights // (blocks + 1)
    layers = (*(weight + cache for _ in range(blocks)), weights - weight * blocks)

    wide = 4 * batch * (embedding + vocabulary)
    output = wide + embedding * vocabulary * 105 // 128
    attention = context * (1 + heads)
    square = embedding * embedding * 9 // 16
    per_head = embedding // heads
    architecture = model.values.get("general.architecture")
    if architecture == "llama":
        full = max(4 * batch * (1 + 4 * embedding + attention), wide)
        partial = 4 * batch * embedding + max(
            4 * batch * (1 + embedding + max(context, embedding))
            + square
            + 4 * context * (batch * heads + per_head * heads_kv),
            output,
        )
        if value("expert_count", 0):
            # Three expert tensors are nearly all of a layer's weights.
            partial = max(
                weight + 4 * batch * (8 * embedding + heads_kv + embedding + context + per_head * heads_kv),
                4 * (context * batch * heads + context * per_head * heads_kv + batch * 1024),
            )
    elif architecture == "gemma":
        full = max(wide, 4 * batch * (2 + attention + 2 * embedding + 2 * key * heads))
        partial = max(
            output,
            4 * batch * (2 * embedding + 1 + 2 * key * heads + attention)
            + 4 * key * context * 8
            + embedding * key * heads * 9 // 16,
        )
    elif architecture == "command-r":
        full = max(wide, 4 * batch * (2 + 4 * embedding + attention))
        partial = max(output, 4 * batch * (1 + 2 * embedding + attention) + 4 * embedding * context + square)
    elif architecture == "qwen2":
        full = max(wide, 4 * batch * (1 + 2 * embedding + attention))
        partial = max(output, 4 * (batch * (1 + 2 * embedding + attention) + embedding * (1 + context)))
    else:
        full = partial = heads // heads_kv * cache * blocks // 6
    return Demand(layers, full, partial)
