"""The arithmetic of VRAM, against figures computed by hand from published numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from flexi.catalog import CATALOGUE, ModelFacts
from flexi.catalog.fit import CONTEXT_BYTES, MIB, Load, fit, load, order_that_fits
from flexi.lab.ollama_sim import catalogue, estimate
from flexi.lab.ollama_sim.store import Model

A5000 = 24564 * MIB
A40 = 46068 * MIB

# Bytes of KV cache for one token at f16: 2 (K and V) x layers x kv_heads x head_dim x 2 bytes.
KV_PER_TOKEN = {
    "llama3:8b": 131_072,  # 2 x 32 x 8 x 128 x 2
    "mistral:7b": 131_072,  # the same shape
    "gemma:7b": 458_752,  # 2 x 28 x 16 x 256 x 2: no grouped queries, long heads
    "phi3:3.8b": 393_216,  # 2 x 32 x 32 x 96 x 2
    "llava:13b": 819_200,  # 2 x 40 x 40 x 128 x 2
    "mixtral:8x22b": 229_376,  # 2 x 56 x 8 x 128 x 2
    "command-r-plus:104b": 262_144,  # 2 x 64 x 8 x 128 x 2
    "dbrx:132b": 163_840,  # 2 x 40 x 8 x 128 x 2
    "nomic-embed-text:latest": 36_864,  # 2 x 12 x 12 x 64 x 2
}


@pytest.mark.parametrize(("name", "expected"), KV_PER_TOKEN.items())
def test_kv_cache_of_one_token(name: str, expected: int) -> None:
    assert Load(name, CATALOGUE[name], 1, 1, "f16").kv_bytes == expected


def test_kv_cache_grows_with_context_and_slots_and_shrinks_with_precision() -> None:
    facts = CATALOGUE["llama3:8b"]
    assert load("x", facts, 8192, 2, "f16").kv_bytes == 131_072 * 8192 * 2 == 2_147_483_648
    assert load("x", facts, 8192, 2, "q8_0").kv_bytes == 1_073_741_824
    assert load("x", facts, 8192, 2, "q4_0").kv_bytes == 536_870_912


def test_context_is_cut_to_what_the_model_was_trained_for() -> None:
    assert load("x", CATALOGUE["llava:13b"], 8192, 1, "f16").context == 4096
    assert load("x", CATALOGUE["llama3:8b"], 2048, 1, "f16").context == 2048


def test_embedding_models_have_one_slot_an_f16_cache_and_their_own_num_ctx() -> None:
    loaded = load("x", CATALOGUE["nomic-embed-text:latest"], 512, 4, "q8_0")
    assert (loaded.parallel, loaded.kv_cache, loaded.context) == (1, "f16", 2048)


def test_models_without_flash_attention_keep_an_f16_cache() -> None:
    gemma2 = CATALOGUE["gemma:7b"].model_copy(update={"architecture": "gemma2"})
    assert load("x", gemma2, 8192, 2, "q8_0").kv_cache == "f16"


def test_some_architectures_have_one_slot() -> None:
    facts = CATALOGUE["llama3:8b"].model_copy(update={"architecture": "qwen3next"})
    assert load("x", facts, 8192, 4, "f16").parallel == 1


def test_graph_of_llama() -> None:
    """4 x 512 x (1 + 4 x 4096 + 16384 x 33), by hand from GraphSize; the partial one is a little larger."""
    full = 4 * 512 * (1 + 4 * 4096 + 16384 * 33)
    assert full == 1_140_852_736
    partial = 4 * 512 * 4096 + 4 * 512 * (1 + 4096 + 16384) + 4096**2 * 9 // 16 + 4 * 16384 * (512 * 32 + 128 * 8)
    assert load("x", CATALOGUE["llama3:8b"], 8192, 2, "f16").graph_bytes == max(full, partial) == 1_200_621_568


def test_graph_of_an_architecture_without_a_formula() -> None:
    """dbrx: 48 / 8 = 6 queries for each key, so 6 x cache / 6."""
    loaded = load("x", CATALOGUE["dbrx:132b"], 8192, 1, "f16")
    assert loaded.graph_bytes == loaded.kv_bytes == 163_840 * 8192


def test_layers_sum_up() -> None:
    loaded = load("x", CATALOGUE["llama3:8b"], 8192, 2, "f16")
    assert len(loaded.layer_bytes) == 33
    assert sum(loaded.layer_bytes) == 4_661_211_808 + 2_147_483_648


def one(layers: int = 9, layer: int = 1_000_000_000) -> Load:
    """A model of `layers` blocks and an output layer of `layer` bytes each, nearly without a cache and a graph."""
    facts = ModelFacts(weights_bytes=(layers + 1) * layer, layers=layers, heads=1, kv_heads=1, head_dim=1, context=256)
    return load("one", facts, 256, 1, "f16")


def room_for(count: int) -> int:
    """A card that holds exactly `count` layers of `one()`, beside the buffer and the CUDA context."""
    slack = 20_000_000
    return int(((count + 1) * 1_000_000_000 + CONTEXT_BYTES + slack) / 0.98)


def test_the_fewest_cards_are_taken() -> None:
    result = fit([one()], [room_for(10)] * 4)
    assert [placed.gpus for placed in result.placed] == [1]
    result = fit([one()], [room_for(9)] * 4)
    assert [placed.gpus for placed in result.placed] == [2]
    used = [u for u in result.used_by_gpu if u]
    assert abs(used[0] - used[1]) < 1_000_000_000, "the layers are spread evenly over them"


def test_a_layer_is_never_split() -> None:
    """Ten layers on three cards that hold three each: nine fit, though the memory would do for more."""
    assert fit([one()], [room_for(4)] * 3).missing is None
    assert fit([one()], [room_for(3)] * 3).missing is not None
    assert sum([room_for(3)] * 3) > 10 * 1_000_000_000


def test_newer_ollama_spreads_over_all_cards() -> None:
    card = int(1.1 * room_for(9))
    assert fit([one()], [card] * 4).placed[0].gpus == 1
    assert fit([one()], [card] * 4, packs=False).placed[0].gpus == 4
    assert fit([one()], [2 * card] * 4, packs=False).placed[0].gpus == 1


def test_models_beside_each_other_take_the_emptiest_card() -> None:
    result = fit([one(), one()], [room_for(10)] * 2)
    assert result.missing is None
    assert result.placed[0].bytes_by_gpu[0]
    assert result.placed[1].bytes_by_gpu[1]


def at(name: str) -> Load:
    return load(name, CATALOGUE[name], 4096, 1, "f16")


def test_models_are_loaded_in_the_order_that_is_given() -> None:
    order = ["phi3:3.8b", "gemma:7b"]
    assert [p.load.name for p in fit([at(name) for name in order], [A5000]).placed] == order


def test_an_order_can_fit_where_another_does_not() -> None:
    """Small ones take a card each; dbrx, 74 GB on two cards of 48 GB, then has too little on either."""
    small_first = [at(name) for name in ("llama3:8b", "gemma:7b", "dbrx:132b")]
    missing = fit(small_first, [A40] * 2).missing
    assert missing is not None
    assert missing.name == "dbrx:132b"
    ordered = order_that_fits(small_first, [A40] * 2)
    assert ordered is not None
    assert [item.name for item in ordered] == ["dbrx:132b", "gemma:7b", "llama3:8b"]
    assert fit(ordered, [A40] * 2).missing is None
    assert order_that_fits(ordered, [A40] * 2) is None, "it fits as it is"
    assert order_that_fits(small_first, [A5000]) is None, "no order fits"


def test_tight() -> None:
    assert fit([one()], [room_for(10)]).tight
    assert not fit([one()], [room_for(11)]).tight


@pytest.mark.parametrize(
    ("models", "cards", "fits"),
    [
        (["llama3:8b"], [A5000], True),
        (["qwen2.5:32b"], [A5000], True),
        (["qwen2.5:32b", "llama3:8b"], [A5000], False),
        (["mixtral:8x22b"], [A40] * 2, True),
        (["mixtral:8x22b", "llama3:8b", "gemma:7b"], [A40] * 2, False),
        (["mixtral:8x22b"], [A5000] * 3, False),
        (["mixtral:8x22b"], [A5000] * 4, True),
        (["dbrx:132b"], [A40] * 2, True),
        (["command-r-plus:104b"], [A5000] * 3, False),
        (["command-r-plus:104b"], [A5000] * 4, True),
    ],
)
def test_the_papers_models_on_the_papers_cards(models: list[str], cards: list[int], fits: bool) -> None:
    loads = [load(name, CATALOGUE[name], 8192, 1, "f16") for name in models]
    assert (fit(loads, cards).missing is None) is fits


def test_nothing_takes_more_than_a_card_has() -> None:
    loads = [load(name, CATALOGUE[name], 4096, 1, "q8_0") for name in list(CATALOGUE)[:8]]
    result = fit(loads, [A5000] * 16)
    assert result.missing is None
    assert all(0 <= used <= A5000 for used in result.used_by_gpu)
    assert sum(result.used_by_gpu) > sum(item.facts.weights_bytes + item.kv_bytes for item in loads)


def has_a_formula(name: str) -> bool:
    """Whether the simulator reckons this architecture by a formula of its own."""
    architecture = catalogue.model_values(catalogue.specs({name: CATALOGUE[name]})[name])["general.architecture"]
    return architecture in ("llama", "gemma", "command-r", "dbrx", "phi3", "nomic-bert")


@pytest.mark.parametrize("name", [name for name in CATALOGUE if has_a_formula(name)])
@pytest.mark.parametrize("slots", [1, 3])
def test_the_simulated_ollama_reckons_the_same(name: str, slots: int) -> None:
    """Two readings of Ollama's source, made apart from each other."""
    facts = CATALOGUE[name]
    values = catalogue.model_values(catalogue.specs({name: facts})[name])
    ours = load(name, facts, 8192, slots, "f16")

    def value(key: str, default: int) -> int:
        found = values.get(f"{values['general.architecture']}.{key}", default)
        assert isinstance(found, int)
        return found

    model = SimpleNamespace(
        values=values, capabilities=["embedding"] if facts.embedding else [], path=None, architecture_value=value
    )
    theirs = estimate.estimate(cast(Model, model), ours.context, 512, ours.parallel, "f16")
    assert theirs.layers == ours.layer_bytes
    assert max(theirs.graph_full, theirs.graph_partial) == pytest.approx(ours.graph_bytes, rel=0.002)
