"""`uvicorn flexi_chat.app:app`: Open WebUI behind the gate.

Environment, beside Open WebUI's own; without the first five it does not start:

    FLEXI_AGREEMENT     folder with the agreement's texts, or `none`
    FLEXI_LANGUAGE      the agreement's where a browser asks for neither: de, en
    FLEXI_PASSWORDS     `true` where accounts of the chat's own may sign in, or a web server in front says who comes
    FLEXI_ADMINS        mail addresses of those who may manage the chat, with commas between; may be empty
    FLEXI_PERSON_HEADER in which the gateway is told whose a request is
    FLEXI_PROOF         what the web server shows that says who comes; needed where the trusted headers are set

Read in the source of release 0.12.4; what it relies on is checked at the start, and a release that differs does not
serve.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("FROM_INIT_PY", "true")  # As `open-webui serve` says that it was installed, not built (env.py).

from flexi_chat.gate.people import check_names, name_people
from flexi_chat.gate.turns import one_after_the_other

with one_after_the_other(Path(os.environ["DATA_DIR"])):
    # Before the module that reads it.
    name_people(os.environ, os.environ["FLEXI_PERSON_HEADER"])
    import open_webui.config  # noqa: F401

import open_webui.utils.auth as their_auth
from fastapi import APIRouter, Depends, HTTPException, Request
from starlette.routing import Match, Mount
from starlette.staticfiles import StaticFiles

from flexi_chat.gate import agreement, file_limit
from flexi_chat.gate.abandoned import EndsWithClient
from flexi_chat.gate.acceptances import Acceptances, make_table
from flexi_chat.gate.access import INTERNAL, WHO, Access, Gate, Scope
from flexi_chat.gate.fixed import fix_settings
from flexi_chat.gate.logo import show_logo
from flexi_chat.webui import database

SIGN_IN = ("POST", "/api/v1/auths/signin")
OPEN = frozenset(
    {
        ("GET", "/health"),
        ("GET", "/health/db"),
        ("GET", "/ready"),
        ("GET", "/manifest.json"),
        ("GET", "/opensearch.xml"),
        ("GET", "/api/config"),
        ("GET", "/api/version"),
        ("GET", "/api/changelog"),
        ("GET", "/api/v1/auths/"),
        SIGN_IN,
        ("POST", "/api/v1/auths/ldap"),
        ("POST", "/api/v1/auths/signup"),
        ("POST", "/api/v1/auths/signout"),
        ("POST", "/api/v1/auths/update/timezone"),
        ("GET", "/oauth/{provider}/login"),
        ("GET", "/oauth/{provider}/login/callback"),
        ("GET", "/oauth/{provider}/callback"),
        ("POST", "/oauth/backchannel-logout"),
    }
)
"""Methods and routes of Open WebUI that a stranger may call: none has a model behind it."""
ANSWERED_BY_MODELS = frozenset(
    {
        "/api/chat/completions",
        "/api/v1/chat/completions",
        "/api/embeddings",
        "/api/v1/embeddings",
        "/api/message",
        "/api/v1/messages",
        *(
            f"/ollama/{path}{number}"
            for path in (
                "api/chat",
                "api/embed",
                "api/embeddings",
                "api/generate",
                "v1/chat/completions",
                "v1/completions",
                "v1/embeddings",
                "v1/messages",
                "v1/responses",
            )
            for number in ("", "/{url_idx}")
        ),
        *(
            f"/api/v1/tasks/{task}/completions"
            for task in ("auto", "emoji", "follow_up", "image_prompt", "moa", "queries", "tags", "title")
        ),
    }
)
"""Routes of Open WebUI (POST) that wait for a model before they answer: main.py, routers/ollama.py and tasks.py."""


def _said(name: str) -> str:
    """A setting that must be there; RuntimeError where it is not."""
    if name not in os.environ:
        raise RuntimeError(f"{name} is not set")
    return os.environ[name]


PASSWORDS = _said("FLEXI_PASSWORDS") == "true"


def _settings() -> tuple[agreement.Agreement | None, Acceptances]:
    folder = _said("FLEXI_AGREEMENT")
    terms = None if folder == "none" else agreement.load(Path(folder))
    return terms, Acceptances(database.engine(), terms)


terms, acceptances = _settings()
_theirs = their_auth.get_verified_user_by_token


async def _who_accepted(token: str, redis: Any = None) -> Any:
    """Open WebUI's own, which its WebSockets know their users by, for those who have accepted."""
    user = await _theirs(token, redis)
    return user if user is not None and await acceptances.accepted(user.id) else None


# Before the modules that take the name from there: tokens come inside a WebSocket, where no gate sees them.
their_auth.get_verified_user_by_token = _who_accepted

_files = file_limit.lower()
import open_webui.main as theirs  # noqa: E402
from open_webui.models.config import Config  # noqa: E402

file_limit.restore(_files)
from open_webui import env as their_env  # noqa: E402
from open_webui.models.users import Users  # noqa: E402
from open_webui.utils.headers import parse_custom_headers  # noqa: E402

from flexi_chat.gate.groups import follow_the_directory  # noqa: E402


def _check() -> None:
    """Raise RuntimeError where this release of Open WebUI is not what the gate was written for."""
    users = [
        name
        for name, module in sys.modules.items()
        if name.startswith("open_webui.")
        and getattr(module, "get_verified_user_by_token", _who_accepted) is not _who_accepted
    ]
    if users:
        raise RuntimeError(f"modules know users past the gate: {', '.join(users)}")
    if "open_webui.socket.main" not in sys.modules or not hasattr(theirs.app.state, "CHAT_COMPLETION_HANDLER"):
        raise RuntimeError("this release of Open WebUI is built in another way than the gate knows")
    check_names(parse_custom_headers, _said("FLEXI_PERSON_HEADER"))
    there = {
        (method, route.path) for route in theirs.app.router.routes for method in getattr(route, "methods", None) or ()
    }
    known = OPEN | {("POST", path) for path in ANSWERED_BY_MODELS}
    if missing := sorted(path for method, path in known - there):
        raise RuntimeError(f"this release of Open WebUI lacks {', '.join(missing)}")


def _watch_what_runs_alone() -> None:
    """Automations, timers and channels ask models with nobody's request: their users must have accepted as well."""
    handler = theirs.app.state.CHAT_COMPLETION_HANDLER

    async def for_who_accepted(request: Request, form_data: dict[str, Any], user: Any) -> Any:
        if user.email != INTERNAL and not await acceptances.accepted(user.id):
            raise PermissionError("the user has not accepted the agreement")
        return await handler(request, form_data, user=user)

    theirs.app.state.CHAT_COMPLETION_HANDLER = for_who_accepted


def _add_who() -> None:
    """A route that says who asks; reached from inside the process only. Who manages the chat, the site says."""
    router = APIRouter()
    admins = {mail.strip().lower() for mail in _said("FLEXI_ADMINS").split(",") if mail.strip()} | {INTERNAL}

    @router.get(WHO)
    async def who(request: Request, user: Annotated[Any, Depends(their_auth.get_current_user)]) -> dict[str, Any]:
        role = "admin" if user.email in admins else "user"
        if user.role in ("admin", "user") and user.role != role:
            await Users.update_user_role_by_id(user.id, role)
        claims = getattr(request.state, "claims", None) or {}
        session = request.state.auth_type == "jwt" and claims.get("typ", "session") == "session"
        return {"id": user.id, "email": user.email, "name": user.name, "session": session}

    theirs.app.router.routes[0:0] = router.routes


def access(scope: Scope) -> Access:
    """What a path asks of its callers, found as Open WebUI's own router finds what answers: odd spellings end at the
    same place. What is not known here asks for an account."""
    for route in theirs.app.router.routes:
        if route.matches(scope)[0] is not Match.FULL:
            continue
        if isinstance(route, Mount):
            if isinstance(route.app, StaticFiles):
                return Access.PAGE
            # Socket.IO: whose socket it is, is said inside and asked above.
            return Access.OPEN if route.path == "/ws" else Access.ACCOUNT
        asked = (scope.get("method"), route.path)
        return Access.OPEN if asked in OPEN and (PASSWORDS or asked != SIGN_IN) else Access.ACCOUNT
    return Access.ACCOUNT


def asks_model(scope: Scope) -> bool:
    """Whether a model is waited for, found as Open WebUI's own router finds what answers."""
    if scope["method"] != "POST":
        return False
    found = (route for route in theirs.app.router.routes if route.matches(scope)[0] is Match.FULL)
    return getattr(next(found, None), "path", None) in ANSWERED_BY_MODELS


def _lower(*names: str | None) -> frozenset[bytes]:
    return frozenset(name.lower().encode() for name in names if name)


CREDENTIALS = _lower(
    "authorization", "cookie", their_env.CUSTOM_API_KEY_HEADER, their_env.WEBUI_AUTH_TRUSTED_EMAIL_HEADER
)
TRUSTED = _lower(
    their_env.WEBUI_AUTH_TRUSTED_EMAIL_HEADER,
    their_env.WEBUI_AUTH_TRUSTED_NAME_HEADER,
    their_env.WEBUI_AUTH_TRUSTED_GROUPS_HEADER,
    their_env.WEBUI_AUTH_TRUSTED_ROLE_HEADER,
)


def _pages() -> agreement.Page | None:
    if terms is None:
        return None
    return agreement.Page(
        terms,
        acceptances,
        title=os.environ.get("WEBUI_NAME", "Open WebUI"),
        language=_said("FLEXI_LANGUAGE"),
        address=os.environ.get("WEBUI_URL", ""),
        key=os.environ["WEBUI_SECRET_KEY"].encode(),
    )


_check()
show_logo(Path("/etc/flexi/chat-logo.png"), theirs.STATIC_DIR)
fix_settings(Config, lambda sentence: HTTPException(403, sentence))
_watch_what_runs_alone()
_add_who()
follow_the_directory()
with one_after_the_other(Path(os.environ["DATA_DIR"])):
    make_table(database.engine())
app = Gate(
    EndsWithClient(theirs.app, asks_model),
    access,
    acceptances,
    _pages(),
    CREDENTIALS,
    trusted=TRUSTED,
    proof=_said("FLEXI_PROOF").encode() if TRUSTED else b"",
)
