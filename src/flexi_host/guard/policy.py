"""May this consumer ask this, of which model, and what of it reaches the instance.

What loads a model anew is set aside rather than refused where the answer stays the same: clients send it by habit
(Moodle's local_ai_manager a keep_alive, Open WebUI a num_ctx). What was set aside is named in a header.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from flexi_host.common.names import short_name
from flexi_host.guard import answer
from flexi_host.guard import body as guard_body
from flexi_host.guard.config import ConsumerClass, GuardConfig, Model
from flexi_host.guard.dialect import Refusal, shown

LOAD_OPTIONS = frozenset({"num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict"})
"""Options of a runner: a request whose values differ from the loaded model's has it loaded anew. Runner in api/types.go
and needsReload in server/sched.go, 0.24.0 and 0.33.0."""
HELD_FIELDS = frozenset({"keep_alive", "shift"})
"""The same of fields beside `options`; `shift` counts since 0.30."""
HELD = LOAD_OPTIONS | HELD_FIELDS
"""What a class must have been given before its consumers can set it."""

MOST_CONTEXT = 2**31
"""No model has a context of more tokens; what asks for one has the model's own."""

SHOW = "/api/show"
_UNLOADING = ("/api/generate", "/api/chat")
"""Ask these for nothing with `keep_alive` 0, and the model is unloaded (server/routes.go)."""
_STREAMS_UNASKED = ("/api/generate", "/api/chat")
_ZERO = re.compile(r"[-+]?(0+(\.0*)?([nuµm]?s|m|h))+|[-+]?0")
"""A duration of nothing, as Go writes it."""


@dataclass(frozen=True)
class Order:
    """What goes to an instance."""

    model: Model
    backend: str
    body: bytes
    stream: bool
    set_aside: tuple[str, ...]
    """Fields that the client sent and the instance does not get."""
    answer_limit: int | None = None
    """Most tokens of the answer, where the site says so and not the client."""


def judge(config: GuardConfig, path: str, consumer: str, class_name: str, body: bytes | bytearray) -> Order:
    """The order for an instance; Refusal where there is none."""
    if path not in config.paths:
        raise Refusal(404, "not_found", f"there is nothing at {shown(path)}")
    if not consumer and path != SHOW:
        raise Refusal(401, "invalid_api_key", "a valid API key is needed for this")
    fields = guard_body.parse(body)
    model = _model(config, path, fields)
    rules = config.classes.get(class_name)
    if rules is None:
        raise Refusal(403, "unknown_class", f"the class {class_name} is not known here yet; ask the site's admins")
    if rules.models is not None and model.name not in rules.models:
        allowed = ", ".join(sorted(rules.models))
        raise Refusal(403, "model_not_allowed", f"this key may not use {model.name}; it may use {allowed or 'nothing'}")
    set_aside = _hold(path, fields, rules, model)
    ceiling = rules.max_answer_tokens or config.max_answer_tokens
    answer_limit = answer.apply(path, fields, ceiling, _context(path, fields, model))
    stream = _streams(path, fields)
    fields.pop("model", None)
    if path == SHOW:
        fields.pop("name", None)
    backend = model.show if path == SHOW else model.backend
    return Order(model, backend, guard_body.canonical({"model": model.name, **fields}), stream, set_aside, answer_limit)


def _model(config: GuardConfig, path: str, fields: Mapping[str, object]) -> Model:
    name = fields.get("model")
    if path == SHOW and not name:
        name = fields.get("name")  # ShowRequest's old field
    if not isinstance(name, str) or not name:
        raise Refusal(400, "model_missing", "the field model is missing: name one that GET /api/tags lists")
    model = config.models.get(short_name(name))
    if model is None:
        message = f"model '{shown(name)}' not found; GET /api/tags lists what there is"
        raise Refusal(404, "model_not_found", message)
    return model


def _hold(path: str, fields: dict[str, object], rules: ConsumerClass, model: Model) -> tuple[str, ...]:
    """Take out of `fields` what the class may not set; the names of what was there."""
    if rules.options is None:
        return ()
    held = HELD - rules.options
    if "keep_alive" in held and path in _UNLOADING and _unloads(fields):
        message = "models stay loaded here: keep_alive 0 is for the site's admins; leave keep_alive out"
        raise Refusal(403, "option_not_allowed", message)
    found = []
    for name in [name for name in fields if name in held & HELD_FIELDS]:
        if fields.pop(name) is not None:
            found.append(name)
    options = fields.get("options")
    if not isinstance(options, dict):
        return tuple(found)
    kept: dict[str, object] = {}
    for key, value in options.items():
        name = key.casefold()
        if name not in held & LOAD_OPTIONS:
            kept[key] = value
            continue
        if value is None:  # the same as left out (FromMap in api/types.go); LangChain sends every option that it knows
            continue
        if name == "num_ctx":
            _check_context(value, model)
        found.append(f"options.{name}")
    fields["options"] = kept
    return tuple(found)


def _context(path: str, fields: Mapping[str, object], model: Model) -> int:
    """Return the context in tokens that the model has for this request: its class may have been given another one."""
    options = fields.get("options")
    wanted = options.get("num_ctx") if path in _STREAMS_UNASKED and isinstance(options, dict) else None
    if not isinstance(wanted, bool) and isinstance(wanted, (int, float)) and 1 <= wanted <= MOST_CONTEXT:
        return int(wanted)
    return model.context


def _check_context(value: object, model: Model) -> None:
    """A context that is large enough answers as well as the one that was asked for; a smaller one does not."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Refusal(400, "option_invalid", "options.num_ctx must be a number; leave it out for what there is")
    if value > model.context:
        message = (
            f"options.num_ctx {value:g} is more than the {model.context} tokens that {model.name} has here, "
            "prompt and answer together; leave it out, or ask the site's admins for a larger one"
        )
        raise Refusal(403, "option_not_allowed", message)


def _unloads(fields: Mapping[str, object]) -> bool:
    keep = fields.get("keep_alive")
    nothing = not fields.get("prompt") and not fields.get("messages")
    if isinstance(keep, str):
        return nothing and bool(_ZERO.fullmatch(keep))
    return nothing and not isinstance(keep, bool) and isinstance(keep, (int, float)) and abs(keep) < 1e-9


def _streams(path: str, fields: Mapping[str, object]) -> bool:
    stream = fields.get("stream")
    return path in _STREAMS_UNASKED if stream is None else stream is True
