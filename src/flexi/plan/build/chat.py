"""The chat in the plan: where it runs, how it is reached, and what it offers."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator
from typing import TYPE_CHECKING

from flexi.catalog import CHAT_RELEASES, chat_lock, platforms, ports
from flexi.catalog.consumers import CHAT_CONSUMER
from flexi.plan.build.chat_database import database_plan
from flexi.plan.build.chat_settings import chat_environment
from flexi.plan.build.chat_sign_in import OURS
from flexi.plan.build.courses import course_plans, visible_models
from flexi.plan.model.chat import (
    PERSON_HEADER,
    AgreementPlan,
    ChatEdgePlan,
    ChatHostPlan,
    ChatPlan,
    LdapPlan,
    OidcPlan,
    SecretPlan,
    SignInPlan,
    TrustedHeadersPlan,
)
from flexi.plan.model.firewall import FirewallRule
from flexi.plan.model.gateway import ClassPlan

if TYPE_CHECKING:
    from flexi.configfile.section import Secret
    from flexi.site.model import Site
    from flexi.site.schema.chat import Chat
    from flexi.site.schema.sign_in import Ldap, Oidc, SignIn, TrustedHeaders

_DIGESTS = {version: hashlib.sha256(chat_lock(version).encode()).hexdigest()[:8] for version in CHAT_RELEASES}
"""Of each release's lock: another lock is another venv."""

CONNECTIONS = 1500
"""Connections of browsers at once. One with the page open holds one (HTTP/2, or a WebSocket) to six (HTTP/1.1)."""

CHAT_CLASS = ClassPlan(
    name=CHAT_CONSUMER,
    models=None,
    at_once=1000,
    per_minute=None,
    per_hour=None,
    per_day=None,
    priority="interactive",
    networks=(),
    options="fixed",
)
"""What the chat may do: it stands for all its users."""


def chat_plan(site: Site) -> ChatPlan | None:
    """None where the site has no chat."""
    chat = site.content.chat
    if chat is None:
        return None
    talking, embedding = _models(site)
    offered = tuple(talking if chat.models == "all" else (_spelled(name, talking) for name in chat.models))
    default = _spelled(chat.default_model, offered) if chat.default_model else offered[0]
    agreement = chat.agreement
    courses = course_plans(site, chat, default, talking)
    return ChatPlan(
        host=chat.host,
        address="127.0.0.1" if _alone(site, chat) else site.content.hosts[chat.host].address,
        listen_port=ports.CHAT,
        name=chat.name,
        port=chat.port or site.users_port,
        own_port=chat.port is not None,
        scheme="https" if site.content.gateway.tls else "http",
        version=chat.version,
        title=chat.title,
        logo=site.beside(chat.logo),
        language=chat.language,
        models=offered,
        default_model=default,
        task_model=_spelled(chat.task_model, talking) if chat.task_model else default,
        embedding_model=_spelled(chat.embedding_model, embedding)
        if chat.embedding_model
        else next(iter(embedding), None),
        admins=chat.admins,
        admins_read_chats=chat.admins_read_chats,
        workers=chat.workers,
        database=chat.database,
        database_url=_secret(site, chat.database_url) if chat.database_url else None,
        redis_url=_secret(site, chat.redis_url) if chat.redis_url else None,
        retention_days=chat.retention_days,
        agreement=AgreementPlan(version=agreement.version, de=site.beside(agreement.de), en=site.beside(agreement.en))
        if agreement
        else None,
        sign_in=_sign_in(site, chat.sign_in),
        courses=courses,
        visible=visible_models(offered, courses),
        recipients=chat.backup.recipients if chat.backup else (),
    )


def chat_edge(site: Site) -> ChatEdgePlan | None:
    """The gateways' part; None where the site has no chat."""
    plan, chat = chat_plan(site), site.content.chat
    if plan is None or chat is None:
        return None
    headers = plan.sign_in.trusted_headers
    named = (headers.mail, headers.name, headers.groups) if headers else ()
    return ChatEdgePlan(
        name=plan.name,
        url=plan.url,
        own_port=plan.port if plan.own_port else None,
        title=plan.title,
        language=plan.language,
        address=plan.address,
        port=plan.listen_port,
        api_port=ports.CHAT_API if plan.host in site.gateways else None,
        stripped_headers=(*OURS, *(name for name in named if name)),
        connections=CONNECTIONS,
        consumer=CHAT_CONSUMER,
        person_header=PERSON_HEADER,
        person_at_once=chat.at_once,
    )


def chat_host(site: Site, name: str) -> ChatHostPlan | None:
    """A host's part as the chat's; None on the others."""
    plan = chat_plan(site)
    if plan is None or plan.host != name:
        return None
    assert site.content.chat is not None
    python = platforms.PYTHONS[site.content.hosts[name].platform]
    gateway_url = _gateway_url(site, site.content.chat)
    return ChatHostPlan(
        packages=python.packages,
        front_packages=("apache2",) if plan.sign_in.trusted_headers else (),
        python=python.path,
        index=site.content.mirrors.pypi,
        version=plan.version,
        release=f"{plan.version}-{_DIGESTS[plan.version]}",
        gateway_url=gateway_url,
        environment=chat_environment(plan, gateway_url, _proxies(site, site.content.chat)),
        database=database_plan(plan, site.content.hosts[name].platform),
    )


def _proxies(site: Site, chat: Chat) -> tuple[str, ...]:
    """Whom the chat believes whose request it is: the gateways, as it sees them."""
    if _alone(site, chat) or chat.sign_in.trusted_headers:
        return ("127.0.0.1",)
    return tuple(gateway.address for gateway in site.gateways.values())


def chat_rules(site: Site, name: str) -> Iterator[FirewallRule]:
    """What the firewall opens on the host called `name`."""
    chat = site.content.chat
    if chat is None:
        return
    if chat.port and name in site.gateways:
        yield FirewallRule(port=chat.port, sources=site.content.gateway.allow_from, purpose="chat")
    if chat.host == name and not _alone(site, chat):
        sources = tuple(gateway.address for gateway in site.gateways.values())
        yield FirewallRule(port=ports.CHAT, sources=sources, purpose="chat, from the gateway")


def api_sources(site: Site) -> tuple[str, ...]:
    """Who may use the API; empty means everyone. A chat on another host does, as everyone else."""
    allowed, chat = site.content.gateway.allow_from, site.content.chat
    if not allowed or chat is None or chat.host in site.gateways:
        return allowed
    address = site.content.hosts[chat.host].address
    # nftables takes no address beside a network that holds it.
    held = any(ipaddress.ip_address(address) in ipaddress.ip_network(network) for network in allowed)
    return allowed if held else (*allowed, address)


def _alone(site: Site, chat: Chat) -> bool:
    """Whether nobody but its own host has to reach it."""
    return list(site.gateways) == [chat.host]


def _gateway_url(site: Site, chat: Chat) -> str:
    """Plain HTTP over loopback where the gateway is the same host, and over the network as everyone."""
    if chat.host in site.gateways:
        return f"http://127.0.0.1:{ports.CHAT_API}"
    gateway = site.content.gateway
    if gateway.tls:
        return f"https://{gateway.name}" + ("" if site.users_port == ports.HTTPS else f":{site.users_port}")
    return f"http://{site.users_address}:{site.users_port}"


def _models(site: Site) -> tuple[list[str], list[str]]:
    """Names of models that talk, and of those that make embeddings, in the file's order."""
    names = {name.lower(): name for _, _, _, group in reversed(list(site.groups())) for name in reversed(group.models)}
    ordered = list(reversed(names.values()))
    embedding = [name for name in ordered if (facts := site.model(name)) and facts.embedding]
    return [name for name in ordered if name not in embedding], embedding


def _spelled(name: str, known: tuple[str, ...] | list[str]) -> str:
    return next(other for other in known if other.lower() == name.lower())


def _secret(site: Site, secret: Secret) -> SecretPlan:
    return SecretPlan(file=site.beside(secret.file), command=secret.command, folder=str(site.path.parent))


def _sign_in(site: Site, sign_in: SignIn) -> SignInPlan:
    return SignInPlan(
        local=sign_in.local,
        ldap=_ldap(site, sign_in.ldap) if sign_in.ldap else None,
        oidc=_oidc(site, sign_in.oidc) if sign_in.oidc else None,
        trusted_headers=_headers(site, sign_in.trusted_headers) if sign_in.trusted_headers else None,
    )


def _ldap(site: Site, ldap: Ldap) -> LdapPlan:
    return LdapPlan(
        host=ldap.host,
        port=ldap.port or (636 if ldap.tls else 389),
        tls=ldap.tls,
        ca=site.beside(ldap.ca),
        bind_dn=ldap.bind_dn,
        bind_password=_secret(site, ldap.bind_password),
        base=ldap.base,
        filter=ldap.filter,
        user=ldap.user,
        mail=ldap.mail,
        groups=ldap.groups,
    )


def _oidc(site: Site, oidc: Oidc) -> OidcPlan:
    return OidcPlan(
        discovery=oidc.discovery,
        client_id=oidc.client_id,
        client_secret=_secret(site, oidc.client_secret),
        name=oidc.name,
        scopes=oidc.scopes,
        groups=oidc.groups,
    )


def _headers(site: Site, headers: TrustedHeaders) -> TrustedHeadersPlan:
    return TrustedHeadersPlan(
        apache=site.beside(headers.apache) or headers.apache,
        mail=headers.mail,
        name=headers.name,
        groups=headers.groups,
    )
