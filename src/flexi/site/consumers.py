"""Consumers of the API and their keys' digests: plain data, read from the keys file and part of the plan."""

from __future__ import annotations

from flexi.catalog.frozen import Frozen as _Frozen


class Grant(_Frozen):
    """A key that is good until `expires`, in seconds since 1970; None where it does not end."""

    sha256: str
    """Hex digest of the key; the key itself is random and is never stored."""
    expires: int | None = None


class Consumer(_Frozen):
    """Who uses the API: a name, what it may do, and what tells its requests."""

    name: str
    class_name: str
    grants: tuple[Grant, ...]
    """Its key, and for a while after a rotation the one before."""
