"""Which layers go on which GPU. Source: llm/server.go (createLayout, assignLayers, findBestFit, greedyFit).

0.24.0 packs a model onto the fewest GPUs that hold it, the one with most free memory first, and spreads it evenly
over those. What fits nowhere stays on the CPU. All sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .devices import MINIMUM_MEMORY, Device
from .estimate import Demand
from .goformat import human_bytes2


class NeedsEvictionError(Exception):
    """It does not fit beside the models that are loaded."""


class TooLargeError(Exception):
    """It does not fit into main memory either."""


@dataclass(frozen=True)
class Placement:
    by_gpu: Mapping[str, int]
    """UUID to bytes, for the GPUs that are used."""
    cpu: int
    gpu_layers: int
    layers: int

    @property
    def vram(self) -> int:
        return sum(self.by_gpu.values())

    @property
    def total(self) -> int:
        return self.vram + self.cpu

    @property
    def gpu_share(self) -> float:
        """Between 0 (all on the CPU) and 1 (all on GPUs)."""
        return self.gpu_layers / self.layers


def place(
    wanted: Demand,
    devices: Sequence[Device],
    *,
    require_full: bool,
    requested_layers: int,
    spread: bool,
    overhead: int,
    memory_free: int,
) -> Placement:
    """Lay the model out on `devices`.

    `require_full` says that other models are loaded: then all must fit, or NeedsEvictionError. `requested_layers` is
    num_gpu (-1: as many as fit), `overhead` is OLLAMA_GPU_OVERHEAD, `memory_free` is main memory.
    """
    layers = wanted.layers
    ordered = sorted(devices, key=lambda device: device.free, reverse=True)
    graph = max(wanted.graph_full, wanted.graph_partial)
    # A GPU needs room for the graph only once it is used: go round until no more GPUs come into play.
    with_graph: set[str] = set()
    while True:
        free = {}
        for device in ordered:
            # One layer is kept as a buffer on every GPU.
            reserved = layers[0] + MINIMUM_MEMORY + overhead + (graph if device.uuid in with_graph else 0)
            free[device.uuid] = max(device.free - reserved, 0)
        least = max((i for i, device in enumerate(ordered) if device.uuid in with_graph), default=0) + 1
        assigned = _assign(layers, free, least, require_full, requested_layers, spread)
        used = {uuid for uuid, chosen in assigned.items() if chosen}
        if len(used) <= len(with_graph):
            break
        with_graph = used

    on_gpu = {i for chosen in assigned.values() for i in chosen}
    graph = wanted.graph_full if len(on_gpu) == len(layers) else wanted.graph_partial
    by_gpu = {uuid: sum(layers[i] for i in chosen) + graph for uuid, chosen in assigned.items() if chosen}
    cpu = sum(size for i, size in enumerate(layers) if i not in on_gpu)
    if require_full:
        short = len(on_gpu) < (len(layers) if requested_layers < 0 else min(requested_layers, len(layers)))
        if (devices and short) or cpu > memory_free:
            raise NeedsEvictionError
    if cpu > memory_free:
        raise TooLargeError(
            f"model requires more system memory ({human_bytes2(cpu)}) than is available ({human_bytes2(memory_free)})"
        )
    return Placement(by_gpu, cpu, len(on_gpu), len(layers))


def _assign(
    layers: Sequence[int], free: Mapping[str, int], least: int, require_full: bool, requested: int, spread: bool
) -> dict[str, list[int]]:
    """Layers for each GPU, on as few GPUs as hold them all but on `least` at the least."""
    gpus = list(free)
    best: dict[str, list[int]] = {}
    # If not everything fits, rather leave the output layer out.
    for usable in (len(layers), len(layers) - 1):
        wanted = min(usable, requested) if requested >= 0 else -1
        counts = [len(gpus)] if spread else range(least, len(gpus) + 1)
        for count in counts:
            force = not require_full and count == len(gpus)
            best = _best_fit(layers[:usable], {uuid: free[uuid] for uuid in gpus[:count]}, wanted, force)
            placed = sum(map(len, best.values()))
            if placed in (usable, wanted):
                break
        if sum(map(len, best.values())) == len(layers):
            return best
    return best


def _best_fit(layers: Sequence[int], free: Mapping[str, int], requested: int, force: bool) -> dict[str, list[int]]:
    """The evenest layout that holds as many layers as possible: the smallest share of each GPU that still does."""
    high = 1000.0 if requested >= 0 and force else 1.0
    low = 0.0
    best = _greedy(layers, free, high, requested)
    most = sum(map(len, best.values()))
    while high - low > 1e-6:
        middle = (low + high) / 2
        attempt = _greedy(layers, free, middle, requested)
        if sum(map(len, attempt.values())) == most:
            high, best = middle, attempt
        else:
            low = middle
    return best


def _greedy(layers: Sequence[int], free: Mapping[str, int], capacity: float, requested: int) -> dict[str, list[int]]:
    """Fill GPUs from the last layer backwards, the last GPU first, each up to `capacity` of its free memory."""
    assigned: dict[str, list[int]] = {uuid: [] for uuid in free}
    gpus = list(free)
    device = len(gpus) - 1
    if device < 0:
        return assigned
    space = free[gpus[device]] * capacity
    for i in range(len(layers) - 1, -1, -1):
        if requested >= 0 and len(layers) - 1 - i >= requested:
            break
        while device >= 0:
            if layers[i] <= space:
                assigned[gpus[device]].append(i)
                space -= layers[i]
                break
            device -= 1
            if device >= 0:
                space = free[gpus[device]] * capacity
        if device < 0:
            break
    return assigned
