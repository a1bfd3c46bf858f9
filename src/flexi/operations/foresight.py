"""What a dry run cannot see on the host, because an operation before would have made it so."""

from __future__ import annotations

from collections.abc import Sequence

from pyinfra import host
from pyinfra.api.operation import OperationMeta


def announced(after: Sequence[OperationMeta]) -> bool:
    """While pyinfra only foretells: whether one of the operations `after` will change something. False when it runs,
    where the host itself shows what they have done."""
    return not host.state.is_executing and any(meta.will_change for meta in after)
