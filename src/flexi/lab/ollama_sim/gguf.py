"""The key-value header of GGUF files, version 3: enough to describe a model, without its tensors.

Source: fs/ggml/gguf.go and the GGUF specification.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from typing import BinaryIO

Value = str | int | float | bool

_MAGIC = b"GGUF"
_UINT32, _FLOAT32, _BOOL, _STRING, _UINT64 = 4, 6, 7, 8, 10
_READERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}

FILE_TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 14: "Q4_K_S", 15: "Q4_K_M", 17: "Q5_K_M", 18: "Q6_K"}
"""general.file_type and what Ollama calls it (fs/ggml/type.go)."""


class GgufError(ValueError):
    """The file is not a GGUF file that we can read."""


def header(values: Mapping[str, Value]) -> bytes:
    """A GGUF header with no tensors. Integers are written as uint32 where they fit, floats as float32."""
    out = io.BytesIO()
    out.write(_MAGIC + struct.pack("<IQQ", 3, 0, len(values)))
    for key, value in values.items():
        encoded = key.encode()
        out.write(struct.pack("<Q", len(encoded)) + encoded)
        if isinstance(value, bool):
            out.write(struct.pack("<I?", _BOOL, value))
        elif isinstance(value, int):
            kind = _UINT32 if value < 2**32 else _UINT64
            out.write(struct.pack("<I", kind) + struct.pack("<I" if kind == _UINT32 else "<Q", value))
        elif isinstance(value, float):
            out.write(struct.pack("<If", _FLOAT32, value))
        else:
            text = value.encode()
            out.write(struct.pack("<IQ", _STRING, len(text)) + text)
    return out.getvalue()


def read(file: BinaryIO) -> dict[str, Value]:
    """The scalar key-values of a GGUF file; arrays are skipped. GgufError if it is none."""
    if file.read(4) != _MAGIC:
        raise GgufError("invalid file magic")
    (version,) = _unpack(file, "<I")
    if version not in (2, 3):
        raise GgufError(f"unsupported GGUF version {version}")
    _, count = _unpack(file, "<QQ")
    values: dict[str, Value] = {}
    for _ in range(int(count)):
        key = _string(file)
        (kind,) = _unpack(file, "<I")
        value = _value(file, int(kind))
        if value is not None:
            values[key] = value
    return values


def _value(file: BinaryIO, kind: int) -> Value | None:
    if kind == _STRING:
        return _string(file)
    if kind in _READERS:
        value: Value = _unpack(file, _READERS[kind])[0]
        return value
    if kind == 9:
        item, length = _unpack(file, "<IQ")
        for _ in range(int(length)):
            _value(file, int(item))
        return None
    raise GgufError(f"unknown GGUF value type {kind}")


def _string(file: BinaryIO) -> str:
    (length,) = _unpack(file, "<Q")
    return _exactly(file, int(length)).decode()


def _unpack(file: BinaryIO, form: str) -> tuple[int | float, ...]:
    return struct.unpack(form, _exactly(file, struct.calcsize(form)))


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise GgufError("unexpected EOF")
    return data
