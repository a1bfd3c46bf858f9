"""The server's environment. Source: envconfig/config.go, at v0.24.0 and, for versions from 0.30, at v0.32.15."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import log
from .goformat import FOREVER, MINUTE, SECOND, format_duration, parse_duration
from .version import VERSION, at_least

DEFAULT_PORT = 11434


@dataclass(frozen=True)
class Environment:
    """Everything that the simulator reads from its environment. Durations are nanoseconds, memory is bytes."""

    host: str
    port: int
    home: Path
    models: Path
    keep_alive: int
    context_length: int
    num_parallel: int
    max_loaded_models: int
    max_queue: int
    gpu_overhead: int
    flash_attention: bool | None
    kv_cache_type: str
    no_prune: bool
    sched_spread: bool
    no_cloud: bool
    origins: tuple[str, ...]
    visible_devices: str | None
    """CUDA_VISIBLE_DEVICES; None where it is not set (all devices), "" hides them all."""
    speed: float
    """FLEXI_SIM_SPEED: how many times faster than real time tokens, loads and retries go."""
    system_memory: int
    """FLEXI_SIM_MEMORY: bytes of main memory that the simulated server has."""
    root: Path
    """FLEXI_SIM_ROOT: where the simulated driver's files are looked for."""
    values: Mapping[str, str]
    """What the "server config" log line shows."""

    @property
    def address(self) -> str:
        """`host:port`, with IPv6 in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def connect_host(self) -> str:
        """The address to connect to: loopback where the server listens on every address."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)

    @property
    def url(self) -> str:
        """Base URL for clients on this machine."""
        host = f"[{self.connect_host}]" if ":" in self.connect_host else self.connect_host
        return f"http://{host}:{self.port}"

    def origin_allowed(self, origin: str) -> bool:
        return any(_matches(pattern, origin) for pattern in self.origins)


def read_environment(variables: Mapping[str, str], version: str = VERSION) -> Environment:
    """Parse `variables` (usually os.environ) by Ollama's rules: bad values give a warning and the default.

    `version` decides what the "server config" line shows.
    """

    def var(key: str) -> str:
        return variables.get(key, "").strip().strip("\"'")

    def uint(key: str, default: int) -> int:
        text = var(key)
        if not text:
            return default
        if not (text.isascii() and text.isdigit()):
            log.warn("invalid environment variable, using default", key=key, value=text, default=default)
            return default
        return int(text)

    def boolean(key: str) -> bool | None:
        text = var(key)
        if not text:
            return None
        # As in Go's strconv.ParseBool; what does not parse counts as true.
        return text not in ("0", "f", "F", "false", "FALSE", "False")

    host, port = _parse_host(var("OLLAMA_HOST"))
    home = Path(variables.get("HOME") or "/")
    models = Path(var("OLLAMA_MODELS") or home / ".ollama" / "models")
    keep_alive = _keep_alive(var("OLLAMA_KEEP_ALIVE"))
    context = uint("OLLAMA_CONTEXT_LENGTH", 0)
    parallel = uint("OLLAMA_NUM_PARALLEL", 1)
    max_loaded = uint("OLLAMA_MAX_LOADED_MODELS", 0)
    max_queue = uint("OLLAMA_MAX_QUEUE", 512)
    overhead = uint("OLLAMA_GPU_OVERHEAD", 0)
    flash = boolean("OLLAMA_FLASH_ATTENTION")
    origins = _origins(var("OLLAMA_ORIGINS"))

    def shown(value: bool | None) -> str:
        return "true" if value else "false"

    url_host = f"[{host}]" if ":" in host else host
    values = {
        "CUDA_VISIBLE_DEVICES": var("CUDA_VISIBLE_DEVICES"),
        "GGML_VK_VISIBLE_DEVICES": var("GGML_VK_VISIBLE_DEVICES"),
        "GPU_DEVICE_ORDINAL": var("GPU_DEVICE_ORDINAL"),
        "HIP_VISIBLE_DEVICES": var("HIP_VISIBLE_DEVICES"),
        "HSA_OVERRIDE_GFX_VERSION": var("HSA_OVERRIDE_GFX_VERSION"),
        "HTTPS_PROXY": var("HTTPS_PROXY"),
        "HTTP_PROXY": var("HTTP_PROXY"),
        "NO_PROXY": var("NO_PROXY"),
        "OLLAMA_CONTEXT_LENGTH": str(context),
        "OLLAMA_DEBUG": "INFO" if not boolean("OLLAMA_DEBUG") else "DEBUG",
        "OLLAMA_DEBUG_LOG_REQUESTS": shown(boolean("OLLAMA_DEBUG_LOG_REQUESTS")),
        "OLLAMA_EDITOR": var("OLLAMA_EDITOR"),
        "OLLAMA_FLASH_ATTENTION": shown(flash),
        "OLLAMA_GPU_OVERHEAD": str(overhead),
        "OLLAMA_HOST": f"http://{url_host}:{port}",
        "OLLAMA_KEEP_ALIVE": "2562047h47m16.854775807s" if keep_alive == FOREVER else format_duration(keep_alive),
        "OLLAMA_KV_CACHE_TYPE": var("OLLAMA_KV_CACHE_TYPE"),
        "OLLAMA_LLM_LIBRARY": var("OLLAMA_LLM_LIBRARY"),
        "OLLAMA_LOAD_TIMEOUT": var("OLLAMA_LOAD_TIMEOUT") or "5m0s",
        "OLLAMA_MAX_LOADED_MODELS": str(max_loaded),
        "OLLAMA_MAX_QUEUE": str(max_queue),
        "OLLAMA_MAX_TRANSFER_STREAMS": str(uint("OLLAMA_MAX_TRANSFER_STREAMS", 4)),
        "OLLAMA_MODELS": str(models),
        "OLLAMA_MULTIUSER_CACHE": shown(boolean("OLLAMA_MULTIUSER_CACHE")),
        "OLLAMA_NEW_ENGINE": shown(boolean("OLLAMA_NEW_ENGINE")),
        "OLLAMA_NOHISTORY": shown(boolean("OLLAMA_NOHISTORY")),
        "OLLAMA_NOPRUNE": shown(boolean("OLLAMA_NOPRUNE")),
        "OLLAMA_NO_CLOUD": shown(boolean("OLLAMA_NO_CLOUD")),
        "OLLAMA_NUM_PARALLEL": str(parallel),
        "OLLAMA_ORIGINS": "[" + " ".join(origins) + "]",
        "OLLAMA_REMOTES": "[" + (var("OLLAMA_REMOTES") or "ollama.com").replace(",", " ") + "]",
        "OLLAMA_SCHED_SPREAD": shown(boolean("OLLAMA_SCHED_SPREAD")),
        "OLLAMA_VULKAN": shown(boolean("OLLAMA_VULKAN")),
        "ROCR_VISIBLE_DEVICES": var("ROCR_VISIBLE_DEVICES"),
        "http_proxy": var("http_proxy"),
        "https_proxy": var("https_proxy"),
        "no_proxy": var("no_proxy"),
    }
    if at_least(version, 0, 30):
        for gone in ("OLLAMA_MULTIUSER_CACHE", "OLLAMA_NEW_ENGINE"):
            del values[gone]
        values |= {name: var(name) for name in ("LLAMA_ARG_FIT", "LLAMA_ARG_FIT_TARGET", "OLLAMA_IGPU_ENABLE")}
        for name in ("OLLAMA_GO_TEMPLATE", "OLLAMA_VULKAN"):
            values[name] = shown(boolean(name) is not False)
    return Environment(
        host=host,
        port=port,
        home=home,
        models=models,
        keep_alive=keep_alive,
        context_length=context,
        num_parallel=max(parallel, 1),
        max_loaded_models=max_loaded,
        max_queue=max_queue,
        gpu_overhead=overhead,
        flash_attention=flash,
        kv_cache_type=var("OLLAMA_KV_CACHE_TYPE").lower(),
        no_prune=bool(boolean("OLLAMA_NOPRUNE")),
        sched_spread=bool(boolean("OLLAMA_SCHED_SPREAD")),
        no_cloud=bool(boolean("OLLAMA_NO_CLOUD")),
        origins=origins,
        visible_devices=variables.get("CUDA_VISIBLE_DEVICES"),
        speed=float(var("FLEXI_SIM_SPEED") or "1"),
        system_memory=int(var("FLEXI_SIM_MEMORY") or str(256 * 2**30)),
        root=Path(var("FLEXI_SIM_ROOT") or "/"),
        values=dict(sorted(values.items())),
    )


def _matches(pattern: str, origin: str) -> bool:
    prefix, star, suffix = pattern.partition("*")
    if not star:
        return origin == pattern
    return len(origin) >= len(prefix) + len(suffix) and origin.startswith(prefix) and origin.endswith(suffix)


def _parse_host(text: str) -> tuple[str, int]:
    scheme, found, rest = text.partition("://")
    default = DEFAULT_PORT
    if found:
        default = {"http": 80, "https": 443}.get(scheme, DEFAULT_PORT)
    else:
        rest = text
    rest = rest.partition("/")[0]
    host, colon, port_text = rest.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        host, port_text = rest.strip("[]") or "127.0.0.1", str(default)
    host = host.strip("[]")
    with contextlib.suppress(ValueError):  # a name, or "" for every address
        host = str(ipaddress.ip_address(host))
    if not port_text.isdigit() or int(port_text) > 65535:
        log.warn("invalid port, using default", port=port_text, default=default)
        port_text = str(default)
    return host or "0.0.0.0", int(port_text)


def _keep_alive(text: str) -> int:
    duration = 5 * MINUTE
    if text:
        try:
            duration = parse_duration(text)
        except ValueError:
            with contextlib.suppress(ValueError):  # Ollama keeps its default without a word
                duration = int(text) * SECOND
    return FOREVER if duration < 0 else duration


def _origins(text: str) -> tuple[str, ...]:
    origins = text.split(",") if text else []
    for host in ("localhost", "127.0.0.1", "0.0.0.0"):
        origins += [f"http://{host}", f"https://{host}", f"http://{host}:*", f"https://{host}:*"]
    origins += ["app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*"]
    return tuple(origins)
