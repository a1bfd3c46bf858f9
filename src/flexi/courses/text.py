"""Whether a file of a course has text that the chat can index, before the chat tries: scans, empty pages, locked files.

The chat's own readers are pypdf, docx2txt, BeautifulSoup and plain text (open_webui/retrieval/loaders/main.py, 0.12.4).
"""

from __future__ import annotations

import html.parser
import logging
import re
import zipfile
import zlib
from pathlib import Path

from .material import Material

MAX_XML = 200 * 1024 * 1024
"""Bytes of a Word document's text when unpacked; more is an attack or no text."""
_WORD = re.compile(rb"<w:t[ >][^<]*[^<\s]")
_PIECE = 1024 * 1024


def problem(file: Material) -> tuple[str, str] | None:
    """Reason and remedy why the chat would find no text in a file; None where it would."""
    readers = {".pdf": _pdf, ".docx": _docx, ".html": _html, ".htm": _html}
    try:
        return readers.get(Path(file.name).suffix.lower(), _plain)(file.path)
    except OSError as error:
        return f"cannot be read ({(error.strerror or str(error)).lower()})", "check its permissions"


_SCAN = ("holds no text", "a scan needs text recognition first (OCR), e.g. ocrmypdf")


def _pdf(path: Path) -> tuple[str, str] | None:
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    # It says of broken files what is said below, without their names.
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        reader = PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            return "is locked with a password", "save it without one"
        if any(page.extract_text().strip() for page in reader.pages):
            return None
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, ArithmeticError):
        # pypdf is not always tidy about broken files; whatever it is, the chat's reader is the same one.
        return "is no PDF that can be read", "save it anew from the program that made it"
    except ImportError:
        return "is encrypted in a way that cannot be read here", "save it without a password"
    return _SCAN


def _docx(path: Path) -> tuple[str, str] | None:
    try:
        with zipfile.ZipFile(path) as archive, archive.open("word/document.xml") as document:
            left, tail = MAX_XML, b""
            while left > 0 and (piece := document.read(_PIECE)):
                if _WORD.search(tail + piece):
                    return None
                left, tail = left - len(piece), piece[-1000:]
    except (zipfile.BadZipFile, KeyError, RuntimeError, NotImplementedError, ValueError, EOFError, zlib.error):
        return "is no Word document (.docx)", "save it anew as .docx, without a password"
    return "holds no text", "remove it, or write something into it"


class _Text(html.parser.HTMLParser):
    """Whether a page has words outside of what a browser does not show."""

    found = False
    _hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style") and self._hidden > 0

    def handle_data(self, data: str) -> None:
        self.found = self.found or (not self._hidden and bool(data.strip()))


def _html(path: Path) -> tuple[str, str] | None:
    raw = path.read_bytes()
    if b"\0" in raw:
        return "is no text", "save it as UTF-8"
    parser = _Text()
    parser.feed(raw.decode("utf-8", "replace"))
    parser.close()
    return None if parser.found else ("holds no text", "remove it, or write something into it")


def _plain(path: Path) -> tuple[str, str] | None:
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return f"is not UTF-8 (line {line})", "save it as UTF-8: the chat would guess its letters"
    if "\0" in text:
        return "is no text", "save it as UTF-8"
    return None if text.strip() else ("holds no text", "remove it, or write something into it")
