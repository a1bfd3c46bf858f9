"""What earlier operations of the same run change: foretold by a dry run, which cannot see it on the host, or done."""

from __future__ import annotations

from collections.abc import Sequence

from pyinfra import host
from pyinfra.api.operation import OperationMeta


def announced(after: Sequence[OperationMeta]) -> bool:
    """While pyinfra only foretells: whether one of the operations `after` will change something. False when it runs,
    where the host itself shows what they have done."""
    return not host.state.is_executing and any(meta.will_change for meta in after)


def happened(after: Sequence[OperationMeta]) -> bool:
    """Whether one of the operations `after` changes something: will, as far as a dry run knows, or has."""
    if not host.state.is_executing:
        return announced(after)
    return any(meta.is_complete() and meta.did_change() for meta in after)
