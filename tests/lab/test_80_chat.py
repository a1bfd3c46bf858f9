"""The chat as people meet it: a real browser, from the sign-in to an answer with its source."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import pytest
from browser import PATIENCE_MS, Person, chromium, person
from lab_site import Figure, Site, access_log, flexi, run, until
from playwright.sync_api import Browser, Error, expect

from flexi.lab import chat_account as account
from flexi.lab.topology import STUDENT

pytestmark = pytest.mark.usefixtures("site")

BOT = "course-statistik-1"
FOREIGN_BOT = "course-night-sky"
"""Of a course that the lab's test account does not belong to."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def student(browser: Browser, site: Site) -> Iterator[Person]:
    """The lab's test account as on its first day, whose browser asks for German."""
    rows = json.loads(flexi("accounts", "list", str(site.file), "--json").stdout)["accounts"]
    if any(row["mail"] == STUDENT and row["accepted"] for row in rows):
        assert flexi("accounts", "remove", str(site.file), STUDENT, "--yes").status == 0
        account.provide(site.lab)
        site.env = site.lab.env()
    with person(browser, site.env["FLEXI_CHAT_URL"]) as somebody:
        yield somebody
        assert somebody.elsewhere == []


def test_a_student_signs_in_and_agrees_before_anything_else(student: Person, site: Site) -> None:
    page = student.page
    page.goto(student.url)
    expect(page.get_by_role("button", name="Anmelden", exact=True)).to_be_visible(timeout=PATIENCE_MS)
    student.sign_in(site.env["FLEXI_CHAT_USER"], site.env["FLEXI_CHAT_PASSWORD"])
    expect(page.get_by_role("heading", name="Nutzungsvereinbarung")).to_be_visible(timeout=PATIENCE_MS)
    student.picture("chat-agreement")
    assert student.fetch("/api/models")[0] == 403
    student.agree()
    assert student.fetch("/api/models")[0] == 200


def test_an_answer_appears_while_it_is_written(student: Person, figure: Figure) -> None:
    student.page.goto(student.url)
    student.at_the_chat()
    answer = student.ask("Was ist ein Sprachmodell?")
    assert '"Was ist ein Sprachmodell?"' in answer.text
    grown = [step for step in answer.growth if step["length"]]
    took = grown[-1]["at"] - grown[0]["at"]
    figure(f"an answer in the browser grew {len(grown)} times within {took:.0f} ms")
    assert len(grown) >= 10
    assert took > 500
    # The title is found by another request, and stands in the list of conversations.
    page = student.page
    expect(page).to_have_title("Was ist ein Sprachmodell? / FLEXI (Open WebUI)", timeout=PATIENCE_MS)


def test_a_course_bot_answers_from_the_material_and_shows_where(student: Person) -> None:
    student.choose(BOT)
    page = student.page
    expect(page.get_by_text("Frag mich zum Kurstext")).to_be_visible()
    expect(page.get_by_text("Wann und wo ist die Klausur?").first).to_be_visible()
    student.picture("chat-course")
    answer = student.ask("Wann und wo ist die Klausur?")
    assert "18. Februar 2027 um 14 Uhr in der Alten Reithalle" in answer.text
    source = answer.shown.get_by_role("button", name="termine.md").first
    source.click()
    expect(page.get_by_role("dialog")).to_contain_text("Alten Reithalle")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_text("Wann und wo ist die Klausur?").first.scroll_into_view_if_needed()
    student.picture("chat-citation")


def test_a_picture_in_an_answer_tells_nobody_outside(student: Person) -> None:
    """A model can be talked into one whose address holds what was said; the browser would fetch it unasked."""
    student.page.goto(student.url)
    student.at_the_chat()
    picture = "https://outside.example/secret.png"
    student.ask(f"![a picture]({picture})")
    assert picture in student.page.evaluate("window.refused")
    assert student.elsewhere == []


def test_a_bot_of_another_course_is_not_there(student: Person) -> None:
    status, listed = student.fetch("/api/models")
    assert status == 200
    names = {model["id"] for model in listed["data"]}
    assert BOT in names
    assert FOREIGN_BOT not in names
    student.choose(FOREIGN_BOT)
    expect(student.page.get_by_text("The Night Sky")).to_have_count(0)
    question = {"model": FOREIGN_BOT, "messages": [{"role": "user", "content": "When?"}], "stream": False}
    status, answer = student.fetch("/api/chat/completions", question)
    assert 400 <= status < 500, answer


def test_the_page_speaks_english_as_well(browser: Browser, site: Site) -> None:
    with person(browser, site.env["FLEXI_CHAT_URL"], "en-US") as visitor:
        visitor.page.goto(visitor.url)
        expect(visitor.page.get_by_role("button", name="Sign in", exact=True)).to_be_visible(timeout=PATIENCE_MS)
        visitor.sign_in(site.env["FLEXI_CHAT_USER"], site.env["FLEXI_CHAT_PASSWORD"])
        visitor.at_the_chat()
        visitor.page.goto(f"{visitor.url}/flexi/agreement")
        expect(visitor.page.get_by_role("heading", name="User agreement")).to_be_visible()
        visitor.page.get_by_role("link", name="Deutsch").click()
        expect(visitor.page.get_by_role("heading", name="Nutzungsvereinbarung")).to_be_visible()


def test_the_chats_name_leads_past_the_api_and_into_no_log(site: Site) -> None:
    name = "chat.flexi.lab.test"
    status, text = site.curl("/api/version", None, "-H", f"Host: {name}")
    assert (status, json.loads(text)["version"]) == (200, "0.12.4")
    before = _methods(site)
    site.curl("/api/ps", None, "-X", "DELETE", "-H", f"Host: {name}")
    site.curl("/api/ps", None, "-X", "PATCH")
    after = before + Counter(["PATCH"])
    until(lambda: _methods(site) == after, 20, "the API's request alone is in the log")
    # At the chat's own port any other name is led to it.
    done = run(["curl", "-sSi", "-H", "Host: old.example", f"{site.env['FLEXI_CHAT_URL']}/c/1"])
    assert done.stdout.startswith("HTTP/1.1 308")
    assert f"location: http://{name}:8080/c/1" in done.stdout


@pytest.mark.parametrize("unit", ["flexi-chat.service", "haproxy.service"])
def test_what_is_killed_in_the_middle_of_an_answer_loses_no_message(student: Person, site: Site, unit: str) -> None:
    student.page.goto(student.url)
    student.at_the_chat()
    before = student.messages()
    assert before
    question = f"Was bleibt, wenn {unit} stirbt?"
    student.start(question)
    killed = site.ssh("gateway", f"sudo systemctl kill -s KILL {unit}")
    assert killed.status == 0, killed.text
    until(lambda: _answers(student), 180, f"the chat is back after {unit} was killed")
    student.page.goto(student.url)
    student.at_the_chat()
    kept = student.messages()
    assert kept >= before | {f"user: {question}"}
    assert '"Und jetzt?"' in student.ask("Und jetzt?").text


def _methods(site: Site) -> Counter[str]:
    """How often the access log has each of two methods that nobody uses meanwhile."""
    return Counter(line["method"] for line in access_log(site) if line["method"] in ("DELETE", "PATCH"))


def _answers(student: Person) -> bool:
    """A gateway that was killed takes no connection, and one without its chat says 503."""
    try:
        return student.page.request.get(f"{student.url}/api/version", timeout=5000).ok
    except Error:
        return False
