"""Course bots end to end: a deploy indexes what changed and nothing else, and a bot is there for its course alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_person import Member, member
from lab_site import Change, Figure, Site, access_log, changed, flexi, until

from flexi.catalog.consumers import CHAT_CONSUMER
from flexi.components.chat_programs import chat_program

pytestmark = pytest.mark.usefixtures("site")

OURS = "course-statistik-1"
FOREIGN = "course-night-sky"
"""Of a course that the lab's test account does not belong to."""
ONLY = ("--limit", "gateway")
"""The chat's host."""
MORE = 8
"""Courses beside the lab's two."""


@pytest.fixture
def student(site: Site) -> Iterator[Member]:
    with member(site) as somebody:
        yield somebody


def bots(site: Site) -> dict[str, Any]:
    """What course bots the chat has, as our own program on its host sees them."""
    url = site.plan.chat.inside_url  # type: ignore[union-attr]
    done = site.ssh("gateway", f"sudo {chat_program('courses', '--url', url, 'state')}")
    assert done.status == 0, done.text
    found: dict[str, Any] = json.loads(done.stdout)
    return found["courses"]


def asked(site: Site, *paths: str) -> int:
    """How many requests of the chat for `paths` stand in the gateway's access log."""
    lines = access_log(site)
    return len([line for line in lines if line["consumer"] == CHAT_CONSUMER and line["path"] in paths])


def test_a_bot_answers_from_its_material_and_says_where(site: Site) -> None:
    done = flexi("courses", "ask", str(site.file), "night-sky", "When is the first observing evening?", "--json")
    assert done.status == 0, done.text
    answer = json.loads(done.stdout)
    assert "14 January 2027" in answer["answer"]
    assert "observing.md" in [source["name"] for source in answer["sources"]]
    passages = " ".join(p["text"] for source in answer["sources"] for p in source["passages"])
    assert "Hollow Hill" in passages
    for_people = flexi("courses", "ask", str(site.file), "statistik-1", "Wann und wo ist die Klausur?")
    assert for_people.status == 0, for_people.text
    assert "Alten Reithalle" in for_people.stdout
    assert "termine.md" in for_people.stdout.partition("sources:")[2]


def test_a_course_that_is_not_there_is_named(site: Site) -> None:
    done = flexi("courses", "ask", str(site.file), "night-skies", "x")
    assert done.status == 2
    assert "night-skies is no course of the site: did you mean 'night-sky'?" in done.stderr


def test_whoever_is_not_of_the_course_neither_finds_nor_reaches_it(site: Site, student: Member) -> None:
    listed = student.models()
    assert OURS in listed
    assert FOREIGN not in listed
    knowledge = {item["name"] for item in student.get("/api/v1/knowledge/")["items"]}
    assert knowledge == {"Statistik 1"}
    foreign = bots_rows(site, FOREIGN)
    before = asked(site, "/api/chat", "/api/generate", "/api/embed")
    question = [{"role": "user", "content": "When is the first observing evening?"}]
    tries = [
        ("POST", "/api/chat/completions", {"model": FOREIGN, "messages": question}),
        ("POST", "/api/v1/chat/completions", {"model": FOREIGN, "messages": question}),
        ("POST", "/ollama/api/chat", {"model": FOREIGN, "messages": question}),
        ("POST", "/ollama/api/generate", {"model": FOREIGN, "prompt": "x"}),
        ("POST", "/ollama/v1/chat/completions", {"model": FOREIGN, "messages": question}),
        ("GET", f"/api/v1/models/model?id={FOREIGN}", None),
        ("GET", f"/api/v1/knowledge/{foreign['knowledge']}", None),
        ("GET", f"/api/v1/knowledge/{foreign['knowledge']}/files", None),
        ("GET", f"/api/v1/files/{foreign['file']}", None),
        ("GET", f"/api/v1/files/{foreign['file']}/content", None),
        (
            "POST",
            "/api/v1/retrieval/query/collection",
            {"collection_names": [foreign["knowledge"]], "query": "evening"},
        ),
        ("POST", "/api/v1/retrieval/query/doc", {"collection_name": f"file-{foreign['file']}", "query": "evening"}),
    ]
    for method, path, body in tries:
        answer = student.request(method, path, body)
        assert 400 <= answer.status_code < 500, f"{path}: {answer.status_code} {answer.text}"
        assert "Hollow Hill" not in answer.text
    until(lambda: asked(site, "/api/tags") >= 0, 5, "the log can be read")
    assert asked(site, "/api/chat", "/api/generate", "/api/embed") == before
    # Its index, named in a request to a bot that is the student's own, adds nothing to the answer.
    attached = [{"type": "collection", "id": foreign["knowledge"]}]
    answer = student.post(
        "/api/chat/completions", {"model": OURS, "messages": question, "files": attached, "stream": False}
    )
    assert "Hollow Hill" not in json.dumps(answer)


def bots_rows(site: Site, bot: str) -> dict[str, str]:
    """Ids of a bot's index and of a file in it, which nobody outside of the course should need to guess."""
    script = (
        "import json, sqlite3; d = sqlite3.connect('file:/var/lib/flexi-chat/webui.db?mode=ro', uri=True); "
        f"meta = d.execute(\"select meta from model where id = '{bot}'\").fetchone()[0]; "
        "k = json.loads(meta)['knowledge'][0]['id']; "
        "f = d.execute('select file_id from knowledge_file where knowledge_id = ?', (k,)).fetchone()[0]; "
        "print(json.dumps({'knowledge': k, 'file': f}))"
    )
    done = site.ssh("gateway", "sudo python3 -", stdin=script)
    assert done.status == 0, done.text
    rows: dict[str, str] = json.loads(done.stdout)
    return rows


@pytest.fixture
def ten(site: Site) -> Iterator[Path]:
    """A site file whose courses folder holds the lab's two courses and eight more."""
    folder = site.file.parent / "ten-courses"
    shutil.copytree(site.file.parent / "lab" / "courses", folder)
    for number in range(MORE):
        material = folder / f"more-{number}" / "material"
        (material / "Übungen").mkdir(parents=True)
        for file in range(3):
            (material / "Übungen" / f"Blatt {file}.md").write_text(f"# Blatt {file}\n\nKurs {number}: {file * 7}.\n")
        (material.parent / "course.yaml").write_text(
            f"id: more-{number}\ntitle: Kurs {number}\naccess: {{groups: [kurs-{number}]}}\n"
        )
    yield changed(site, "courses: lab/courses", "courses: ten-courses", "ten-courses")
    shutil.rmtree(folder)
    done = site.pyinfra("-y", *ONLY)
    assert done.status == 0, done.text[-4000:]
    assert set(bots(site)) == {"night-sky", "statistik-1"}


BRING: Change = ("gateway", "Course bots | Bring course material")
WRITE: Change = ("gateway", "Course bots | Write what course bots there should be")
MAKE: Change = ("gateway", "Course bots | Make the course bots so")


def test_ten_courses_a_second_deploy_and_one_changed_file(site: Site, ten: Path, figure: Figure) -> None:
    timer_just_ran(site)
    assert site.as_foretold(*ONLY, site_file=ten) == {BRING, WRITE, MAKE}
    assert len(bots(site)) == MORE + 2
    assert changes(site, ten) == set()

    before, embeddings = bots_files(site), asked(site, "/api/embed")
    sheet = ten.parent / "ten-courses" / "more-3" / "material" / "Übungen" / "Blatt 1.md"
    sheet.write_text("# Blatt 1\n\nDas Geheimwort ist Quittenbrot.\n")
    assert changes(site, ten) == {BRING, WRITE, MAKE}
    after = bots_files(site)
    gone, new = before.keys() - after.keys(), after.keys() - before.keys()
    assert [before[file] for file in gone] == [after[file] for file in new] == [("more-3", "Übungen/Blatt 1.md")]
    until(lambda: asked(site, "/api/embed") > embeddings, 20, "the embeddings are in the access log")
    figure(f"one changed file of {len(after)}: {asked(site, '/api/embed') - embeddings} requests for embeddings")
    # Once for the file itself, once for its course.
    assert asked(site, "/api/embed") - embeddings == 2
    done = flexi("courses", "ask", str(ten), "more-3", "Wie heißt das Geheimwort?", "--json")
    assert "Quittenbrot" in json.loads(done.stdout)["answer"], done.text


def timer_just_ran(site: Site) -> None:
    """So that its next run, two minutes later, does not take the deploy's work from it."""
    done = site.ssh("gateway", "sudo systemctl start flexi-courses.service")
    assert done.status == 0, done.text


def changes(site: Site, site_file: Path) -> set[Change]:
    """Deploy, and say what changed."""
    timer_just_ran(site)
    done = site.pyinfra("-y", "--json", *ONLY, site_file=site_file)
    assert done.status == 0, done.text[-4000:]
    results = json.loads(done.stdout)["results"]["operations"]
    return {(host, step["name"]) for step in results for host in step["success"]}


def bots_files(site: Site) -> dict[str, tuple[str, str]]:
    """Every file in the chat: its id, and the course and the name that it was uploaded for."""
    script = (
        "import json, sqlite3; d = sqlite3.connect('file:/var/lib/flexi-chat/webui.db?mode=ro', uri=True); "
        "print(json.dumps({i: json.loads(m)['data'] for i, m in d.execute('select id, meta from file')}))"
    )
    done = site.ssh("gateway", "sudo python3 -", stdin=script)
    assert done.status == 0, done.text
    found = json.loads(done.stdout).items()
    return {key: (data["course"], data["path"]) for key, data in found if data.get("course")}
