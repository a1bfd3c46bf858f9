"""German or English: told by the small words that no text of either does without."""

from __future__ import annotations

import re
from typing import Literal

Language = Literal["de", "en"]

_DE = """der die das und ist nicht ein eine einen einer einem den dem des von zu mit sich auf für als auch werden wird
sind oder im zum zur bei durch wie dass kann man nach aus welche welcher welches was wurde"""
_EN = """the of and to is that it for are with as be this by which not or from at can an was were have has what how does
do on its their these than when"""
_SMALL_WORDS: dict[Language, frozenset[str]] = {"de": frozenset(_DE.split()), "en": frozenset(_EN.split())}
_SHARE = 0.12
"""Of the words at least; in prose of either language it is more than a quarter, other languages share a few words."""
_CLEAR = 2.0
"""How many times more of one language's small words there must be."""


def detect(text: str) -> Language | None:
    """The language of `text`; None where it is neither, or cannot be told."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    seen = {language: sum(word in small for word in words) for language, small in _SMALL_WORDS.items()}
    first, second = sorted(seen, key=lambda language: seen[language], reverse=True)
    if seen[first] < max(1, _SHARE * len(words)) or seen[first] < _CLEAR * seen[second]:
        return None
    return first
