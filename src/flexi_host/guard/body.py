"""One reading of a request's body, and one way to write it: what the guard has judged is what an instance gets.

Go's encoding/json, which Ollama reads with, takes the last of two equal keys, compares the keys of a struct without
case (decode.go, foldName), stops at the end of the first value, and replaces what is no UTF-8. Other readers do not.
Here, what could be read in two ways is refused, and the rest is written anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NoReturn

from flexi_host.guard.dialect import Refusal

MAX_NUMBER_CHARS = 1000
"""Python reads whole numbers in quadratic time, and from 3.10.7 on refuses those of more than 4300 digits."""


def parse(body: bytes | bytearray) -> dict[str, object]:
    """The JSON object in `body`, its own keys in small letters; Refusal (400) where it is anything else."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _bad(f"it is not UTF-8 (byte {error.start})") from None
    if text.startswith("\ufeff"):
        raise _bad("it begins with a byte order mark; leave that out")
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise _bad("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        # The message names a place and never what stands there.
        raise _bad(f"{error.msg} at character {error.pos}") from None
    except ValueError:
        raise _bad("a number in it is too large") from None
    if not isinstance(value, dict):
        raise _bad("it must be an object")
    return _folded(value)


def canonical(fields: Mapping[str, object]) -> bytes:
    """`fields` as JSON without blanks, in their order; Refusal (400) for a number that JSON cannot say."""
    try:
        return _ENCODER.encode(fields).encode("utf-8")
    except UnicodeEncodeError:
        # Half of a surrogate pair: only an escape can say it.
        return json.dumps(fields, separators=(",", ":")).encode("ascii")
    except RecursionError:
        raise _bad("it is nested too deeply") from None
    except ValueError:
        raise _bad("a number in it is too large") from None


def _folded(value: dict[str, object]) -> dict[str, object]:
    if all(map(_is_plain, value)):
        return value
    fields: dict[str, object] = {}
    for key, item in value.items():
        small = key.casefold()
        if small in fields:
            raise _bad(f"the field {_quoted(small)} stands in it twice")
        fields[small] = item
    return fields


def _is_plain(key: str) -> bool:
    # Beyond ASCII there are letters that Go takes for others: the Kelvin sign for k, the long s for s.
    return key.isascii() and key == key.lower()


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _bad(f"the field {_quoted(key)} stands in it twice")
            seen.add(key)
    return value


def _whole(text: str) -> int:
    if len(text) > MAX_NUMBER_CHARS:
        raise _bad("a number in it is too large")
    return int(text)


def _no_constant(text: str) -> NoReturn:
    raise _bad(f"{text} is no number in JSON")


def _quoted(key: str) -> str:
    return json.dumps(key if len(key) <= 40 else key[:40] + "…", ensure_ascii=False)


def _bad(what: str) -> Refusal:
    return Refusal(400, "invalid_json", f"the body is not the JSON that is expected: {what}")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_whole, parse_constant=_no_constant)
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False)
