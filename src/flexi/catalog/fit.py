"""Does a group's set of models fit into its VRAM, and on how many cards? Computed as Ollama computes it.

Where each number comes from (Ollama v0.24.0):
- KV cache: layers × kv_heads × (K + V) × head_dim × bytes × tokens, with tokens = context × parallel
  (fs/ggml/ggml.go GraphSize; 2 bytes for f16, 1 for q8_0, half for q4_0: kvCacheBytesPerElement).
- Compute graph, on every card that a model uses: GraphSize for the architectures listed in `_graph`, for the others
  gqa × KV cache / 6 (llm/server.go Load). Batch 512 (api/types.go DefaultOptions). These are Ollama's own estimates,
  which decide the placement; with flash attention the real use is lower.
- 457 MiB on every card for the CUDA context (ml/device.go MinimumMemory), and the size of one layer kept free as a
  buffer (llm/server.go Load).
- Placement: the fewest cards that hold all layers, those with most free memory first, the layers spread evenly over
  them (assignLayers, findBestFit). From 0.30 on: one card where the model takes at most 80 % of its free memory,
  else all.
- Free memory of an idle card: its total less 2 % that the driver keeps for itself (nvidia-smi -q "Reserved" of idle
  Ampere cards; an estimate). Other programs on the card are not counted: flexi owns its cards.
- Models load one after the other, in the order of the site file: flexi-agent sees to that after every start.

All sizes are bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from flexi.catalog import ModelFacts

MIB = 1024 * 1024
CONTEXT_BYTES = 457 * MIB
DRIVER_SHARE = 0.02
BATCH = 512
TIGHT_SHARE = 0.02
"""A group that no longer fits with this much less memory is called tight."""

KV_BYTES = {"f16": 2.0, "q8_0": 1.0, "q4_0": 0.5}

SERIAL_ARCHITECTURES = frozenset(
    {
        *("mllama", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen3next", "lfm2", "lfm2moe"),
        *("nemotron_h", "nemotron_h_moe", "nemotron_h_omni"),
    }
)
"""Architectures that Ollama runs with one slot whatever OLLAMA_NUM_PARALLEL says (server/sched.go load)."""

NO_FLASH_ATTENTION = frozenset({"gemma2", "grok"})
"""Run without flash attention, and so with an f16 cache (fs/ggml/ggml.go SupportsFlashAttention)."""


@dataclass(frozen=True)
class Load:
    """A model as a group loads it."""

    name: str
    facts: ModelFacts
    context: int
    parallel: int
    kv_cache: str

    @property
    def kv_bytes(self) -> int:
        per_token = self.facts.layers * 2 * self.facts.kv_heads * self.facts.head_dim * KV_BYTES[self.kv_cache]
        return int(per_token * self.context * self.parallel)

    @property
    def layer_bytes(self) -> tuple[int, ...]:
        """One entry for each block and one for the output layer, weights spread evenly."""
        blocks = self.facts.layers
        weight = self.facts.weights_bytes // (blocks + 1)
        cache = self.kv_bytes // blocks
        return (*([weight + cache] * blocks), self.facts.weights_bytes - weight * blocks)

    @property
    def graph_bytes(self) -> int:
        return _graph(self)


def load(name: str, facts: ModelFacts, context: int, parallel: int, kv_cache: str) -> Load:
    """What becomes of the group's settings for this model: Ollama cuts the context to what the model was trained for,
    runs embedding models and some architectures with one slot, and quantizes no cache without flash attention."""
    serial = facts.embedding or facts.architecture in SERIAL_ARCHITECTURES
    plain = facts.embedding or facts.architecture in NO_FLASH_ATTENTION
    return Load(
        name,
        facts,
        context=min(facts.num_ctx or context, facts.context),
        parallel=1 if serial else parallel,
        kv_cache="f16" if plain else kv_cache,
    )


def _graph(load: Load) -> int:
    """The larger of GraphSize's full and partial offload: before it knows how many cards it takes, Ollama reckons with
    that (llm/server.go Load)."""
    facts = load.facts
    width, vocabulary, heads = facts.width, facts.vocabulary, facts.heads
    head, keys = facts.head_dim, facts.head_dim * facts.kv_heads
    tokens = load.context * load.parallel
    batch = load.context if facts.embedding else min(BATCH, load.context)
    output = 4 * batch * (width + vocabulary)
    offloaded_output = output + width * vocabulary * 105 // 128
    square = width * width * 9 // 16
    match facts.architecture:
        case "llama" | "llama4":
            full = 4 * batch * (1 + 4 * width + tokens * (1 + heads))
            if facts.experts:
                # Three expert tensors of a block are nearly all of its weights; a feed-forward is up to 4 widths long.
                block = facts.weights_bytes // (facts.layers + 1)
                partial = max(
                    block + 4 * batch * (8 * width + facts.kv_heads + width + tokens + keys),
                    4 * (tokens * batch * heads + tokens * keys + batch * 1024 + keys * batch),
                )
            else:
                attention = 4 * batch * (1 + width + max(tokens, width)) + square + 4 * tokens * (batch * heads + keys)
                partial = 4 * batch * width + max(attention, offloaded_output)
        case "gemma" | "gemma2" | "gemma3" | "gemma3n":
            full = 4 * batch * (2 + tokens * (1 + heads) + 2 * width + 2 * head * heads)
            attention = 4 * batch * (2 * width + 1 + 2 * head * heads + tokens * (1 + heads)) + 4 * head * tokens * 8
            partial = max(offloaded_output, attention + width * head * heads * 9 // 16)
        case "command-r":
            full = 4 * batch * (2 + 4 * width + tokens * (1 + heads))
            attention = 4 * batch * (1 + 2 * width + tokens * (1 + heads)) + 4 * width * tokens + square
            partial = max(offloaded_output, attention)
        case "qwen2":
            full = 4 * batch * (1 + 2 * width + tokens * (1 + heads))
            attention = 4 * (batch * (1 + 2 * width + tokens * (1 + heads)) + width * (1 + tokens))
            partial = max(offloaded_output, attention)
        case _:
            return heads // facts.kv_heads * load.kv_bytes // 6
    return max(full, partial, output)


@dataclass(frozen=True)
class Placed:
    """A model on its cards: bytes on each card of the group, zero where it is not."""

    load: Load
    bytes_by_gpu: tuple[int, ...]

    @property
    def gpus(self) -> int:
        return sum(1 for used in self.bytes_by_gpu if used)


@dataclass(frozen=True)
class Fit:
    """The result for a group. `missing` is the first model that found no room, and None where all did."""

    gpu_bytes: tuple[int, ...]
    placed: tuple[Placed, ...]
    missing: Load | None
    tight: bool = False

    @property
    def used_by_gpu(self) -> tuple[int, ...]:
        return tuple(sum(column) for column in zip(*(p.bytes_by_gpu for p in self.placed), strict=True)) or tuple(
            0 for _ in self.gpu_bytes
        )

    @property
    def free_bytes(self) -> int:
        return sum(self.gpu_bytes) - sum(self.used_by_gpu)


def fit(loads: Sequence[Load], gpu_bytes: Sequence[int], *, packs: bool = True) -> Fit:
    """Load all models, in this order, onto cards of `gpu_bytes` each. `packs`: the fewest cards (before 0.30)."""
    result = _fit(loads, gpu_bytes, packs, 1.0)
    if result.missing is not None:
        return result
    spare = _fit(loads, gpu_bytes, packs, 1.0 - TIGHT_SHARE)
    return Fit(result.gpu_bytes, result.placed, None, tight=spare.missing is not None)


def order_that_fits(loads: Sequence[Load], gpu_bytes: Sequence[int], *, packs: bool = True) -> tuple[Load, ...] | None:
    """The largest first, where that fits and the given order does not: what is left then suits the small ones."""
    if _fit(loads, gpu_bytes, packs, 1.0).missing is None:
        return None
    ordered = tuple(sorted(loads, key=lambda item: -(item.facts.weights_bytes + item.kv_bytes)))
    return ordered if _fit(ordered, gpu_bytes, packs, 1.0).missing is None else None


def _fit(loads: Sequence[Load], gpu_bytes: Sequence[int], packs: bool, share: float) -> Fit:
    free = [int(total * (1 - DRIVER_SHARE) * share) for total in gpu_bytes]
    placed: list[Placed] = []
    for item in loads:
        used = _place(item, free, packs)
        if used is None:
            return Fit(tuple(gpu_bytes), tuple(placed), item)
        free = [have - taken for have, taken in zip(free, used, strict=True)]
        placed.append(Placed(item, used))
    return Fit(tuple(gpu_bytes), tuple(placed), None)


def _place(item: Load, free: Sequence[int], packs: bool) -> tuple[int, ...] | None:
    """Bytes on each card, or None where not all layers find room."""
    layers, overhead = item.layer_bytes, item.graph_bytes + CONTEXT_BYTES
    room = [max(0, have - overhead - layers[0]) for have in free]
    by_room = sorted(range(len(free)), key=lambda index: -free[index])
    if packs:
        choices = [by_room[:count] for count in range(1, len(by_room) + 1)]
    else:
        alone = sum(layers) + overhead <= 0.8 * free[by_room[0]]
        choices = [by_room[:1] if alone else by_room]
    for cards in choices:
        counts = _spread(layers, [room[index] for index in cards])
        if counts is None:
            continue
        used = [0] * len(free)
        start = 0
        for index, count in zip(cards, counts, strict=True):
            if count:
                used[index] = sum(layers[start : start + count]) + overhead
            start += count
        return tuple(used)
    return None


def _spread(layers: Sequence[int], room: Sequence[int]) -> list[int] | None:
    """Layers for each card, filled to the smallest equal share of their room that holds all; None where none does."""
    best = _greedy(layers, room, 1.0)
    if best is None:
        return None
    low, high = 0.0, 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        attempt = _greedy(layers, room, middle)
        if attempt is None:
            low = middle
        else:
            high, best = middle, attempt
    return best


def _greedy(layers: Sequence[int], room: Sequence[int], share: float) -> list[int] | None:
    counts = [0] * len(room)
    card, space = 0, math.floor(room[0] * share)
    for size in layers:
        while size > space:
            card += 1
            if card == len(room):
                return None
            space = math.floor(room[card] * share)
        space -= size
        counts[card] += 1
    return counts
