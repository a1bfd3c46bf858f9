"""The GPUs of a group, as its environment file says: CUDA_VISIBLE_DEVICES with full UUIDs."""

from __future__ import annotations

from pathlib import Path


class EnvFileError(Exception):
    """The file does not name the group's GPUs; the message says why in words."""


def gpu_uuids(path: Path) -> tuple[str, ...]:
    """The UUIDs in `path`; EnvFileError for none, an empty list, indices and doubles: all end on wrong processors."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise EnvFileError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise EnvFileError(f"{path}: not a text file") from None
    value: str | None = None
    for line in lines:
        key, separator, rest = line.partition("=")
        if separator and key.strip() == "CUDA_VISIBLE_DEVICES":
            value = rest.strip().strip("\"'")
    if not value:
        raise EnvFileError(f"{path}: CUDA_VISIBLE_DEVICES names no GPU, so everything would run on the CPU")
    uuids = tuple(part.strip() for part in value.split(","))
    for uuid in uuids:
        if not uuid.startswith("GPU-"):
            raise EnvFileError(f"{path}: CUDA_VISIBLE_DEVICES holds {uuid!r}, which is not a full UUID (GPU-...)")
        if uuids.count(uuid) > 1:
            raise EnvFileError(f"{path}: CUDA_VISIBLE_DEVICES names {uuid} twice")
    return uuids
