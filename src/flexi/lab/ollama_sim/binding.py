"""Request bodies read as Go's encoding/json reads them into structs, with its words for what is wrong.

Go matches keys without regard to case, takes the last of repeated keys, ignores unknown ones and reads `null` as
"not given". Sources: api/types.go, openai/openai.go; Go's encoding/json.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .goformat import FOREVER, SECOND, parse_duration

Reader = Callable[[Any, str], Any]
"""Turns a JSON value into ours; the string is "Struct.field", for the error message."""


class BindError(ValueError):
    """The body cannot be read; the text is what Ollama answers with status 400."""


@dataclass(frozen=True)
class Struct:
    """A Go struct: its name (as error messages say it) and its JSON fields."""

    name: str
    fields: Mapping[str, Reader]


def bind(raw: bytes, struct: Struct) -> dict[str, Any]:
    """The fields of `struct` that the body gives. BindError if the body is missing, no JSON, or of wrong types."""
    text = _ESCAPES.sub(_paired, raw.decode("utf-8", "replace").lstrip())
    if not text:
        raise BindError("missing request body")
    try:
        # Like Go's decoder: what follows the first value is not looked at.
        value, _ = _DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        raise BindError(_syntax_message(text, error)) from None
    except RecursionError:
        raise BindError("exceeded max depth") from None
    if value is None:
        return {}
    if not isinstance(value, _Pairs):
        raise BindError(f"json: cannot unmarshal {_kind(value)} into Go value of type {_package(struct.name)}")
    return _read_struct(value, struct)


_ESCAPES = re.compile(
    r"\\(?:u(?P<high>[dD][89abAB][0-9a-fA-F]{2})(?P<low>\\u[dD][c-fC-F][0-9a-fA-F]{2})?"
    r"|u(?P<lone>[dD][c-fC-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


def _paired(escape: re.Match[str]) -> str:
    """Half of a surrogate pair is the replacement character, as in Go (encoding/json/decode.go, unquoteBytes)."""
    half = escape["lone"] or (escape["high"] and not escape["low"])
    return r"\ufffd" if half else escape[0]


def _read_struct(pairs: _Pairs, struct: Struct) -> dict[str, Any]:
    found: dict[str, Any] = {}
    by_folded = {_fold(name): name for name in struct.fields}
    for key, value in pairs:
        name = key if key in struct.fields else by_folded.get(_fold(key))
        if name is None or value is None:
            continue
        found[name] = struct.fields[name](value, f"{struct.name}.{name}")
    return found


def _fold(key: str) -> str:
    """Keys that Go takes for the same are the same here (encoding/json/fold.go, foldName): without case, with the
    long s and the Kelvin sign, which share theirs with s and k."""
    return key.replace("\u017f", "s").replace("\u212a", "k").lower()


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with repeated keys kept."""


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise BindError(f"json: cannot unmarshal number {text} into Go value of type float64")
    return number


def _whole(text: str) -> int:
    if len(text) > _LONGEST_INT:
        raise BindError(f"json: cannot unmarshal number {text} into Go value of type int")
    return int(text)


def _constant(text: str) -> Any:
    """Python reads NaN and the infinities; Go does not."""
    at = 1 if text.startswith("-") else 0
    where = "in numeric literal" if at else "looking for beginning of value"
    raise BindError(f"invalid character '{text[at]}' {where}")


_LONGEST_INT = 400
"""Digits; far beyond what any field holds, and below what Python refuses to convert."""
_DECODER = json.JSONDecoder(object_pairs_hook=_Pairs, parse_float=_float, parse_int=_whole, parse_constant=_constant)


def _plain(value: Any) -> Any:
    if isinstance(value, _Pairs):
        return {key: _plain(item) for key, item in value}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "string"
    if isinstance(value, (int, float)):
        return "number"
    return "object" if isinstance(value, _Pairs) else "array"


def _package(struct: str) -> str:
    return struct if "." in struct else f"api.{struct}"


def _wrong(value: Any, field: str, go_type: str) -> BindError:
    return BindError(f"json: cannot unmarshal {_kind(value)} into Go struct field {field} of type {go_type}")


def string(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise _wrong(value, field, "string")
    return value


def boolean(value: Any, field: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(value, field, "bool")
    return value


def integer(value: Any, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(value, field, "int")
    if isinstance(value, float):
        raise BindError(f"json: cannot unmarshal number {value} into Go struct field {field} of type int")
    return value


def number(value: Any, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(value, field, "float64")
    return value


def anything(value: Any, field: str) -> Any:
    return _plain(value)


def mapping(value: Any, field: str) -> dict[str, Any]:
    if not isinstance(value, _Pairs):
        raise _wrong(value, field, "map[string]interface {}")
    plain: dict[str, Any] = _plain(value)
    return plain


def list_of(reader: Reader, go_type: str) -> Reader:
    """A reader for arrays whose items `reader` reads; `go_type` is the item's type in Go."""

    def read(value: Any, field: str) -> list[Any]:
        if not isinstance(value, list) or isinstance(value, _Pairs):
            raise _wrong(value, field, f"[]{go_type}")
        return [reader(item, field) for item in value]

    return read


def struct_of(struct: Struct) -> Reader:
    def read(value: Any, field: str) -> dict[str, Any]:
        if not isinstance(value, _Pairs):
            raise _wrong(value, field, _package(struct.name))
        return _read_struct(value, struct)

    return read


def image(value: Any, field: str) -> bytes:
    try:
        return base64.b64decode(string(value, field).replace("\n", "").replace("\r", ""), validate=True)
    except binascii.Error:
        raise BindError("illegal base64 data at input byte 0") from None


def duration(value: Any, field: str) -> int:
    """keep_alive: seconds as a number or a Go duration as a string; negative means for ever. Nanoseconds."""
    if isinstance(value, (bool, list)):
        go_type = {"bool": "bool", "array": "[]interface {}", "object": "map[string]interface {}"}[_kind(value)]
        raise BindError(f"Unsupported type: '{go_type}'")
    if isinstance(value, str):
        try:
            nanoseconds = parse_duration(value)
        except ValueError as error:
            raise BindError(str(error)) from None
    else:
        nanoseconds = min(int(value * SECOND), FOREVER)
    return FOREVER if nanoseconds < 0 else nanoseconds


def think(value: Any, field: str) -> bool | str:
    levels = ("high", "medium", "low", "max")
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        if value in levels:
            return value
        raise BindError(f'invalid think value: "{value}" (must be "high", "medium", "low", "max", true, or false)')
    raise BindError('think must be a boolean or string ("high", "medium", "low", "max", true, or false)')


def _syntax_message(text: str, error: json.JSONDecodeError) -> str:
    # Python points at the start of a string or literal that never ends.
    unfinished = "Unterminated string" in error.msg or "Extra data" in error.msg
    if error.pos >= len(text.rstrip()) or unfinished:
        return "unexpected EOF"
    character = text[error.pos]
    where = "looking for beginning of value"
    if "property name" in error.msg:
        where = "looking for beginning of object key string"
    elif "':' delimiter" in error.msg:
        where = "after object key"
    elif "',' delimiter" in error.msg:
        inside = "object key:value pair" if text.rfind("{", 0, error.pos) > text.rfind("[", 0, error.pos) else ""
        where = f"after {inside or 'array element'}"
    return f"invalid character '{character}' {where}"


_TOOL_CALL = Struct(
    "ToolCall",
    {
        "id": string,
        "function": struct_of(Struct("ToolCallFunction", {"index": integer, "name": string, "arguments": mapping})),
    },
)
MESSAGE = Struct(
    "Message",
    {
        "role": lambda value, field: string(value, field).lower(),
        "content": string,
        "thinking": string,
        "images": list_of(image, "api.ImageData"),
        "tool_calls": list_of(struct_of(_TOOL_CALL), "api.ToolCall"),
        "tool_name": string,
        "tool_call_id": string,
    },
)
_COMMON: Mapping[str, Reader] = {
    "model": string,
    "stream": boolean,
    "format": anything,
    "keep_alive": duration,
    "options": mapping,
    "think": think,
    "truncate": boolean,
    "shift": boolean,
    "_debug_render_only": boolean,
    "logprobs": boolean,
    "top_logprobs": integer,
}
GENERATE = Struct(
    "GenerateRequest",
    {
        **_COMMON,
        "prompt": string,
        "suffix": string,
        "system": string,
        "template": string,
        "context": list_of(integer, "int"),
        "raw": boolean,
        "images": list_of(image, "api.ImageData"),
    },
)
CHAT = Struct(
    "ChatRequest",
    {**_COMMON, "messages": list_of(struct_of(MESSAGE), "api.Message"), "tools": list_of(anything, "api.Tool")},
)
EMBED = Struct(
    "EmbedRequest",
    {
        "model": string,
        "input": anything,
        "keep_alive": duration,
        "truncate": boolean,
        "dimensions": integer,
        "options": mapping,
    },
)
EMBEDDINGS = Struct("EmbeddingRequest", {"model": string, "prompt": string, "keep_alive": duration, "options": mapping})
PULL = Struct("PullRequest", {"model": string, "name": string, "insecure": boolean, "stream": boolean})
CREATE = Struct(
    "CreateRequest",
    {
        "model": string,
        "name": string,
        "from": string,
        "stream": boolean,
        "template": string,
        "system": string,
        "license": anything,
        "parameters": mapping,
        "files": mapping,
        "quantize": string,
    },
)
DELETE = Struct("DeleteRequest", {"model": string, "name": string})
COPY = Struct("CopyRequest", {"source": string, "destination": string})
SHOW = Struct(
    "ShowRequest",
    {"model": string, "name": string, "system": string, "template": string, "verbose": boolean, "options": mapping},
)
