"""Questions about a course text: what is refused, how often is asked, and what Moodle gets."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from support.course_text import GOOD, TEXT

from flexi.errors import InputError
from flexi.questions import course_text, embedding, judging, making, moodle_xml
from flexi.questions.chat import BrokenAnswerError, GatewayError
from flexi.questions.course_text import Section
from flexi.questions.judging import Question, RefusedError
from flexi.questions.language import detect
from flexi.questions.moodle_xml import Category

SECTION = Section(1, 0, TEXT)
SCHEMA = etree.XMLSchema(etree.parse(Path(__file__).with_name("moodle-questions.xsd")))


def question(**changes: Any) -> Question:
    return judging.read({**copy.deepcopy(GOOD), **changes}, SECTION)


def refusal(asked: Question, others: Sequence[Question] = ()) -> str:
    with pytest.raises(RefusedError) as refused:
        judging.judge(asked, SECTION, "de", others)
    return str(refused.value)


def wrong(*answers: str) -> list[dict[str, str]]:
    return [{"answer": answer, "why": "Das stimmt nicht."} for answer in answers]


def test_a_good_question_passes() -> None:
    judging.judge(question(), SECTION, "de", [])


@pytest.mark.parametrize(
    "quote",
    [
        "für ordinale Merkmale ist der “Median” zulässig … das Mittel nicht",
        "Er ist robust gegen Ausreißer, weil er\n nur die Reihenfolge",
        "Er ist **robust gegen Ausreißer**, weil er nur",
    ],
)
def test_a_quote_may_differ_in_what_nobody_sees(quote: str) -> None:
    judging.judge(question(quote=quote), SECTION, "de", [])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"quote": "Der Median ist robust, weil Ausreißer keine Rolle spielen."}, "word for word"),
        ({"quote": "Der Median"}, "shorter than three words"),
        ({"quote": "…"}, "shorter than three words"),
        ({"quote": "Bei 3, 5 und 100 liegt es bei 36."}, "nothing to do"),
        ({"right": "Er verwendet ausschließlich Rangplätze."}, "not found in the text"),
        ({"right": "Der Median liegt bei 37."}, "not found in the text"),
        ({"wrong": wrong("A", "b", " a. ")}, "the same"),
        ({"wrong": wrong("Er nutzt nur die REIHENFOLGE der Werte", "b b", "c c")}, "the same"),
        ({"wrong": wrong("eins", "zwei")}, "2 wrong answers"),
        ({"wrong": wrong("eins", "zwei", "drei", "vier")}, "4 wrong answers"),
        ({"question": "Median?"}, "3 words"),
        ({"question": "Der Median ist robust: er nutzt nur die Reihenfolge der Werte, warum?"}, "its own answer"),
        ({"wrong": wrong("eins", "zwei", "x" * 301)}, "300 characters"),
        (
            {"question": "Why is the median robust against outliers and what does it use?", "right": "the order",
             "explanation": "That is what the text says of it and the values."},
            "language",
        ),
    ],
)  # fmt: skip
def test_what_may_not_stand_before_students(changes: dict[str, Any], reason: str) -> None:
    assert reason in refusal(question(**changes))


@pytest.mark.parametrize(
    "lazy",
    [
        "Alle genannten", "Alle oben genannten Antworten", "Keine der genannten", "Keine davon", "Nichts davon",
        "Beide Antworten sind richtig", "Alle Antworten", "Keine", "A und B", "Sowohl a als auch b", "Nur a und c",
        "All of the above", "None of these", "Both A and B", "Neither of them", "All", "a, b and c are correct",
        "Antwort a und b",
    ],
)  # fmt: skip
def test_answers_about_other_answers_are_refused(lazy: str) -> None:
    assert "about the other answers" in refusal(question(wrong=wrong("eins", "zwei", lazy)))


@pytest.mark.parametrize(
    "answer", ["Alle Werte gleich", "All values of the sample", "Both halves", "a und alle anderen", "Ein C und ein D"]
)
def test_words_that_only_look_like_it_pass(answer: str) -> None:
    judging.judge(question(wrong=wrong("eins", "zwei", answer)), SECTION, "de", [])


def test_signs_alone_can_be_answers() -> None:
    assert judging.judge(question(wrong=wrong("<", "<=", "=")), SECTION, "de", []) is None


def test_a_choice_named_in_the_question_does_not_give_it_away() -> None:
    asked = question(
        question="Was ist robust: Median, Mittel, Varianz oder Spannweite?",
        right="Median",
        wrong=wrong("Mittel", "Varianz", "Spannweite"),
    )
    judging.judge(asked, SECTION, "de", [])


def test_the_same_question_in_other_words_is_refused() -> None:
    other = question(question="Warum ist, gegen Ausreißer, der Median robust?")
    assert "already" in refusal(question(), [other])


@pytest.mark.parametrize(
    "answer", [[], "x", None, {}, {**GOOD, "right": 3}, {**GOOD, "right": "  "}, {**GOOD, "wrong": "abc"},
               {**GOOD, "wrong": ["a", "b", "c"]}, {**GOOD, "wrong": [{"answer": "a"}] * 3}]
)  # fmt: skip
def test_what_lacks_something_is_refused(answer: Any) -> None:
    with pytest.raises(RefusedError):
        judging.read(answer, SECTION)


def test_answers_lose_the_letters_that_moodle_adds() -> None:
    asked = question(right="b) Er nutzt nur die Reihenfolge", wrong=wrong("(a) eins", "C. zwei", "3 Werte"))
    assert asked.right == "Er nutzt nur die Reihenfolge"
    assert [one.answer for one in asked.wrong] == ["eins", "zwei", "3 Werte"]


def test_languages() -> None:
    assert detect(TEXT) == "de"
    assert detect("The median is robust, for it uses only the order of the values and not their size.") == "en"
    assert detect("La médiane est robuste parce qu'elle ne dépend que de l'ordre des valeurs.") is None
    assert detect("Median Mittel Varianz 3 5 36") is None
    assert detect("") is None


# Sections


def long_text(paragraphs: int) -> str:
    return "\n\n".join(f"## Abschnitt {n}\n\nSatz {n} sagt etwas Eigenes. " + "Wort " * 60 for n in range(paragraphs))


def test_sections_leave_nothing_out_and_are_alike() -> None:
    text = long_text(40)
    found = course_text.sections(text, 2000)
    assert " ".join(" ".join(section.text for section in found).split()) == " ".join(text.split())
    assert max(len(section.text) for section in found) <= 2000
    assert min(len(section.text) for section in found) > 700
    assert [section.start for section in found[1:]] == [section.end for section in found[:-1]]
    assert all(section.text.startswith("## ") for section in found)


def test_no_crumb_is_left_at_the_end() -> None:
    found = course_text.sections("\n\n".join(["x" * 99] * 21), 2000)
    assert [len(section.text.split()) for section in found] == [11, 10]


def test_a_paragraph_longer_than_a_section_is_cut_between_sentences() -> None:
    found = course_text.sections("Ein Satz mit fünf Wörtern. " * 300, 1000)
    assert all(section.text.endswith(".") for section in found)
    assert all(len(section.text) <= 1000 for section in course_text.sections("x" * 5000, 1000))


@pytest.mark.parametrize("count", [1, 3, 7, 20, 41])
def test_questions_cover_the_text_evenly(count: int) -> None:
    sections = course_text.sections(long_text(40), 2000)
    numbers = [place.number for place in course_text.places(sections, count)]
    assert len(numbers) == count
    share = count / len(sections)
    for section in sections:
        assert int(share * 0.5) <= numbers.count(section.number) <= share * 1.5 + 1
    assert max((b - a for a, b in zip([0, *numbers], [*numbers, len(sections) + 1], strict=True)), default=0) <= max(
        1, 2 * len(sections) / count
    )


def test_what_a_page_shows_and_what_it_hides(tmp_path: Path) -> None:
    page = tmp_path / "unit.html"
    page.write_text(
        f"<html><head><title>T</title><style>p {{}}</style></head><body><h2>Lage &amp; Streuung</h2><p>{TEXT}</p>"
        "<script>let x = 1</script><ul><li>eins<li>zwei</ul></body></html>"
    )
    text = course_text.read(page)
    assert "## Lage & Streuung" in text
    assert "let x" not in text
    assert "p {" not in text
    assert course_text.sections(text)[0].text.endswith("eins\n\nzwei")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.pdf", b"%PDF", "Markdown, HTML or plain text"),
        ("a.md", b"kurz", "at least 200"),
        ("a.md", b"gut\n" * 100 + b"\xff", "a.md:101"),
    ],
)
def test_what_is_no_text(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        course_text.read(path)


# Asking


class Model:
    """Says one thing after the other; checks are answered with the right answer unless said otherwise."""

    def __init__(self, *answers: Any, checks: Callable[[str], Any] | None = None) -> None:
        self.answers: Iterator[Any] = iter(answers)
        self.checks = checks
        self.requests: list[str] = []
        self.asked_checks: list[tuple[str, Mapping[str, Any]]] = []
        self.right = ""

    def ask(
        self, messages: Sequence[Mapping[str, str]], schema: Mapping[str, Any], temperature: float, seed: int
    ) -> Any:
        content = messages[-1]["content"]
        if "quote" not in schema["properties"]:
            self.asked_checks.append((content, schema))
            return self.checks(self.right) if self.checks else {"right": [self.right]}
        self.requests.append(content)
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        self.right = answer.get("right", "") if isinstance(answer, dict) else ""
        return copy.deepcopy(answer)


def about(n: int, **changes: Any) -> dict[str, Any]:
    """A question about the n-th section of `long_text`."""
    return {
        **GOOD, "quote": f"Satz {n} sagt etwas Eigenes.", "question": f"Was sagt der Satz mit der Nummer {n}?",
        "right": "etwas Eigenes", **changes,
    }  # fmt: skip


def test_a_refused_attempt_is_made_again_and_told_why() -> None:
    model = Model({**GOOD, "quote": "steht dort nicht drin"}, BrokenAnswerError("the answer is no JSON"), GOOD)
    made = making.make(model, [SECTION], 1, "de")
    assert [one.text for one in made.questions] == [GOOD["question"]]
    assert "word for word" in model.requests[1]
    assert "no JSON" in model.requests[2]
    assert sum(made.refused.values()) == 2


THREE = [Section(n + 1, n * 100, f"Satz {n} sagt etwas Eigenes. Und mehr. ".ljust(100, "x")) for n in range(3)]


def test_attempts_are_bounded() -> None:
    model = Model(*[{"bad": 1}] * 100)
    made = making.make(model, THREE, 3, "de")
    assert made.questions == ()
    # Three in its own section, and one in each of the neighbours: 1, 2 and 1.
    assert len(model.requests) == 3 * making.TRIES_AT_HOME + 4


def test_a_section_that_yields_nothing_is_made_up_for_by_its_neighbours() -> None:
    model = Model(about(0), *[{"bad": 1}] * 4, about(2), about(2, question="Was ist hier eigen?"))
    done: list[tuple[int, int]] = []
    made = making.make(model, THREE, 3, "de", done=lambda made, tried: done.append((made, tried)))
    assert done == [(1, 1), (2, 2), (3, 3)]
    assert [one.section for one in made.questions] == [1, 3, 3]


def test_questions_come_in_the_order_of_the_text() -> None:
    # Six places, two in each section; the first of the second section is made up for by the third.
    others = [about(n, question=f"Und was ist am {n}. Eintrag eigen?") for n in (0, 2)]
    model = Model(about(0), others[0], *[{"bad": 1}] * 4, about(2), about(1), others[1])
    with pytest.raises(StopIteration):
        making.make(model, THREE, 6, "de")
    model = Model(about(0), others[0], *[{"bad": 1}] * 4, about(2), about(1), others[1], *[{"bad": 1}] * 4)
    made = making.make(model, THREE, 6, "de")
    assert [one.section for one in made.questions] == [1, 1, 2, 3, 3]


def test_each_section_has_its_question() -> None:
    made = making.make(Model(about(0), about(1), about(2)), THREE, 3, "de")
    assert [one.section for one in made.questions] == [1, 2, 3]


def test_the_check_is_not_told_and_must_find_this_one_answer() -> None:
    for said in ([], [GOOD["right"], "Er lässt den größten Wert weg."], ["Er lässt den größten Wert weg."]):
        model = Model(*[GOOD] * 3, checks=lambda right, said=said: {"right": said})  # type: ignore[misc]
        assert making.make(model, [SECTION], 1, "de").questions == ()
    model = Model(GOOD)
    assert len(making.make(model, [SECTION], 1, "de").questions) == 1
    content, schema = model.asked_checks[0]
    assert GOOD["explanation"] not in content
    assert sorted(schema["properties"]["right"]["items"]["enum"]) == sorted(
        [GOOD["right"], *(one["answer"] for one in GOOD["wrong"])]
    )
    unchecked = Model(GOOD)
    making.make(unchecked, [SECTION], 1, "de", checked=False)
    assert unchecked.asked_checks == []


def test_the_right_answer_has_no_fixed_place() -> None:
    places = {
        question(question=f"Warum ist der Median robust, Nummer {n}?").options.index(GOOD["right"]) for n in range(40)
    }
    assert places == {0, 1, 2, 3}


def test_a_gateway_that_dies_leaves_what_was_made() -> None:
    made = making.make(Model(about(0), GatewayError("gone")), THREE, 3, "de")
    assert (len(made.questions), made.stopped) == (1, "gone")
    with pytest.raises(GatewayError):
        making.make(Model(GatewayError("gone")), THREE, 3, "de")


# Moodle XML


CATEGORY = Category('Lage/Streuung & "mehr"', "einheit-1", "einheit-1.md", "llama3:8b")


def test_the_file_is_moodle_xml() -> None:
    nasty = question(
        question="Gilt <b>a < b</b> && c ]]> d für den Median & Ausreißer?",
        right="Er nutzt „nur“ die Reihenfolge der <Werte>.",
    )
    tree = etree.fromstring(moodle_xml.document(CATEGORY, [question(), nasty], "de"))
    SCHEMA.assertValid(tree)
    head, first, second = tree
    assert head.findtext("category/text") == 'top/Lage//Streuung & "mehr"'
    assert head.findtext("idnumber") == "einheit-1"
    assert "llama3:8b" in (head.findtext("info/text") or "")
    # What a browser shows is what the model said: HTML in the element, escaped once more in the file.
    shown = etree.fromstring(second.findtext("questiontext/text") or "")
    assert shown.text == nasty.text
    assert [answer.get("fraction") for answer in second.iter("answer")] == ["100", "0", "0", "0"]
    assert first.findtext("answer/feedback/text") == f"<p>{GOOD['explanation']}</p>"
    assert GOOD["quote"] in (first.findtext("generalfeedback/text") or "")
    assert (first.findtext("single"), first.findtext("shuffleanswers")) == ("true", "true")
    assert (first.findtext("name/text") or "").startswith("001 Warum")


def test_the_schema_sees_what_is_wrong() -> None:
    """Of the schema: each of these would be lost or refused at Moodle's import."""
    good = moodle_xml.document(CATEGORY, [question()], "de")
    for old, new in [
        (b'fraction="100"', b'fraction="90"'),
        (b"<single>true", b"<single>1"),
        (b"<answernumbering>abc", b"<answernumbering>"),
        (b'<question type="multichoice">', b'<question type="multiplechoice">'),
        (b"<idnumber>einheit-1</idnumber>", b"<idnumber></idnumber>"),
        (b"<penalty>0.3333333", b"<penalty>33"),
    ]:
        assert old in good
        assert not SCHEMA.validate(etree.fromstring(good.replace(old, new, 1)))
    twice = moodle_xml.document(CATEGORY, [question(), question()], "de")
    assert not SCHEMA.validate(etree.fromstring(twice))


def test_idnumbers_stay_and_differ() -> None:
    first = moodle_xml.question_id(CATEGORY, question())
    # Of the documented rule, so that embed codes of today are good tomorrow.
    digest = hashlib.sha256(
        b"warum ist der median robust gegen ausreisser?\0er nutzt nur die reihenfolge der werte."
    ).hexdigest()
    assert first == f"einheit-1-{digest[:12]}"
    assert first == moodle_xml.question_id(CATEGORY, question(explanation="anders", quote="anders"))
    assert first != moodle_xml.question_id(CATEGORY, question(right="Er ist robust."))
    long = Category("x", "x" * 80, "x", "x")
    assert len(moodle_xml.question_id(long, question())) <= moodle_xml.ID_LENGTH


def test_control_characters_of_a_model_do_not_break_the_file() -> None:
    asked = question(explanation="Ausreißer\x00 ändern\x0b die\ufffe Reihen\u00adfolge \ud800nicht.")
    assert asked.explanation == "Ausreißer ändern die Reihenfolge nicht."


# Embed codes


@pytest.mark.parametrize(
    ("category", "asked", "bank", "expected"),
    [
        # moodleou/moodle-filter_embedquestion, tests/external_test.php, get_embed_code_cases.
        ("abc123", "toad", ("", ""), "abc123/toad"),
        ("abc123", "toad", ("id1", ""), "id1/abc123/toad"),
        ("abc123", "toad", ("id1", "c1"), "c1/id1/abc123/toad"),
        ("A/V questions", "|---> 100%", ("", ""), "A%2FV questions/%7C---> 100%25"),
    ],
)
def test_embed_ids_are_as_the_filter_makes_them(
    category: str, asked: str, bank: tuple[str, str], expected: str
) -> None:
    assert embedding.embed_id(category, asked, embedding.Bank(*bank)) == expected


def test_an_embed_code_carries_the_filters_token() -> None:
    # sha256sum of `abc123/toad#embed#secret`, by coreutils.
    token = "ad5da1247b4d593458b5a058a787ee5bcba0fbcd1c10e3786b447e5f21b581d7"
    code = embedding.embed_code("abc123/toad", "secret")
    assert code == f"{{Q{{abc123/toad|{token}}}Q}}"


def test_a_secret_is_one_word_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    for content in ("", "two words", "\n"):
        path.write_text(content)
        with pytest.raises(InputError, match="secret"):
            embedding.read_secret(path)
    path.write_text("s3cret\n")
    assert embedding.read_secret(path) == "s3cret"
    assert "s3cret" not in json.dumps({"code": embedding.embed_code("a/b", "s3cret")})
