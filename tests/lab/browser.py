"""A person at the chat's page: Debian's Chromium, moved by Playwright."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Request, expect, sync_playwright

from flexi.paths import ROOT

PATIENCE_MS = 60_000
PICTURES = os.environ.get("FLEXI_PICTURES")
"""A folder below the checkout for pictures of the page (`docs/pictures`); none are taken without."""
_WIDTH, _HEIGHT = 900, 620
# What stood in the newest answer, and when, at each change of the page; and what the page was not allowed to load.
_WATCH = """
window.growth = [];
window.refused = [];
document.addEventListener("securitypolicyviolation", (event) => window.refused.push(event.blockedURI));
new MutationObserver(() => {
  const all = document.querySelectorAll(".chat-assistant .markdown-prose");
  const length = all.length ? all[all.length - 1].innerText.length : 0;
  const last = window.growth.at(-1);
  if (!last || last.length !== length) window.growth.push({at: performance.now(), length});
}).observe(document, {childList: true, subtree: true, characterData: true});
"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Fails where none is installed: `./flexi test` installs it on Debian."""
    found = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)
    if found is None:
        pytest.fail("no Chromium is installed: apt-get install chromium")
    with sync_playwright() as playwright:
        # Its own sandbox needs another user than root; no proxy of this computer leads into the lab.
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--no-proxy-server"])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Answer:
    """An answer on the page, when it is complete."""

    shown: Locator
    text: str
    growth: list[dict[str, float]]
    """Its `length` whenever it changed, and the time (`at`, in ms)."""


@dataclass
class Person:
    """A browser of its own, with cookies and storage of its own."""

    page: Page
    url: str
    elsewhere: list[str] = field(default_factory=list)
    """Addresses outside the chat that its pages asked for."""

    def sign_in(self, mail: str, password: str) -> None:
        self.page.goto(self.url)
        self.page.locator("input[type=email]").fill(mail, timeout=PATIENCE_MS)
        self.page.locator("input[type=password]").fill(password)
        self.page.locator("button[type=submit]").click()

    def agree(self) -> None:
        """On the agreement's page, where signing in has led."""
        self.page.locator("form[action='/flexi/agreement'] button[type=submit]").click(timeout=PATIENCE_MS)
        self.at_the_chat()

    def at_the_chat(self) -> None:
        expect(self.page.locator("#chat-input")).to_be_visible(timeout=PATIENCE_MS)

    def choose(self, model: str) -> None:
        """A new conversation with a model or a course bot, by its id."""
        self.page.goto(f"{self.url}/?models={model}")
        self.at_the_chat()

    def start(self, question: str) -> None:
        """Send a question; returns when the first words of its answer are there."""
        before = self.answers.count()
        self.page.evaluate("window.growth = []")
        self.page.locator("#chat-input").click()
        self.page.keyboard.insert_text(question)
        self.page.keyboard.press("Enter")
        expect(self.answers).to_have_count(before + 1, timeout=PATIENCE_MS)
        expect(self.answers.last).to_contain_text("You asked", timeout=PATIENCE_MS)

    def ask(self, question: str) -> Answer:
        """Send a question, and wait for the end of the answer."""
        self.start(question)
        last = self.page.get_by_role("listitem").filter(has=self.page.locator(".chat-assistant")).last
        # The row of buttons comes with the end.
        expect(last.locator(".buttons button").first).to_be_attached(timeout=PATIENCE_MS)
        shown = self.answers.last
        return Answer(shown, shown.inner_text(), self.page.evaluate("window.growth"))

    @property
    def answers(self) -> Locator:
        return self.page.locator(".chat-assistant .markdown-prose")

    def fetch(self, path: str, body: object | None = None) -> tuple[int, Any]:
        """What the page's own scripts get there: status, and JSON; the text where it is none."""
        status, text = self.fetch_text(path, body)
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text

    def fetch_text(self, path: str, body: object | None = None) -> tuple[int, str]:
        script = """async ([path, body]) => {
            const headers = {Authorization: `Bearer ${localStorage.token}`, "Content-Type": "application/json"};
            const options = body === null ? {headers} : {method: "POST", headers, body: JSON.stringify(body)};
            const answer = await fetch(path, options);
            return [answer.status, await answer.text()];
        }"""
        status, text = self.page.evaluate(script, [path, body])
        return int(status), str(text)

    def messages(self) -> set[str]:
        """Every message of the person's conversations, as the chat has stored it."""
        status, chats = self.fetch_text("/api/v1/chats/all")
        assert status == 200, chats
        found = set()
        for line in chats.splitlines():
            for message in json.loads(line)["chat"]["history"]["messages"].values():
                if message["role"] == "user" or message.get("done"):
                    found.add(f"{message['role']}: {message['content']}")
        return found

    def picture(self, name: str) -> None:
        """Only where the run asks for pictures."""
        if PICTURES:
            path = ROOT / PICTURES / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=path, animations="disabled", caret="hide")


@contextmanager
def person(browser: Browser, url: str, language: str = "de-DE") -> Iterator[Person]:
    """`language` is what the browser asks pages for."""
    context = browser.new_context(locale=language, viewport={"width": _WIDTH, "height": _HEIGHT})
    context.add_init_script(_WATCH)
    page = context.new_page()
    somebody = Person(page, url.rstrip("/"))
    ours = (somebody.url, somebody.url.replace("http", "ws", 1), "data:", "blob:")

    def note(address: str) -> None:
        if not address.startswith(ours):
            somebody.elsewhere.append(address)

    def forget(request: Request) -> None:
        """What the page's own rules stopped has not left the browser."""
        if request.failure == "csp":
            somebody.elsewhere.remove(request.url)

    context.on("request", lambda request: note(request.url))
    context.on("requestfailed", forget)
    page.on("websocket", lambda socket: note(socket.url))
    try:
        yield somebody
    finally:
        context.close()
