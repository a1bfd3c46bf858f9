"""A course text: read from a file, and cut into sections that a small model can take in at once."""

from __future__ import annotations

import html.parser
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flexi.errors import InputError

MAX_BYTES = 5 * 1024 * 1024
SECTION_CHARACTERS = 6000
"""German and English have about three characters for each token of today's models, so that a section, the
instructions and the answer fit into 4096 tokens, which is Ollama's smallest default (docs/faq.mdx at v0.24.0)."""
LEAST_CHARACTERS = 200
"""Less than this is no text that one could ask questions about."""

_HEADING = re.compile(r" {0,3}#{1,6} +\S")
_SENTENCE_END = re.compile(r"(?<=[.!?:;])\s+")
_FORMATS = {".md": "markdown", ".markdown": "markdown", ".txt": "plain", ".html": "html", ".htm": "html"}


@dataclass(frozen=True)
class Section:
    """A piece of the text; `start` is where it begins, in characters of all sections before it."""

    number: int
    start: int
    text: str

    @property
    def end(self) -> int:
        return self.start + len(self.text)


def read(path: Path) -> str:
    """The text of a Markdown, HTML or plain text file. InputError where there is none."""
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"{path}: '{path.suffix}' is not read; save it as Markdown, HTML or plain text ({_names()})")
    try:
        with path.open("rb") as opened:
            raw = opened.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: cannot be read ({reason}); check its name and permissions") from None
    if len(raw) > MAX_BYTES:
        raise InputError(f"{path}: has more than {MAX_BYTES // 1024**2} MiB; name the text of one unit")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: is not UTF-8 (byte 0x{raw[error.start]:02x}); save it as UTF-8") from None
    text = printable(_text_of_html(text) if kind == "html" else text).replace("\r\n", "\n").replace("\r", "\n")
    letters = sum(character.isalpha() for character in text)
    if letters < LEAST_CHARACTERS:
        raise InputError(f"{path}: has {letters} letters; questions need a text of at least {LEAST_CHARACTERS}")
    return text


def printable(text: str) -> str:
    """Without what XML 1.0 cannot carry (section 2.2) and what nobody can see."""
    return "".join(c for c in text if c in "\n\r\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn"))


def sections(text: str, limit: int = SECTION_CHARACTERS) -> tuple[Section, ...]:
    """The text in pieces of at most `limit` characters that end with a paragraph where they can; nothing is left out.

    They are about as long as each other: the last one is no crumb about which nothing could be asked.
    """
    parts = [part for paragraph in _paragraphs(text) for part in _cut(paragraph, limit)]
    whole = sum(len(part) + 2 for part in parts)
    aim = whole / -(-whole // limit)
    found: list[Section] = []
    gathered: list[str] = []

    def close() -> None:
        if gathered:
            start = found[-1].end if found else 0
            found.append(Section(len(found) + 1, start, "\n\n".join(gathered)))
            gathered.clear()

    for part in parts:
        size = sum(len(one) + 2 for one in gathered)
        full = size + len(part) > limit or size + len(part) / 2 > aim
        if gathered and (full or (_HEADING.match(part) and size > aim * 2 / 3)):
            close()
        gathered.append(part)
    close()
    return tuple(found)


def places(sections: Sequence[Section], count: int) -> list[Section]:
    """For each of `count` questions the section that it is about: evenly spread over the length of the text."""
    length = sections[-1].end
    targets = [(number + 0.5) * length / count for number in range(count)]
    return [next(section for section in sections if target < section.end) for target in targets]


def _paragraphs(text: str) -> Iterator[str]:
    """Paragraphs, each with the headings above it."""
    headings: list[str] = []
    lines: list[str] = []
    for line in [*text.split("\n"), ""]:
        heading = bool(_HEADING.match(line))
        if lines and (heading or not line.strip()):
            yield "\n\n".join([*headings, "\n".join(lines)])
            headings, lines = [], []
        if heading:
            headings.append(line.strip())
        elif line.strip():
            lines.append(line.rstrip())
    if headings:
        yield "\n\n".join(headings)


def _cut(paragraph: str, limit: int) -> Iterator[str]:
    """A paragraph in pieces of at most `limit`: between sentences, or words, or anywhere."""
    rest = paragraph
    while len(rest) > limit:
        ends = [match.start() for match in _SENTENCE_END.finditer(rest, 0, limit)]
        end = ends[-1] if ends else rest.rfind(" ", 1, limit)
        end = end if end > 0 else limit
        yield rest[:end].rstrip()
        rest = rest[end:].lstrip()
    if rest:
        yield rest


def _names() -> str:
    return ", ".join(_FORMATS)


_BLOCKS = {"p", "div", "li", "tr", "br", "section", "article", "blockquote", "pre", "dt", "dd", "figcaption", "table"}
_UNSEEN = {"script", "style", "head", "template", "noscript", "nav"}


class _Html(html.parser.HTMLParser):
    """What a reader of a page sees, a paragraph for each block and headings as in Markdown."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._unseen = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _UNSEEN:
            self._unseen += 1
        elif re.fullmatch("h[1-6]", tag):
            self.parts.append("\n\n" + "#" * int(tag[1]) + " ")
        elif tag in _BLOCKS:
            self.parts.append("\n\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in _UNSEEN:
            self._unseen = max(0, self._unseen - 1)
        elif tag in _BLOCKS or re.fullmatch("h[1-6]", tag):
            self.parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.parts.append(re.sub(r"\s+", " ", data))


def _text_of_html(page: str) -> str:
    reader = _Html()
    reader.feed(page)
    reader.close()
    return "".join(reader.parts)
