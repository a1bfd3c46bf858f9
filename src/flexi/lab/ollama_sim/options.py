"""Model options of a request.

Sources: api/types.go (Options, FromMap, DefaultOptions), server/routes.go (modelOptions).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from . import log

_INTEGERS = {
    "num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep", "seed", "num_predict", "top_k",
    "repeat_last_n", "draft_num_predict",
}  # fmt: skip
_FLOATS = {
    "top_p", "min_p", "typical_p", "temperature", "repeat_penalty", "presence_penalty", "frequency_penalty",
}  # fmt: skip


class OptionError(ValueError):
    """An option has the wrong type."""


@dataclass(frozen=True)
class RunnerOptions:
    """The options that a loaded model cannot change: another value means a reload."""

    num_ctx: int
    num_batch: int = 512
    num_gpu: int = -1
    main_gpu: int | None = 0
    """From 0.30 on it can be unset, which is not the same as 0."""
    use_mmap: bool | None = None
    num_thread: int = 0
    draft_num_predict: int = 0
    """From 0.30 on; 0 for models without a draft model, which all are here."""


@dataclass(frozen=True)
class Options:
    runner: RunnerOptions
    num_predict: int = -1
    stop: tuple[str, ...] = ()
    others: Mapping[str, Any] = field(default_factory=dict)
    batch_given: bool = False
    """Whether somebody said num_batch; otherwise a version from 0.30 on chooses it."""
    shift: bool = True
    """What to do when the context is full; from 0.30 on part of what a loaded model cannot change."""


def parse_options(default_context: int, *maps: Mapping[str, Any] | None, llama_server: bool = False) -> Options:
    """Defaults overlaid by each of `maps` in turn; OptionError for a wrong type, unknown names only warn.

    `llama_server` says that the version is 0.30 or later.
    """
    options = Options(RunnerOptions(default_context, main_gpu=None if llama_server else 0))
    for given in maps:
        for key, value in (given or {}).items():
            if key == "draft_num_predict" and not llama_server:
                log.warn("invalid option provided", option=key)
                continue
            options = _overlay(options, key, value)
            options = replace(options, batch_given=options.batch_given or key == "num_batch")
    return options


def _overlay(options: Options, key: str, value: Any) -> Options:
    if key in _INTEGERS:
        if value is None:
            return options
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise OptionError(f'option "{key}" must be of type integer')
        number = int(value)
        if hasattr(options.runner, key):
            runner: RunnerOptions = replace(options.runner, **{key: number})  # type: ignore[arg-type]
            return replace(options, runner=runner)
        if key == "num_predict":
            return replace(options, num_predict=number)
        return replace(options, others={**options.others, key: number})
    if key in _FLOATS:
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise OptionError(f'option "{key}" must be of type float32')
        return replace(options, others={**options.others, key: value})
    if key == "use_mmap":
        if value is not None and not isinstance(value, bool):
            raise OptionError(f'option "{key}" must be of type boolean')
        return options if value is None else replace(options, runner=replace(options.runner, use_mmap=value))
    if key == "stop":
        if value is None:
            return options
        if not isinstance(value, list):
            raise OptionError(f'option "{key}" must be of type array')
        if not all(isinstance(item, str) for item in value):
            raise OptionError(f'option "{key}" must be of an array of strings')
        return replace(options, stop=tuple(value))
    log.warn("invalid option provided", option=key)
    return options
