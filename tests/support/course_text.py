"""A course text, and a good question about it as a model would answer."""

from __future__ import annotations

from typing import Any

TEXT = """# Die Lage

Der Median teilt eine geordnete Stichprobe in zwei gleich große Hälften. Er ist robust gegen Ausreißer, weil er
nur die Reihenfolge der Werte nutzt. Das arithmetische Mittel reagiert dagegen auf jeden einzelnen Wert: Bei 3, 5
und 100 liegt es bei 36. Für *ordinale* Merkmale ist der „Median" zulässig, das Mittel nicht."""


GOOD: dict[str, Any] = {
    "quote": "Er ist robust gegen Ausreißer, weil er nur die Reihenfolge der Werte nutzt.",
    "question": "Warum ist der Median robust gegen Ausreißer?",
    "right": "Er nutzt nur die Reihenfolge der Werte.",
    "explanation": "Ausreißer ändern die Reihenfolge nicht.",
    "wrong": [
        {"answer": "Er ist immer kleiner als das Mittel.", "why": "Das gilt nicht allgemein."},
        {"answer": "Er lässt den größten Wert weg.", "why": "Weggelassen wird nichts."},
        {"answer": "Er quadriert die Abweichungen.", "why": "Das tut die Varianz."},
    ],
}
