"""Whether what a model made is a question that may stand before students, and if not, why."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .course_text import Section, printable
from .language import Language, detect

WRONG_ANSWERS = 3
LONGEST_QUESTION = 600
LONGEST_ANSWER = 300
_ALIKE = 0.8
"""Share of words that two questions may have in common."""
_STEM = 5
"""Letters by which two forms of a word are taken for the same: German endings are short."""

_LETTER = re.compile(r"^\s*(?:\(?[A-Da-d1-4][).:]|[-•*])\s+")
_LAZY = re.compile(
    r"\b(all|none|both|each|either|neither) of (the|these|them|those)\b|^(all|none|both|neither)\W*$"
    r"|\b(alle|keine[rs]?|beide[rs]?|sämtliche)( der| dieser| von den)?( (oben|zuvor|hier))?[ -]*"
    r"(genannten?|stehenden?|obigen|aufgeführten|antwort(en)?|antwortmöglichkeiten|aussagen|optionen)\b"
    r"|\b(nichts|alles|keine[rs]?|beides) (davon|genannte|von (alle)?dem)\b|^(alle|keine[rs]?|beides?)\W*$"
    r"|^\W*((both|only|sowohl|beides|nur|answers?|options?|antwort(en)?)\s+)*[a-d](\s*,\s*[a-d])*"
    r"\s*(and|und|or|oder|als auch|&)\s*[a-d]\b(\s+(are|sind))?(\s+(correct|right|true|richtig|korrekt))?\W*$",
    re.IGNORECASE,
)
"""Answers about other answers: they are worth nothing once Moodle has shuffled them."""
_SAME = str.maketrans(dict.fromkeys("„“”‟«»‹›\"'‘’‚‛`´", "'") | dict.fromkeys("‐‑‒–—−", "-"))


class RefusedError(ValueError):
    """What a model made cannot be used; the text says why, so that the next attempt can do better."""


@dataclass(frozen=True)
class Wrong:
    """A distractor, and what a student who took it is told."""

    answer: str
    why: str


@dataclass(frozen=True)
class Question:
    """A multiple-choice question with one right answer. `quote` is the place of the text that proves it."""

    text: str
    right: str
    explanation: str
    wrong: tuple[Wrong, ...]
    quote: str
    section: int

    @property
    def digest(self) -> str:
        """The same for the same question in every run."""
        return hashlib.sha256(f"{plain(self.text)}\0{plain(self.right)}".encode()).hexdigest()

    @property
    def options(self) -> tuple[str, ...]:
        """All answers in an order that tells nothing and is always the same."""
        answers = (self.right, *(wrong.answer for wrong in self.wrong))
        return tuple(sorted(answers, key=lambda answer: hashlib.sha256(f"{self.text}\0{answer}".encode()).digest()))


def plain(text: str) -> str:
    """`text` as it compares: without case, markup, and the differences between signs that look alike."""
    folded = unicodedata.normalize("NFKC", text).casefold().translate(_SAME)
    return " ".join(re.sub(r"[*_#>|]+|\[([^\]]*)\]\([^)]*\)", r"\1", folded).split())


def read(answer: Any, section: Section) -> Question:
    """The question in a model's structured answer, tidied. RefusedError where it lacks something."""
    if not isinstance(answer, Mapping):
        raise RefusedError("the answer is no JSON object")
    wrong = answer.get("wrong")
    if not isinstance(wrong, Sequence) or isinstance(wrong, str) or not all(isinstance(one, Mapping) for one in wrong):
        raise RefusedError("'wrong' is no list of objects")
    return Question(
        text=_line(answer, "question"),
        right=_option(answer, "right"),
        explanation=_line(answer, "explanation"),
        wrong=tuple(Wrong(_option(one, "answer"), _line(one, "why")) for one in wrong),
        quote=_line(answer, "quote"),
        section=section.number,
    )


def judge(question: Question, section: Section, language: Language, others: Sequence[Question]) -> None:
    """RefusedError where the question may not be used; `others` are those that there are already."""
    _form(question)
    if detect(f"{question.text} {question.right} {question.explanation}") not in (language, None):
        raise RefusedError(f"the question is not in the language {language}")
    _proof(question, section)
    words = _words(question.text)
    for other in others:
        common, all_words = words & _words(other.text), words | _words(other.text)
        if len(common) >= _ALIKE * len(all_words):
            raise RefusedError("this question has been asked already")


def _form(question: Question) -> None:
    if len(question.wrong) != WRONG_ANSWERS:
        raise RefusedError(f"there are {len(question.wrong)} wrong answers instead of {WRONG_ANSWERS}")
    if len(question.text) > LONGEST_QUESTION or len(question.text.split()) < 3:
        raise RefusedError(f"the question has not between 3 words and {LONGEST_QUESTION} characters")
    answers = [question.right, *(wrong.answer for wrong in question.wrong)]
    compared = [plain(answer).strip(" .,;:!?'") for answer in answers]
    if len(set(compared)) != len(compared):
        raise RefusedError("two answers are the same")
    for answer, left in zip(answers, compared, strict=True):
        if not left or len(answer) > LONGEST_ANSWER:
            raise RefusedError(f"an answer is empty or has more than {LONGEST_ANSWER} characters")
        if _LAZY.search(answer):
            raise RefusedError(f"the answer '{answer}' is about the other answers")
    said = [re.search(rf"(?<!\w){re.escape(one)}(?!\w)", plain(question.text)) is not None for one in compared]
    if said[0] and not all(said):
        raise RefusedError("the question says its own answer")


def _proof(question: Question, section: Section) -> None:
    """The quote stands in the text and has to do with the answer, whose words and numbers come from the text."""
    text = plain(section.text)
    pieces = [piece.strip(" '.,;:") for piece in re.split(r"\[?(?:…|\.{3,})\]?", plain(question.quote))]
    pieces = [piece for piece in pieces if piece]
    if not pieces or len(" ".join(pieces).split()) < 3:
        raise RefusedError("the quote is shorter than three words")
    if not all(piece in text for piece in pieces):
        raise RefusedError("the quote does not stand in the text word for word")
    known, answer = _words(section.text), _words(question.right)
    numbers = {word for word in answer if any(character.isdigit() for character in word)}
    if not numbers <= known or len(answer & known) * 2 < len(answer):
        raise RefusedError("the right answer is not found in the text")
    if not (answer | _words(question.text)) & _words(question.quote):
        raise RefusedError("the quote has nothing to do with question and answer")


def _words(text: str) -> set[str]:
    """What carries the meaning: numbers whole, words by their beginning; all words where there are only short ones."""
    found = re.findall(r"\d+(?:[.,]\d+)*|[^\W\d_]+", plain(text))
    long = {word[:_STEM] for word in found if word[0].isdigit() or len(word) >= 4}
    return long or set(found)


def _line(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    if not isinstance(value, str) or not value.strip():
        raise RefusedError(f"'{key}' is missing")
    return " ".join(printable(value).split())


def _option(values: Mapping[str, Any], key: str) -> str:
    """An answer without the letter that Moodle puts before it."""
    return _LETTER.sub("", _line(values, key))
