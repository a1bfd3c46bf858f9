"""Codes that put a question of the bank into a page, for Moodle's filter_embedquestion.

Source: moodleou/moodle-filter_embedquestion, classes/embed_id.php, classes/token.php (make_secret_token),
classes/text_filter.php (STRING_PREFIX, parse_embed_code) at e640c0be and 2c9f028c.
"""

from __future__ import annotations

import hashlib
import html
from dataclasses import dataclass
from pathlib import Path

from flexi.errors import InputError

_ESCAPES = str.maketrans({"%": "%25", "/": "%2F", "|": "%7C"})


@dataclass(frozen=True)
class Bank:
    """Where Moodle 5 is to look for the category; empty means the question bank of the course at hand.

    Both are Moodle's: the idnumber of the question bank's activity, and the short name of its course.
    """

    idnumber: str = ""
    course: str = ""


def embed_id(category: str, question: str, bank: Bank = Bank()) -> str:
    """Names a question of the bank by idnumbers: `course/bank/category/question`, the first two only where given."""
    parts = [part for part in (bank.course, bank.idnumber) if part] + [category, question]
    return "/".join(part.translate(_ESCAPES) for part in parts)


def embed_code(embedded: str, secret: str) -> str:
    """What to write into a text of the course, HTML. The token shows that who made it knows the site's secret."""
    token = hashlib.sha256(f"{embedded}#embed#{secret}".encode()).hexdigest()
    return html.escape(f"{{Q{{{embedded}|{token}}}Q}}", quote=False)


def read_secret(path: Path) -> str:
    """The site's secret from a file that holds nothing else. InputError where there is none."""
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "is no text"
        raise InputError(f"{path}: cannot be read ({reason})") from None
    if not secret or len(secret.split()) > 1:
        raise InputError(f"{path}: holds no secret; write the one word that Moodle's command prints")
    return secret
