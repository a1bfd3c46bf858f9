"""The user agreement: its texts, and the page on which a person accepts it."""

from __future__ import annotations

import hashlib
import hmac
import html
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, urlencode

from flexi_chat.gate.access import PAGE, Caller, Receive, Scope, Send, refuse, reply

SCRIPT = f"{PAGE}.js"
_MOST_BYTES = 16_384
LANGUAGES = ("de", "en")


@dataclass(frozen=True)
class Agreement:
    """What users accept: HTML by language ("de", "en"), at least one.

    `digest` is the SHA-256 of version and texts: who accepted other words is asked again, whatever they are called.
    """

    version: str
    texts: dict[str, str]
    digest: str


class Book(Protocol):
    """Where acceptances are written down."""

    async def accepted(self, user: str) -> bool: ...

    async def accept(self, user: str, language: str) -> None: ...


def load(folder: Path) -> Agreement:
    """Read `version`, `de.md` and `en.md` (one may be missing) of `folder`.

    Raises OSError or ValueError where there is no version or no text.
    """
    from markdown import markdown

    version = (folder / "version").read_text(encoding="utf-8").strip()
    sources = {name: (folder / f"{name}.md") for name in LANGUAGES}
    found = {name: path.read_text(encoding="utf-8") for name, path in sources.items() if path.is_file()}
    if not version or not any(text.strip() for text in found.values()):
        raise ValueError(f"{folder}: no version or no text of the agreement")
    digest = hashlib.sha256("\0".join([version, *(f"{k}\0{v}" for k, v in sorted(found.items()))]).encode())
    # A text of the site's admin, whose own HTML may stay; the page allows no scripts but its own anyway.
    return Agreement(version, {name: markdown(text) for name, text in found.items()}, digest.hexdigest())


class Page:
    """`GET` shows the agreement, `POST` accepts it: the text that was shown, by whom it was shown to."""

    def __init__(
        self, agreement: Agreement, book: Book, *, title: str, language: str, address: str, key: bytes
    ) -> None:
        """`language` is taken where a browser asks for none of the texts; `key` seals the form; `address` is the chat's
        (`https://chat.example.edu`), or empty."""
        self.version = agreement.version
        self.address = f"{address.rstrip('/')}{PAGE}"
        self._agreement = agreement
        self._book = book
        self._title = title
        self._language = language if language in agreement.texts else next(iter(agreement.texts))
        self._key = key

    async def answer(self, scope: Scope, receive: Receive, send: Send, caller: Caller | None) -> None:
        method = scope["method"]
        if scope["path"] == SCRIPT and method in ("GET", "HEAD"):
            await reply(send, 200, "text/javascript; charset=utf-8", _SCRIPT)
        elif scope["path"] != PAGE:
            await refuse(scope, send, 404, "Not found")
        elif caller is None:
            await _see_other(send, "/auth")
        elif not caller.session:
            await refuse(scope, send, 403, f"A person accepts the agreement, signed in with a browser: {self.address}")
        elif method in ("GET", "HEAD"):
            await self._show(scope, send, caller)
        elif method == "POST":
            await self._accept(scope, receive, send, caller)
        else:
            await refuse(scope, send, 405, "Method not allowed")

    async def _show(self, scope: Scope, send: Send, caller: Caller) -> None:
        asked = {k: v[0] for k, v in parse_qs(scope["query_string"].decode("latin-1")).items()}
        language = self._pick(asked.get("lang"), scope)
        words = _WORDS[language]
        to = way_back(asked.get("to", "/"))
        others = "".join(
            f'<a hreflang="{other}" lang="{other}" href="{PAGE}?{html.escape(urlencode({"lang": other, "to": to}))}">'
            f"{_WORDS[other]['name']}</a> "
            for other in self._agreement.texts
            if other != language
        )
        body = _HTML.format(
            lang=language,
            title=html.escape(self._title),
            heading=words["heading"],
            version=html.escape(words["version"].format(self.version)),
            who=html.escape(words["who"].format(caller.email)),
            text=self._agreement.texts[language],
            page=PAGE,
            script=SCRIPT,
            seal=self._seal(caller, language),
            language=language,
            to=html.escape(to),
            accept=words["accept"],
            decline=words["decline"],
            why=words["why"],
            others=others,
        ).encode()
        await reply(send, 200, "text/html; charset=utf-8", body, _PAGE_HEADERS)

    async def _accept(self, scope: Scope, receive: Receive, send: Send, caller: Caller) -> None:
        form = await _form(receive)
        language = (form or {}).get("language", "")
        if (
            form is None
            or language not in self._agreement.texts
            or not hmac.compare_digest(form.get("seal", "").encode(), self._seal(caller, language).encode())
        ):
            # Another text has come in the meantime, or the form is not ours: show what is in force.
            await _see_other(send, PAGE)
            return
        await self._book.accept(caller.id, language)
        await _see_other(send, way_back(form.get("to", "/")))

    def _seal(self, caller: Caller, language: str) -> str:
        said = f"agreement\0{caller.id}\0{self._agreement.digest}\0{language}"
        return hmac.new(self._key, said.encode(), hashlib.sha256).hexdigest()

    def _pick(self, asked: str | None, scope: Scope) -> str:
        if asked in self._agreement.texts:
            return str(asked)
        wishes = b",".join(v for n, v in scope["headers"] if n.lower() == b"accept-language").decode("latin-1")
        for wish in wishes.split(","):  # Browsers send them in order; the weights say the same again.
            language = wish.split(";")[0].strip().lower()[:2]
            if language in self._agreement.texts:
                return language
        return self._language


def way_back(to: str) -> str:
    """`to` where it is a path of this site, else "/": a browser takes `//host` and `/\\host` for other sites."""
    if re.fullmatch(r"/(?![/\\])[^\\\x00-\x1f\x7f]*", to) and to.isascii() and not to.startswith(PAGE):
        return to
    return "/"


async def _form(receive: Receive) -> dict[str, str] | None:
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > _MOST_BYTES:
            return None
        if not message.get("more_body"):
            break
    try:
        return {name: values[0] for name, values in parse_qs(body.decode("ascii"), max_num_fields=16).items()}
    except ValueError:
        return None


async def _see_other(send: Send, to: str) -> None:
    await reply(send, 303, "text/plain", b"", [(b"location", to.encode("ascii"))])


_PAGE_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; script-src 'self'; connect-src 'self'; "
        b"form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    (b"referrer-policy", b"no-referrer"),
    (b"vary", b"Accept-Language, Cookie, Authorization"),
]
_WORDS = {
    "de": {
        "name": "Deutsch",
        "heading": "Nutzungsvereinbarung",
        "version": "Fassung {}",
        "who": "Angemeldet als {}",
        "accept": "Ich stimme zu",
        "decline": "Nicht zustimmen und abmelden",
        "why": "Ohne Zustimmung wird nichts an ein Sprachmodell gesendet. "
        "Fassung und Zeitpunkt der Zustimmung werden gespeichert.",
    },
    "en": {
        "name": "English",
        "heading": "User agreement",
        "version": "Version {}",
        "who": "Signed in as {}",
        "accept": "I agree",
        "decline": "Decline and sign out",
        "why": "Nothing is sent to a language model before you agree. "
        "The version and the time of your agreement are recorded.",
    },
}
_SCRIPT = b"""\
document.getElementById("decline").addEventListener("click", async () => {
  try { await fetch("/api/v1/auths/signout", { method: "POST", headers: { "Content-Type": "application/json" } }); }
  finally { localStorage.removeItem("token"); location.assign("/auth"); }
});
"""
_HTML = """<!doctype html>
<html lang="{lang}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex,nofollow">
<title>{heading} – {title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 1rem/1.55 system-ui, sans-serif; max-width: 44rem; margin: 0 auto; padding: 2rem 1.2rem 3rem; }}
header {{ display: flex; flex-wrap: wrap; justify-content: space-between; gap: .5rem 1.5rem; }}
h1 {{ margin: .6rem 0 0; line-height: 1.2; }}
.small {{ font-size: .9rem; opacity: .8; }}
article {{ margin: 1.5rem 0; border-block: 1px solid #8886; padding: .3rem 0; overflow-wrap: break-word; }}
form {{ display: flex; flex-wrap: wrap; gap: .8rem; margin-top: 1.2rem; }}
button {{ font: inherit; padding: .6rem 1.3rem; border-radius: 2rem; border: 1px solid currentColor; cursor: pointer;
  background: transparent; color: inherit; }}
button[type=submit] {{ background: #171717; color: #fff; border-color: #171717; }}
@media (prefers-color-scheme: dark) {{
  button[type=submit] {{ background: #fff; color: #171717; border-color: #fff; }}
}}
</style>
<script src="{script}" defer></script>
</head>
<body>
<header><strong>{title}</strong><nav>{others}</nav></header>
<main>
<h1>{heading}</h1>
<p class="small">{version} · {who}</p>
<article>{text}</article>
<p>{why}</p>
<form method="post" action="{page}">
<input type="hidden" name="seal" value="{seal}">
<input type="hidden" name="language" value="{language}">
<input type="hidden" name="to" value="{to}">
<button type="submit">{accept}</button>
<button type="button" id="decline">{decline}</button>
</form>
</main>
</body>
</html>
"""
