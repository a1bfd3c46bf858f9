"""From sections to questions: asked one by one, judged, checked, and asked again a bounded number of times."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from . import judging, prompts
from .chat import BrokenAnswerError, GatewayError
from .course_text import Section, places
from .judging import Question, RefusedError
from .language import Language

TRIES_AT_HOME = 3
"""Attempts at a question in the section that it is meant for; then one in each neighbour."""
_MAKING, _CHECKING = 0.6, 0.0
"""Temperatures."""


class Asker(Protocol):
    """A model that answers as a schema says (`chat.Chat`)."""

    def ask(
        self, messages: Sequence[Mapping[str, str]], schema: Mapping[str, Any], temperature: float, seed: int
    ) -> Any: ...


@dataclass(frozen=True)
class Made:
    """What came of it. `stopped` is why there was an end before all had been tried."""

    questions: tuple[Question, ...]
    refused: Mapping[str, int] = field(default_factory=dict)
    """How many attempts ended for which reason."""
    stopped: str | None = None


def make(
    model: Asker,
    sections: Sequence[Section],
    count: int,
    language: Language,
    *,
    checked: bool = True,
    done: Callable[[int, int], None] = lambda made, tried: None,
) -> Made:
    """At most `count` questions in the order of the text. `done(made, tried)` is told of each place that is through.

    A place that yields nothing after five attempts stays empty. GatewayError only where not one question was made.
    """
    questions: list[Question] = []
    refused: Counter[str] = Counter()
    seeds = itertools.count(1)
    try:
        for tried, place in enumerate(places(sections, count), 1):
            reason: str | None = None
            for section in _homes(place, sections):
                try:
                    question = _one(model, section, language, questions, reason, next(seeds), checked=checked)
                except (RefusedError, BrokenAnswerError) as error:
                    reason = str(error)
                    refused[reason] += 1
                else:
                    questions.append(question)
                    break
            done(len(questions), tried)
    except GatewayError as error:
        if not questions:
            raise
        return Made(_in_order(questions), refused, str(error))
    return Made(_in_order(questions), refused)


def _homes(place: Section, sections: Sequence[Section]) -> list[Section]:
    neighbours = [section for section in sections if abs(section.number - place.number) == 1]
    return [place] * TRIES_AT_HOME + neighbours


def _in_order(questions: Sequence[Question]) -> tuple[Question, ...]:
    return tuple(sorted(questions, key=lambda question: question.section))


def _one(
    model: Asker,
    section: Section,
    language: Language,
    others: Sequence[Question],
    reason: str | None,
    seed: int,
    *,
    checked: bool,
) -> Question:
    asked = [other for other in others if other.section == section.number]
    request = prompts.make(section, language, asked, reason)
    question = judging.read(model.ask(request, prompts.QUESTION_SCHEMA, _MAKING, seed), section)
    judging.judge(question, section, language, others)
    if checked:
        _check(model, question, section, language, seed)
    return question


def _check(model: Asker, question: Question, section: Section, language: Language, seed: int) -> None:
    """Whether the model, asked without being told, finds this one answer right and no other."""
    request = prompts.check(question, section, language)
    answer = model.ask(request, prompts.check_schema(question), _CHECKING, seed)
    right = answer.get("right") if isinstance(answer, Mapping) else None
    if not isinstance(right, list) or not all(isinstance(one, str) for one in right):
        raise BrokenAnswerError("the check is no list of answers")
    found = set(right)
    if found != {question.right}:
        what = "no answer" if not found else "several answers" if len(found) > 1 else "another answer"
        raise RefusedError(f"the check found {what} right")
