"""The environment of an instance: every variable of Ollama that matters, set on purpose.

Names and meanings: envconfig/config.go of Ollama v0.24.0. CUDA_VISIBLE_DEVICES is missing here: it needs the UUIDs,
which only the host knows.
"""

from __future__ import annotations

from flexi.plan.model.base import ProxyPlan

LOAD_TIMEOUT = "15m"
MAX_QUEUE = 512


def instance_environment(
    *,
    port: int,
    home: str,
    store: str,
    context: int,
    parallel: int,
    models: int,
    kv_cache: str,
    origins: tuple[str, ...],
    proxy: ProxyPlan | None = None,
) -> tuple[tuple[str, str], ...]:
    """Name and value of each variable, in the order in which they are written."""
    return (
        # Its own home: `ollama serve` makes a key pair there, and two first starts in one home would race.
        ("HOME", home),
        # All addresses: nftables lets only the gateway in; bound to loopback Ollama would refuse other Host names.
        ("OLLAMA_HOST", f"0.0.0.0:{port}"),
        # A store of its own holds placement: an instance can only load what lies there.
        ("OLLAMA_MODELS", store),
        # For ever; in the environment -1 is right (in a request the text "-1" is an error).
        ("OLLAMA_KEEP_ALIVE", "-1"),
        # Unset, the context follows the sum of the VRAM: up to 262144 tokens, and the models no longer fit.
        ("OLLAMA_CONTEXT_LENGTH", str(context)),
        # The default is 1. Each slot has a context in VRAM; the gateway sends no more than this.
        ("OLLAMA_NUM_PARALLEL", str(parallel)),
        # Exactly the planned ones: the default of three for each card would throw planned models out or let others in.
        ("OLLAMA_MAX_LOADED_MODELS", str(models)),
        # Counts only requests that wait for a model to load; the queue for a loaded one is at the gateway.
        ("OLLAMA_MAX_QUEUE", str(MAX_QUEUE)),
        # Less VRAM and faster on long contexts; models that cannot are run without. Needed for a quantized cache.
        ("OLLAMA_FLASH_ATTENTION", "1"),
        ("OLLAMA_KV_CACHE_TYPE", kv_cache),
        # How long a load may stand still: 80 GB from a cold disk or over a network file system take their time.
        ("OLLAMA_LOAD_TIMEOUT", LOAD_TIMEOUT),
        # The fewest cards for each model: more fit beside each other, and one stream gains nothing by more cards.
        ("OLLAMA_SCHED_SPREAD", "0"),
        # Each store has one writer, so clearing what no model uses at the start is safe and keeps the disk free.
        ("OLLAMA_NOPRUNE", "0"),
        # No remote models: prompts stay in the house.
        ("OLLAMA_NO_CLOUD", "1"),
        # At higher levels prompts reach the log, and this one writes them to disk (data protection).
        ("OLLAMA_DEBUG", "0"),
        ("OLLAMA_DEBUG_LOG_REQUESTS", "0"),
        # Only the NVIDIA cards of the group: no integrated graphics by way of Vulkan.
        ("OLLAMA_VULKAN", "0"),
        # Pages in a browser may use the API under the gateway's own name.
        ("OLLAMA_ORIGINS", ",".join(origins)),
        # The order of nvidia-smi, so that an index means the same card everywhere.
        ("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
        *_pulls_through(proxy),
    )


def _pulls_through(proxy: ProxyPlan | None) -> tuple[tuple[str, str], ...]:
    """Never HTTP_PROXY, which "may interrupt client connections to the server" (docs/faq.mdx of v0.24.0)."""
    if proxy is None or proxy.https is None:
        return ()
    return ("HTTPS_PROXY", proxy.https), ("NO_PROXY", ",".join(proxy.direct))
