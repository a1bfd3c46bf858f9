"""The plan's part for the CUDA toolkit."""

from __future__ import annotations

from flexi.catalog.frozen import Frozen as _Frozen
from flexi.catalog.platforms import PinPlan


class CudaPlan(_Frozen):
    """The CUDA toolkit, from NVIDIA's repository and without that repository's driver."""

    version: str
    packages: tuple[str, ...]
    repository: str | None
    """Base URL of the flat repository, without a trailing slash; None where the packages come from a bundle."""
    key_url: str
    key_fingerprint: str | None
    """Of the signing key; None only behind a mirror whose key the site file does not pin."""
    sources_file: str
    """Path of the repository's apt source on the host."""
    pins: tuple[PinPlan, ...]
