"""Questions as Moodle XML.

Source: moodle/moodle, question/format/xml/format.php (import_category, import_multichoice, import_headers,
writequestion) and question/format.php (create_category_path, split_category_path). What people read is HTML in an
element of its own, as Moodle's export has it; ElementTree escapes where Moodle writes CDATA, which reads the same.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from .judging import Question
from .language import Language

ID_LENGTH = 100
"""Characters of idnumbers in Moodle's tables (lib/db/install.xml: question_categories, question_bank_entries)."""
_DIGEST = 12
_NAME = 80

_WORDS: dict[Language, dict[str, str]] = {
    "de": {
        "correctfeedback": "Die Antwort ist richtig.",
        "partiallycorrectfeedback": "Die Antwort ist teilweise richtig.",
        "incorrectfeedback": "Die Antwort ist falsch.",
        "proof": "Im Text: „{}“",
        "info": "Fragen zu {source}, von einem Sprachmodell ({model}) gemacht. Vor der Verwendung prüfen.",
    },
    "en": {
        "correctfeedback": "Your answer is correct.",
        "partiallycorrectfeedback": "Your answer is partially correct.",
        "incorrectfeedback": "Your answer is incorrect.",
        "proof": "In the text: “{}”",
        "info": "Questions about {source}, made by a language model ({model}). Review them before use.",
    },
}


@dataclass(frozen=True)
class Category:
    """A category of the question bank: its name, and the idnumber by which questions in it can be embedded."""

    name: str
    idnumber: str
    source: str
    """What the questions are about."""
    model: str


def question_id(category: Category, question: Question) -> str:
    """The same for the same question in every run, and no other's."""
    return f"{category.idnumber}-{question.digest[:_DIGEST]}"


def document(category: Category, questions: Sequence[Question], language: Language) -> bytes:
    """The file, UTF-8. Moodle makes the category under the top one of the bank into which the file is imported."""
    quiz = Element("quiz")
    head = SubElement(quiz, "question", type="category")
    _text(SubElement(head, "category"), _path(category.name))
    info = SubElement(head, "info", format="html")
    _text(info, _html(_WORDS[language]["info"].format(source=category.source, model=category.model)))
    SubElement(head, "idnumber").text = category.idnumber
    for number, question in enumerate(questions, 1):
        quiz.append(_question(category, question, number, language))
    ElementTree.indent(quiz)
    content: bytes = ElementTree.tostring(quiz, encoding="UTF-8", xml_declaration=True)
    return content + b"\n"


def _path(name: str) -> str:
    """Below the top category. Moodle splits at single slashes, and reads two as one of a name."""
    escaped = name.replace("/", "//")
    return f"top/{' ' if escaped.startswith('/') else ''}{escaped}"


def _question(category: Category, question: Question, number: int, language: Language) -> Element:
    words = _WORDS[language]
    element = Element("question", type="multichoice")
    _text(SubElement(element, "name"), f"{number:03} {_short(question.text)}")
    _formatted(element, "questiontext", question.text)
    _formatted(element, "generalfeedback", words["proof"].format(question.quote))
    SubElement(element, "defaultgrade").text = "1.0000000"
    SubElement(element, "penalty").text = "0.3333333"
    SubElement(element, "hidden").text = "0"
    SubElement(element, "idnumber").text = question_id(category, question)
    SubElement(element, "single").text = "true"
    SubElement(element, "shuffleanswers").text = "true"
    SubElement(element, "answernumbering").text = "abc"
    SubElement(element, "showstandardinstruction").text = "0"
    for name in ("correctfeedback", "partiallycorrectfeedback", "incorrectfeedback"):
        _formatted(element, name, words[name])
    _answer(element, question.right, question.explanation, right=True)
    for wrong in question.wrong:
        _answer(element, wrong.answer, wrong.why, right=False)
    return element


def _answer(question: Element, text: str, feedback: str, *, right: bool) -> None:
    answer = SubElement(question, "answer", fraction="100" if right else "0", format="html")
    _text(answer, _html(text))
    _formatted(answer, "feedback", feedback)


def _formatted(parent: Element, name: str, text: str) -> None:
    _text(SubElement(parent, name, format="html"), _html(text))


def _text(parent: Element, text: str) -> None:
    SubElement(parent, "text").text = text


def _html(text: str) -> str:
    return f"<p>{html.escape(text, quote=False)}</p>"


def _short(text: str) -> str:
    return text if len(text) <= _NAME else text[:_NAME].rsplit(" ", 1)[0] + " …"
