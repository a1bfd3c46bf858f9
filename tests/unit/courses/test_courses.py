"""Course folders as teachers write them, and as they get them wrong."""

from __future__ import annotations

import io
import json
import os
import unicodedata
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from flexi.cli.main import cli
from flexi.courses import Course, load_courses
from flexi.courses.review import review
from flexi.errors import InputError
from flexi.site import SiteError

COURSE = """\
id: algorithms-1
title: Algorithmen für Anfänger
model: llama3:8b
access: {groups: [algorithms-2026]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one good course."""
    place = tmp_path / "courses" / "algorithms"
    (place / "material").mkdir(parents=True)
    (place / "course.yaml").write_text(COURSE, encoding="utf-8")
    (place / "material" / "heaps.md").write_text("# Heaps\n", encoding="utf-8")
    return place


def load(folder: Path) -> tuple[Course, ...]:
    return load_courses(folder.parent, "courses")


def findings(folder: Path) -> list[str]:
    with pytest.raises(SiteError) as refused:
        load(folder)
    return [str(finding) for finding in refused.value.findings]


def test_a_course_with_its_defaults(folder: Path) -> None:
    (course,) = load(folder)
    assert course.content.title == "Algorithmen für Anfänger"
    assert course.content.temperature == 0.2
    assert course.content.language is None
    assert [file.name for file in course.material] == ["heaps.md"]


def test_a_folder_that_is_one_course(folder: Path) -> None:
    assert [course.content.id for course in load_courses(folder, "x")] == ["algorithms-1"]


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        (
            "id: algorithms-1",
            "id: 63012",
            "courses/algorithms/course.yaml:1: id: 63012 is not text; write it in quotes",
        ),
        ("id: algorithms-1", "id: ../etc", "course.yaml:1: id: '../etc' is no course id"),
        ("model: ", "modle: ", "course.yaml:3: modle is no key that flexi knows; did you mean 'model'?"),
        ("title: ", "#", "title is missing; add it, e.g. title: Algorithms 1"),
        ("{groups: [algorithms-2026]}", "{}", "course.yaml:4: access names nobody"),
        ("{groups: [", "{everyone: true, groups: [", "access.everyone stands beside groups"),
        ("[algorithms-2026]", "[a, b, a]", "access.groups[2]: a stands here twice"),
        ("{groups: [algorithms-2026]}", "{accounts: [ada]}", "access.accounts[0]: 'ada' is no mail address"),
        ("model:", "temperature: 3\nmodel:", "temperature: 3 is too large; write 2.0 or less"),
        ("model: llama3:8b", "model: llama 3", "model: 'llama 3' is no model name"),
        ("model: llama3:8b", "system_prompt: ' '", "system_prompt: ' ' is no text"),
        ("model: llama3:8b", 'welcome: "a\\ab"', "holds a control character"),
        ("model: llama3:8b", "language: fr", "language: 'fr' is none of the values that are allowed"),
        ("model: llama3:8b", "questions: [a, a]", "questions[1]: a stands here twice"),
        (COURSE, "", "courses/algorithms/course.yaml:1: is empty; start from docs/chat/courses.md"),
    ],
)
def test_a_wrong_course_file_is_one_finding(folder: Path, old: str, new: str, finding: str) -> None:
    text = COURSE.replace(old, new, 1)
    assert text != COURSE
    (folder / "course.yaml").write_text(text, encoding="utf-8")
    (found,) = findings(folder)
    assert finding in found


def test_no_course_file_no_material(folder: Path) -> None:
    (folder / "course.yaml").unlink()
    (folder / "material" / "heaps.md").unlink()
    assert findings(folder) == [
        "courses/algorithms/course.yaml: does not exist; check the spelling",
        "courses/algorithms/material: holds no file; put the course's texts there",
    ]
    (folder / "material").rmdir()
    assert "courses/algorithms/material: is no folder" in findings(folder)[1]


def test_two_courses_with_one_id(folder: Path) -> None:
    again = folder.with_name("again")
    (again / "material").mkdir(parents=True)
    (again / "material" / "x.txt").write_text("x")
    (again / "course.yaml").write_text(COURSE)
    (found,) = findings(folder)
    assert found.startswith("courses/algorithms/course.yaml:1: id: algorithms-1 is the id of courses/again/course.yaml")


def test_what_lies_beside_is_no_course(folder: Path) -> None:
    (folder.parent / "README.md").write_text("x")
    (folder.parent / ".git").mkdir()
    assert len(load(folder)) == 1


@pytest.mark.parametrize("path", ["n" * 300, "loop"])
def test_a_folder_that_the_system_will_not_open_is_one_sentence(path: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(SiteError, match=r"courses: cannot be read \((file name too long|too many levels .*)\)"):
        load_courses(tmp_path / path, "courses")


def test_no_folder_and_no_course(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="courses: is no folder"):
        load_courses(tmp_path / "courses", "courses")
    (tmp_path / "courses").mkdir()
    with pytest.raises(SiteError, match="courses: holds no course"):
        load_courses(tmp_path / "courses", "courses")


def test_folders_umlauts_and_what_desktops_leave(folder: Path) -> None:
    material = folder / "material"
    (material / "Kapitel 1").mkdir()
    # As macOS writes it: the umlaut in two code points.
    (material / "Kapitel 1" / unicodedata.normalize("NFD", "Übung.PDF")).write_bytes(b"%PDF")
    for name in (".DS_Store", "~$heaps.docx", "Thumbs.db"):
        (material / name).write_text("x")
    (course,) = load(folder)
    assert [file.name for file in course.material] == ["Kapitel 1/Übung.PDF", "heaps.md"]
    assert course.material[0].kind == "application/pdf"


def make_link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def make_huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(100 * 2**20 + 1)


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("passwords.txt", make_link, "passwords.txt: is a link, which could lead anywhere"),
        ("pipe.txt", os.mkfifo, "pipe.txt: is no regular file"),
        ("movie.txt", make_huge, "movie.txt: has more than 100 MiB"),
        ("nothing.md", lambda path: path.touch(), "nothing.md: is empty"),
        ("slides.pptx", lambda path: path.write_text("x"), "slides.pptx: is no kind of file that the chat can read"),
        ("two\nlines.md", lambda path: path.write_text("x"), "two?lines.md: has a name with control characters"),
        ("x" * 198 + ".md", lambda path: path.write_text("x"), "has a name of more than 200 bytes"),
        ("HEAPS.md", lambda path: path.write_text("x"), "has the same name as 'HEAPS.md' but for capitals"),
        (os.fsdecode(b"\xff.md"), lambda path: path.write_text("x"), "has a name that is not UTF-8"),
    ],
)
def test_what_cannot_be_material(folder: Path, name: str, make: object, reason: str) -> None:
    make(folder / "material" / name)  # type: ignore[operator]
    (found,) = findings(folder)
    assert reason in found
    assert found.isprintable()


def test_a_folder_that_is_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (folder / "material" / "more").symlink_to(tmp_path / "elsewhere")
    (found,) = findings(folder)
    assert "material/more: is a link" in found


def pdf(content: bytes) -> bytes:
    """A PDF of one page with this content stream (ISO 32000-1, 7.5)."""
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]/Contents 4 0 R/Resources<</Font<</F 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(content), content),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    raw, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(raw))
        raw += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    trailer = b"trailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % len(raw)
    return raw + b"xref\n0 6\n0000000000 65535 f \n" + table + trailer


def docx(text: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", f"<w:document><w:p><w:t>{text}</w:t></w:p></w:document>")
    return buffer.getvalue()


WITH_TEXT = {
    "a.pdf": pdf(b"BT /F 12 Tf (Heaps) Tj ET"),
    "a.docx": docx("Heaps"),
    "a.html": b"<html><style>x</style><body><p>Heaps</p></body></html>",
    "a.md": "Übung".encode(),
}
WITHOUT = {
    "a.pdf": (pdf(b"0 0 99 99 re f"), "a.pdf: holds no text; a scan needs text recognition first"),
    "b.pdf": (b"%PDF-1.4 nothing", "b.pdf: is no PDF that can be read"),
    "a.docx": (docx(" "), "a.docx: holds no text"),
    "b.docx": (b"PK nothing", "b.docx: is no Word document"),
    "a.html": (b"<script>var text = 1;</script>", "a.html: holds no text"),
    "a.md": (b"\xdcbung", "a.md: is not UTF-8 (line 1)"),
    "b.md": (b" \n", "b.md: holds no text"),
}


@pytest.mark.parametrize("name", WITH_TEXT)
def test_material_with_text(folder: Path, name: str) -> None:
    (folder / "material" / name).write_bytes(WITH_TEXT[name])
    (reviewed,) = review(load(folder), lambda course, file: None)
    assert reviewed.findings == ()


def test_check_names_each_file_without_text(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, (content, _) in WITHOUT.items():
        (folder / "material" / name).write_bytes(content)
    (folder / "material" / "copy.md").write_bytes((folder / "material" / "heaps.md").read_bytes())
    done = CliRunner().invoke(cli, ["courses", "check", str(folder)])
    assert done.exit_code == 2
    for _, finding in WITHOUT.values():
        assert finding in done.stderr
    assert "heaps.md: is the same as copy.md; remove one of the two" in done.stderr
    assert "algorithms-1: 8 of 9 files are no use" in done.stdout
    report = json.loads(CliRunner().invoke(cli, ["courses", "check", str(folder), "--json"]).stdout)
    assert report["ok"] is False
    assert len(report["findings"]) == 8
    assert caplog.text == "", "what the PDF reader says has no file's name"


def test_check_of_a_good_folder_and_of_a_site_without_courses(folder: Path) -> None:
    done = CliRunner().invoke(cli, ["courses", "check", str(folder.parent), "--json"])
    assert done.exit_code == 0
    course = {"id": "algorithms-1", "title": "Algorithmen für Anfänger", "files": 1, "bytes": 8, "ok": True}
    assert json.loads(done.stdout) == {"schema": 1, "ok": True, "courses": [course], "findings": []}
    with pytest.raises(InputError, match="the site has no courses"):
        CliRunner().invoke(cli, ["courses", "check", "example"], catch_exceptions=False)
