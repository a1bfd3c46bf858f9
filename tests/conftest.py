"""How these tests' own processes run."""

from __future__ import annotations

import gc

import pytest


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was imported and collected stays to the end: looking through it for garbage again and again was a fifth of
    the quick tests' time. What a test leaves behind is still found, only later."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)
