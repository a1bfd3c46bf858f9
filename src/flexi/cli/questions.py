"""`flexi questions`: from a course text to Moodle XML."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flexi.errors import EXIT_FAILED, EXIT_OK, InputError
from flexi.questions import course_text, embedding, making, moodle_xml
from flexi.questions.chat import Chat
from flexi.questions.course_text import Section
from flexi.questions.embedding import Bank
from flexi.questions.judging import Question
from flexi.questions.language import Language, detect
from flexi.questions.making import Made
from flexi.questions.moodle_xml import Category

KEY_VARIABLE = "FLEXI_API_KEY"
_CATEGORY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_UMLAUTS = {"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"}
_MOST = 200


@click.command("questions")
@click.argument("course_text_file", metavar="COURSE-TEXT", type=click.Path(path_type=Path))
@click.option("--count", type=click.IntRange(1, _MOST), required=True, help="How many questions.")
@click.option("--model", required=True, help="The model that makes them, by its name at the gateway.")
@click.option("--language", type=click.Choice(["de", "en"]), help="Of the questions; default: the text's own.")
@click.option("--to", type=click.Path(path_type=Path), metavar="FILE", help="Default: COURSE-TEXT with .questions.xml.")
@click.option("--overwrite", is_flag=True, help="FILE may be there already.")
@click.option("--category", metavar="NAME", help="Category of the question bank; default: the file's name.")
@click.option("--category-id", metavar="ID", help="Its idnumber; default: made from the file's name.")
@click.option("--no-check", is_flag=True, help="Do not ask the model again whether just one answer is right.")
@click.option("--url", envvar="FLEXI_API_URL", show_envvar=True, help="The gateway.")
@click.option("--key-file", type=click.Path(path_type=Path), help=f"Holds the API key; default: {KEY_VARIABLE}.")
@click.option("--embed-secret-file", type=click.Path(path_type=Path), help="Holds the secret of Moodle's embed filter.")
@click.option("--bank", default="", metavar="ID", help="Moodle 5: idnumber of the question bank, for embed codes.")
@click.option("--course", default="", metavar="NAME", help="Moodle 5: short name of the bank's course.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for a program instead of text.")
def questions(
    course_text_file: Path,
    count: int,
    model: str,
    language: Language | None,
    to: Path | None,
    overwrite: bool,
    category: str | None,
    category_id: str | None,
    no_check: bool,
    url: str | None,
    key_file: Path | None,
    embed_secret_file: Path | None,
    bank: str,
    course: str,
    as_json: bool,
) -> None:
    """Make multiple-choice questions about COURSE-TEXT (Markdown, HTML, plain text) and write them as Moodle XML.

    Each question has one right answer that the text proves, three wrong ones, and feedback. Exit status 1: there are
    fewer than --count.
    """
    text = course_text.read(course_text_file)
    language = _language(text, course_text_file, language)
    target = to or course_text_file.with_suffix(".questions.xml")
    _check_target(target, course_text_file, overwrite)
    chosen = Category(
        name=(category or course_text_file.stem).strip() or course_text_file.stem,
        idnumber=_category_id(category_id, course_text_file),
        source=course_text_file.name,
        model=model,
    )
    where = Bank(bank, course)
    if course and not bank:
        raise InputError("--course without --bank: a course's bank is named by its idnumber too")
    secret = embedding.read_secret(embed_secret_file) if embed_secret_file else None
    sections = course_text.sections(text)
    with _progress(count) as done:
        made = making.make(_chat(url, model, key_file), sections, count, language, checked=not no_check, done=done)
    if made.questions:
        _write(target, moodle_xml.document(chosen, made.questions, language))
    report = _report(made, count, language, sections, chosen, where, secret, target)
    if as_json:
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        _show(report, secret)
    sys.exit(EXIT_OK if len(made.questions) == count else EXIT_FAILED)


def _language(text: str, path: Path, wanted: Language | None) -> Language:
    found = wanted or detect(text)
    if found is None:
        raise InputError(f"{path}: is neither clearly German nor clearly English; say --language de or --language en")
    return found


def _check_target(target: Path, source: Path, overwrite: bool) -> None:
    """Before minutes of work, not after them."""
    if target.exists() and not overwrite:
        raise InputError(f"{target}: is there already; name another file with --to, or say --overwrite")
    if target.is_dir() or target.resolve() == source.resolve():
        raise InputError(f"{target}: cannot become the questions; name another file with --to")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise InputError(f"{target}: no file can be made there; name another place with --to")


def _category_id(given: str | None, path: Path) -> str:
    if given is not None:
        if not _CATEGORY_ID.fullmatch(given):
            raise InputError(f"--category-id {given!r}: write letters, digits, '.', '_' and '-', at most 80")
        return given
    plain = path.stem.lower()
    for letter, letters in _UMLAUTS.items():
        plain = plain.replace(letter, letters)
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:80].strip("-") or "questions"


def _chat(url: str | None, model: str, key_file: Path | None) -> Chat:
    if not url:
        raise InputError("where is the gateway? Say --url https://flexi.example.edu, or set FLEXI_API_URL")
    key = os.environ.get(KEY_VARIABLE)
    if key_file is not None:
        try:
            key = key_file.read_text(encoding="ascii")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "is no text"
            raise InputError(f"{key_file}: cannot be read ({reason})") from None
    key = (key or "").strip() or None
    if key is not None and not re.fullmatch(r"[!-~]+", key):
        raise InputError(
            f"{key_file or KEY_VARIABLE}: holds no API key; write the one word that `flexi keys add` showed"
        )
    return Chat(url, model, key)


@contextmanager
def _progress(count: int) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; elsewhere a line for each question."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield lambda made, tried: click.echo(f"{tried} of {count} tried, {made} made", err=True)
        return
    columns = (TextColumn("questions"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=count)
        yield lambda made, tried: bar.update(task, completed=tried)


def _write(target: Path, content: bytes) -> None:
    """Whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, target)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise InputError(f"{target}: cannot be written ({error.strerror})") from None
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _report(
    made: Made,
    count: int,
    language: Language,
    sections: tuple[Section, ...],
    category: Category,
    bank: Bank,
    secret: str | None,
    target: Path,
) -> dict[str, Any]:
    def entry(question: Question) -> Mapping[str, Any]:
        idnumber = moodle_xml.question_id(category, question)
        embedded = embedding.embed_id(category.idnumber, idnumber, bank)
        return {
            "idnumber": idnumber,
            "section": question.section,
            "question": question.text,
            "right": question.right,
            "explanation": question.explanation,
            "wrong": [{"answer": wrong.answer, "why": wrong.why} for wrong in question.wrong],
            "quote": question.quote,
            "embed_id": embedded,
            "embed_code": embedding.embed_code(embedded, secret) if secret else None,
        }

    return {
        "schema": 1,
        "file": str(target) if made.questions else None,
        "language": language,
        "category": {"name": category.name, "idnumber": category.idnumber},
        "wanted": count,
        "made": len(made.questions),
        "sections": len(sections),
        "refused": dict(made.refused),
        "stopped": made.stopped,
        "questions": [entry(question) for question in made.questions],
    }


def _show(report: Mapping[str, Any], secret: str | None) -> None:
    touched = len({entry["section"] for entry in report["questions"]})
    if report["file"]:
        click.echo(f"{report['file']}: {report['made']} questions from {touched} of {report['sections']} sections")
        for entry in report["questions"]:
            click.echo(entry["embed_code"] or entry["embed_id"])
        if secret is None:
            click.echo(
                "These are ids, not yet embed codes: those need the Moodle site's secret (--embed-secret-file FILE); "
                "its admin reads it with php admin/cli/cfg.php --component=filter_embedquestion --name=secret.",
                err=True,
            )
    for reason, times in sorted(report["refused"].items(), key=lambda item: -item[1]):
        click.echo(f"refused {times} times: {reason}", err=True)
    if report["stopped"]:
        click.echo(f"stopped early: {report['stopped']}", err=True)
    if report["made"] < report["wanted"]:
        remedy = "take a larger model, a longer text, or a smaller --count"
        click.echo(f"flexi: {report['made']} of {report['wanted']} questions were made; {remedy}", err=True)
