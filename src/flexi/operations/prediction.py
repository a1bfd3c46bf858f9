"""Changes by earlier operations of the same run: predicted in a dry run, which cannot see them on the host, or made."""

from __future__ import annotations

from collections.abc import Sequence

from pyinfra import host
from pyinfra.api.operation import OperationMeta


def predicted(after: Sequence[OperationMeta]) -> bool:
    """Return whether a dry run predicts that one of the operations `after` changes something.

    False in a real run, where the host itself shows what they have done.
    """
    return not host.state.is_executing and any(meta.will_change for meta in after)


def changed(after: Sequence[OperationMeta]) -> bool:
    """Return whether one of the operations `after` will change something, as far as a dry run knows, or has."""
    if not host.state.is_executing:
        return predicted(after)
    return any(meta.is_complete() and meta.did_change() for meta in after)
