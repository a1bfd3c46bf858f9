"""Keys of `chat` that do not go together, or not with the rest of the site."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from flexi.catalog import CHAT_RELEASES
from flexi.configfile.document import Path
from flexi.configfile.findings import Finding, Problem, shown, suggestion
from flexi.configfile.section import Secret
from flexi.configfile.validate import findings
from flexi.site.model import Site
from flexi.site.schema.chat import Chat

if TYPE_CHECKING:
    from flexi.courses import Course

HERE = ("chat",)


def chat_problems(site: Site) -> Iterator[Problem]:
    chat = site.content.chat
    if chat is None:
        return
    hosts = list(site.content.hosts)
    if chat.host not in hosts:
        yield Problem((*HERE, "host"), "is none of the hosts", suggestion(chat.host, hosts), shown(chat.host))
    if chat.version not in CHAT_RELEASES:
        reason = "is no release that this flexi knows all packages of"
        yield Problem((*HERE, "version"), reason, suggestion(chat.version, CHAT_RELEASES), shown(chat.version))
    if chat.name == site.content.gateway.name:
        reason = "is gateway.name too: the API and the page have names of their own"
        yield Problem((*HERE, "name"), reason, f"write e.g. 'chat.{chat.name}'", shown(chat.name))
    tls = site.content.gateway.tls
    if chat.host in hosts and chat.host not in site.gateways and tls and tls.self_signed:
        reason = "is no gateway, and would not trust the certificate that the gateway makes for itself"
        remedy = f"write {site.content.gateway.host}, or set gateway.tls to a certificate that is trusted"
        yield Problem((*HERE, "host"), reason, remedy, shown(chat.host))
    mirrors = site.content.mirrors
    if mirrors.bundle and not mirrors.pypi:
        reason = "needs Python packages, which no bundle holds"
        yield Problem(HERE, reason, "set mirrors.pypi to an index that the chat's host reaches", at_key=True)
    yield from _models(site, chat)
    yield from _database(chat)
    yield from _agreement(chat)
    yield from _sign_in(chat)
    for path, secret in _secrets(chat):
        if (secret.file is None) == (secret.command is None):
            reason = "names no secret" if secret.file is None else "names two secrets"
            yield Problem((*HERE, *path), reason, "write {file: x.secret} or {command: pass show x}", at_key=True)


def _models(site: Site, chat: Chat) -> Iterator[Problem]:
    embeds, spelled = _served(site)
    talking = [spelled[name] for name, embedding in embeds.items() if not embedding]
    offered = talking if chat.models == "all" else chat.models
    for index, name in enumerate(() if chat.models == "all" else chat.models):
        yield from _known((*HERE, "models", index), name, talking, embeds)
    if chat.default_model is not None and chat.default_model.lower() not in {name.lower() for name in offered}:
        remedy = suggestion(chat.default_model, list(offered))
        yield Problem((*HERE, "default_model"), "is no model that the chat offers", remedy, shown(chat.default_model))
    if chat.task_model is not None:
        yield from _known((*HERE, "task_model"), chat.task_model, talking, embeds)
    if not talking:
        yield Problem(HERE, "has no model to talk to", "add one to a group", at_key=True)
    embedding = chat.embedding_model
    if embedding is not None and not embeds.get(embedding.lower(), False):
        known = [spelled[name] for name, is_embedding in embeds.items() if is_embedding]
        remedy = suggestion(embedding, known) if known else "add one to a group, e.g. nomic-embed-text"
        yield Problem((*HERE, "embedding_model"), "is no embedding model of any group", remedy, shown(embedding))
    elif not any(embeds.values()) and chat.courses is not None:
        remedy = "add one to a group, e.g. nomic-embed-text"
        yield Problem((*HERE, "courses"), "need an embedding model, and no group has one", remedy, at_key=True)


def course_models(site: Site, courses: Sequence[Course]) -> Iterator[Finding]:
    """Courses whose model no group has, or that writes nothing."""
    embeds, spelled = _served(site)
    talking = [spelled[name] for name, embedding in embeds.items() if not embedding]
    for course in courses:
        if course.content.model is not None:
            for problem in _known(("model",), course.content.model, talking, embeds):
                yield from findings([problem], course.document)


def _served(site: Site) -> tuple[dict[str, bool], dict[str, str]]:
    """By name in small letters: whether a model makes embeddings only, and how the groups spell it."""
    embeds: dict[str, bool] = {}
    spelled: dict[str, str] = {}
    for _, _, _, group in site.groups():
        for name in group.models:
            facts = site.model(name)
            embeds[name.lower()] = facts is not None and facts.embedding
            spelled.setdefault(name.lower(), name)
    return embeds, spelled


def _known(path: Path, name: str, talking: list[str], embeds: dict[str, bool]) -> Iterator[Problem]:
    if name.lower() not in embeds:
        yield Problem(path, "is in no group", suggestion(name, talking), shown(name))
    elif embeds[name.lower()]:
        yield Problem(path, "makes embeddings only", suggestion(name, talking), shown(name))


def _database(chat: Chat) -> Iterator[Problem]:
    if chat.database == "sqlite":
        if chat.workers > 1:
            reason = "need a database that several processes can use"
            yield Problem((*HERE, "workers"), reason, "set database: postgresql, or workers: 1", shown(chat.workers))
        if chat.database_url:
            remedy = "set database: postgresql, or remove it"
            yield Problem((*HERE, "database_url"), "does not go with sqlite", remedy, at_key=True)
    if chat.workers == 1 and chat.redis_url:
        yield Problem((*HERE, "redis_url"), "is for more than one worker", "remove it", at_key=True)


def _agreement(chat: Chat) -> Iterator[Problem]:
    agreement = chat.agreement
    if agreement and not (agreement.de or agreement.en):
        yield Problem((*HERE, "agreement"), "has no text", "add de or en, or both", at_key=True)


def _sign_in(chat: Chat) -> Iterator[Problem]:
    sign_in = chat.sign_in
    here = (*HERE, "sign_in")
    if sign_in.trusted_headers and sign_in.local:
        # Open WebUI asks for no password where it believes a header (routers/auths.py: signin).
        reason = "leaves no passwords of the chat's own: whom Apache lets in is signed in"
        yield Problem((*here, "trusted_headers"), reason, "set sign_in.local: false", at_key=True)
    if not (sign_in.local or sign_in.ldap or sign_in.oidc or sign_in.trusted_headers):
        yield Problem(here, "lets nobody in", "set local: true, or add ldap, oidc or trusted_headers", at_key=True)
    if sign_in.ldap and sign_in.ldap.ca and not sign_in.ldap.tls:
        yield Problem((*here, "ldap", "ca"), "needs tls", "set tls: true, or remove it", at_key=True)


def _secrets(chat: Chat) -> Iterator[tuple[Path, Secret]]:
    """Every secret of the section, and where it stands."""
    found: list[tuple[Path, Secret | None]] = [
        (("database_url",), chat.database_url),
        (("redis_url",), chat.redis_url),
        (("sign_in", "ldap", "bind_password"), chat.sign_in.ldap.bind_password if chat.sign_in.ldap else None),
        (("sign_in", "oidc", "client_secret"), chat.sign_in.oidc.client_secret if chat.sign_in.oidc else None),
    ]
    yield from ((path, secret) for path, secret in found if secret is not None)
