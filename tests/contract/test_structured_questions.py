"""`flexi questions` as its users call it, against a server that makes structured answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from lxml import etree

from flexi.cli.questions import questions
from flexi.paths import ROOT
from flexi.questions.chat import Chat, GatewayError

MATERIAL = ROOT / "inventory/lab/courses"
SCHEMA = etree.XMLSchema(etree.parse(ROOT / "tests/unit/questions/moodle-questions.xsd"))


@pytest.mark.parametrize(
    ("text", "language"),
    [("statistik-1/material/einheit-1-lage.md", "de"), ("night-sky/material/motion.md", "en")],
)
def test_questions_about_a_course_text(ollama_url: str, model: str, tmp_path: Path, text: str, language: str) -> None:
    target, secret = tmp_path / "made.xml", tmp_path / "secret"
    secret.write_text("s3cret\n")
    arguments = [MATERIAL / text, "--count", "3", "--model", model, "--url", ollama_url, "--to", target]
    done = CliRunner().invoke(questions, [*map(str, arguments), "--json", "--embed-secret-file", str(secret)])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["made"], report["language"], report["file"]) == (3, language, str(target))
    tree = etree.parse(target)
    SCHEMA.assertValid(tree)
    said = " ".join((MATERIAL / text).read_text().split())
    for entry in report["questions"]:
        assert entry["quote"] in said
        assert len({entry["right"], *(wrong["answer"] for wrong in entry["wrong"])}) == 4
    assert [entry["idnumber"] for entry in report["questions"]] == [
        element.text for element in tree.iterfind("question[@type='multichoice']/idnumber")
    ]
    assert "s3cret" not in done.output
    assert {path.name for path in tmp_path.iterdir()} == {"made.xml", "secret"}


def test_a_model_that_is_not_there_is_one_clear_error(ollama_url: str) -> None:
    with pytest.raises(GatewayError, match="nosuchmodel"):
        Chat(ollama_url, "nosuchmodel").ask([{"role": "user", "content": "x"}], {"type": "object"}, 0, 1)
