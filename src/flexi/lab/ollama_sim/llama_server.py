"""What is different from 0.30 on, when every model runs in a llama-server of its own: prediction and placement.

Sources at tag v0.32.15: server/sched.go (load, selectLlamaServerPlacement, automaticGenerationBatch,
availableMemoryForLoad), llm/llama_server.go (PredictServerVRAM). How llama-server itself spreads layers is llama.cpp's
affair; of that only its rule of thumb is here: in proportion to what is free, all of it if it fits. Sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import log
from .devices import MIB, Device
from .estimate import Demand, effective_context, weights_bytes
from .goformat import human_bytes2
from .options import Options
from .placement import NeedsEvictionError, Placement, TooLargeError
from .store import Model

FIRST = (0, 30)
HEADROOM_PERCENT = 80
"""A model counts as fitting when its prediction is no more than this of what is free."""
FIT_TARGET = 1024 * MIB
"""What llama-server leaves free on each device unless LLAMA_ARG_FIT_TARGET says otherwise (llama.cpp, --fit-target)."""


def predict(model: Model, num_ctx: int, parallel: int) -> int:
    """The memory that Ollama expects before it starts a llama-server: the file's size and an f16 KV cache."""
    layers = model.architecture_value("block_count", 0)
    heads = model.architecture_value("attention.head_count", 0)
    heads_kv = model.architecture_value("attention.head_count_kv", heads) or 1
    dimension = model.architecture_value("embedding_length", 0) // heads if heads else 0
    context = effective_context(model, num_ctx) * max(parallel, 1)
    return weights_bytes(model) + 2 * layers * heads_kv * dimension * context * 2


def select(devices: Sequence[Device], predicted: int, options: Options, spread: bool) -> Sequence[Device]:
    """The GPUs that the model's llama-server gets: one if the prediction fits there with headroom, or all."""
    main = options.runner.main_gpu
    if len(devices) <= 1:
        return devices
    if main is not None:
        if 0 <= main < len(devices):
            return devices[main : main + 1]
        log.warn("requested main_gpu is outside the selected GPU group; passing value through to llama-server",
                 main_gpu=main, gpu_count=len(devices))  # fmt: skip
        return devices
    roomy = [device for device in devices if predicted <= device.free * HEADROOM_PERCENT // 100]
    if spread or predicted <= 0 or not roomy:
        return devices
    best = max(roomy, key=lambda device: device.free)
    log.info(
        "selecting single GPU for llama-server model",
        main_gpu=0,
        id=best.uuid,
        filter_id="",
        library="CUDA",
        name=f"CUDA{best.ordinal}",
        description=best.name,
        integrated="false",
        predicted=human_bytes2(predicted),
        available=human_bytes2(best.free),
    )
    return (best,)


def check_room(predicted: int, devices: Sequence[Device], batch: int) -> None:
    """NeedsEvictionError where the model is not expected to fit beside those that are loaded."""
    free = sum(device.free for device in devices)
    needed = predicted + _batch_surcharge(batch)
    fits = needed <= free * HEADROOM_PERCENT // 100
    log.info(
        "llama-server model fits alongside existing models"
        if fits
        else "llama-server model predicted to exceed available memory, evicting",
        predicted=human_bytes2(needed),
        num_batch=batch,
        available=human_bytes2(free),
        gpu_free=human_bytes2(free),
    )
    if not fits:
        raise NeedsEvictionError


def batch_size(context: int, predicted: int, devices: Sequence[Device], flash: bool) -> int:
    """The batch that Ollama chooses where nobody did; `context` is that of all slots together."""
    free = sum(device.free for device in devices)
    if not flash and devices:
        return 512
    batch = 2048 if context > 32768 else 1024 if context > 4096 else 512
    while batch > 512 and not _batch_fits(batch, predicted, free):
        batch //= 2
    return batch


def _batch_fits(batch: int, predicted: int, free: int) -> bool:
    if predicted == 0 or free == 0:
        return True
    room = free * HEADROOM_PERCENT // 100
    share = 60 if batch >= 2048 else 75
    return predicted <= min(room, free * share // 100) and _batch_surcharge(batch) <= room - predicted


def _batch_surcharge(batch: int) -> int:
    return 2048 * MIB if batch >= 2048 else 768 * MIB if batch >= 1024 else 0


def fit(wanted: Demand, devices: Sequence[Device], requested_layers: int, memory_free: int) -> Placement:
    """What llama-server puts where: all layers in proportion to the free memory, or as many as there is room for.

    TooLargeError where main memory does not hold the rest.
    """
    layers = wanted.layers
    room = {device.uuid: max(device.free - FIT_TARGET - wanted.graph_full, 0) for device in devices}
    count = len(layers) if requested_layers < 0 else min(requested_layers, len(layers))
    while count and not _spread(layers[len(layers) - count :], room):
        count -= 1
    on_gpu = _spread(layers[len(layers) - count :], room) if count else {}
    by_gpu = {uuid: size + wanted.graph_full for uuid, size in on_gpu.items() if size}
    cpu = sum(layers[: len(layers) - count])
    if cpu > memory_free:
        raise TooLargeError(
            f"model requires more system memory ({human_bytes2(cpu)}) than is available ({human_bytes2(memory_free)})"
        )
    return Placement(by_gpu, cpu, count, len(layers))


def _spread(layers: Sequence[int], room: dict[str, int]) -> dict[str, int]:
    """Bytes for each GPU, in their order and in proportion to their room; empty where they do not all fit."""
    total = sum(room.values())
    if not total or sum(layers) > total:
        return {}
    taken = dict.fromkeys(room, 0)
    ends, end = [], 0.0
    for uuid, space in room.items():
        end += space / total
        ends.append((end, uuid))
    for number, size in enumerate(layers):
        share = number / len(layers)
        # The one whose share it is, or the next that still has room.
        order = [uuid for end, uuid in ends if share < end] + [uuid for end, uuid in ends if share >= end]
        place = next((uuid for uuid in order if taken[uuid] + size <= room[uuid]), None)
        if place is None:
            return {}
        taken[place] += size
    return taken
