"""What the model is told, in the language of the questions, and the schemas that its answers must have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .course_text import Section
from .judging import WRONG_ANSWERS, Question
from .language import Language

Messages = list[Mapping[str, str]]

_TEXT = {"type": "string"}
QUESTION_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    # In this order: a model that has found its proof first asks better, and Ollama's grammar keeps the order.
    "properties": {
        "quote": _TEXT,
        "question": _TEXT,
        "right": _TEXT,
        "explanation": _TEXT,
        "wrong": {
            "type": "array",
            "minItems": WRONG_ANSWERS,
            "maxItems": WRONG_ANSWERS,
            "items": {
                "type": "object",
                "properties": {"answer": _TEXT, "why": _TEXT},
                "required": ["answer", "why"],
            },
        },
    },
    "required": ["quote", "question", "right", "explanation", "wrong"],
}

_MAKE: dict[Language, str] = {
    "de": """Du schreibst Prüfungsfragen für Studierende. Du bekommst einen Ausschnitt aus einem Lehrtext und machst \
daraus genau eine Multiple-Choice-Frage auf Deutsch, als JSON:
- quote: ein Satz aus dem Text, Wort für Wort abgeschrieben, der die richtige Antwort belegt
- question: eine Frage, die man nur mit Verständnis des Textes beantworten kann und die ohne den Text verständlich ist
- right: die einzige richtige Antwort, kurz
- explanation: ein Satz, warum sie richtig ist
- wrong: drei falsche, aber glaubhafte Antworten (answer), so lang wie die richtige; je ein Satz, warum falsch (why)
Keine Antwort wie „alle genannten“ oder „keine davon“. Keine Antwort doppelt. Keine Buchstaben vor den Antworten.""",
    "en": """You write exam questions for students. You are given a part of a course text and make exactly one \
multiple-choice question of it, in English, as JSON:
- quote: a sentence of the text, copied word for word, that proves the right answer
- question: a question that needs understanding of the text and can be understood without it
- right: the only right answer, short
- explanation: one sentence why it is right
- wrong: three wrong but plausible answers (answer), as long as the right one; for each a sentence why (why)
No answer like "all of the above" or "none of these". No answer twice. No letters before the answers.""",
}
_ASKED: dict[Language, str] = {"de": "Schon gefragt, frage etwas anderes:", "en": "Already asked, ask something else:"}
_REFUSED: dict[Language, str] = {
    "de": "Dein letzter Versuch wurde abgelehnt. Grund: {}. Mach es diesmal richtig.",
    "en": "Your last attempt was refused. Reason: {}. Do it right this time.",
}
_CHECK: dict[Language, str] = {
    "de": """Du prüfst eine Multiple-Choice-Frage zu einem Lehrtext. Nenne als JSON in right alle Antworten, die \
nach dem Text richtig sind, Wort für Wort: eine, mehrere oder keine.""",
    "en": """You check a multiple-choice question about a course text. Name as JSON in right all answers that are \
right according to the text, word for word: one, several or none.""",
}
_ASKED_SHOWN = 10


def make(section: Section, language: Language, asked: Sequence[Question], refused: str | None) -> Messages:
    """The request for one question. The section comes first: what several requests begin with, Ollama reads once."""
    parts = [f"<document>\n{section.text}\n</document>"]
    if asked:
        parts.append("\n".join([_ASKED[language], *(f"- {question.text}" for question in asked[-_ASKED_SHOWN:])]))
    if refused is not None:
        parts.append(_REFUSED[language].format(refused))
    return [{"role": "system", "content": _MAKE[language]}, {"role": "user", "content": "\n\n".join(parts)}]


def check(question: Question, section: Section, language: Language) -> Messages:
    """The request to say which answers are right, from one who was not told."""
    options = "\n".join(f"- {option}" for option in question.options)
    content = f"<document>\n{section.text}\n</document>\n\n{question.text}\n{options}"
    return [{"role": "system", "content": _CHECK[language]}, {"role": "user", "content": content}]


def check_schema(question: Question) -> dict[str, Any]:
    """Any of the answers, and nothing else."""
    options = {"type": "array", "items": {"enum": list(question.options)}, "maxItems": len(question.options)}
    return {"type": "object", "properties": {"right": options}, "required": ["right"]}
