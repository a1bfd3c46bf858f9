"""How many tokens an answer may have: one bound, by the name that the instance reads.

Clients name the bound differently, and an instance ignores every name but one: 0.24.0's /v1/chat/completions reads
`max_tokens` and not `max_completion_tokens`, which OpenAI has put in its place (openai/openai.go; 0.33.0-rc2 too, and
ollama/ollama#7125 is open). An answer without a bound may have ten times the context (llm/server.go, Completion), and
one whose `num_predict` is 0 has no bound at all (`numPredict > 0` in runner/*/runner.go).
"""

from __future__ import annotations

from flexi_host.guard.dialect import Refusal

NAMES = ("max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict")
"""The names under which clients of any API bound an answer. Each means that it has at most so many tokens, so that the
smallest of several keeps to them all."""
OPTION = "num_predict"
"""The bound's name among `options`: Options in api/types.go."""
ENDPOINT_FIELDS = {
    "/v1/chat/completions": "max_tokens",
    "/v1/completions": "max_tokens",
    "/v1/responses": "max_output_tokens",
    "/v1/messages": "max_tokens",
}
"""The one field that an instance reads, by path: openai/openai.go, openai/responses.go, anthropic/anthropic.go at
v0.24.0 and v0.33.0-rc2."""
PROMPT_FIELDS = {"/api/generate": "prompt", "/api/chat": "messages"}
"""The field without which the endpoint loads the model and writes nothing (server/routes.go)."""
REQUIRED_AT = "/v1/messages"
"""The endpoint that needs a positive bound: AnthropicMessagesMiddleware in middleware/anthropic.go."""


def apply(path: str, fields: dict[str, object], ceiling: int | None, context: int) -> int | None:
    """Replace the bounds in `fields` by one that the instance reads and that is at most `ceiling`, and at most the
    model's `context`, in tokens. `ceiling` None leaves the client its own bound.

    Return the bound where it is the site's, for the client named a larger one or none. Raise Refusal (400) where a
    bound is no number, or is missing where the API requires one.
    """
    native = path in PROMPT_FIELDS
    if not native and path not in ENDPOINT_FIELDS:
        return None
    if native and not fields.get(PROMPT_FIELDS[path]):
        return None
    named = _take_bounds(fields, native)
    bounds = [bound for bound in named if bound > 0]
    # What is 0 or less has no end, whichever API names it.
    bound = min(bounds) if bounds else None
    if ceiling is None:
        if named:
            _put(path, fields, named[0] if bound is None else bound)
        return None
    if bound is None and path == REQUIRED_AT:
        raise Refusal(400, "option_invalid", "max_tokens is required and must be positive")
    most = min(ceiling, context)
    if bound is not None and bound <= most:
        _put(path, fields, bound)
        return None
    _put(path, fields, most)
    return most


def _take_bounds(fields: dict[str, object], native: bool) -> list[int]:
    """Remove every bound from `fields` and return those that have a value."""
    found = [_tokens(name, fields.pop(name)) for name in NAMES if name in fields]
    options = fields.get("options")
    if isinstance(options, dict):
        # Instances read the exact name only (FromMap in api/types.go); who writes it otherwise means the same.
        spelled = [key for key in options if key.casefold() == OPTION]
        if spelled:
            found += [_tokens(f"options.{OPTION}", options[key]) for key in spelled]
            fields["options"] = {key: value for key, value in options.items() if key not in spelled}
    elif native and options is not None:
        raise Refusal(400, "option_invalid", "options must be an object; leave it out for what there is")
    return [bound for bound in found if bound is not None]


def _tokens(name: str, value: object) -> int | None:
    """Return the whole part of `value`, as FromMap does, and None for null, which is the same as left out."""
    if value is None:
        return None
    if not isinstance(value, bool) and isinstance(value, (int, float)):
        try:
            return int(value)
        except OverflowError:
            pass
    raise Refusal(400, "option_invalid", f"{name} must be a number of tokens; leave it out for what the site allows")


def _put(path: str, fields: dict[str, object], bound: int) -> None:
    if path in ENDPOINT_FIELDS:
        fields[ENDPOINT_FIELDS[path]] = bound
        return
    options = fields.get("options")
    fields["options"] = {**(options if isinstance(options, dict) else {}), OPTION: bound}
