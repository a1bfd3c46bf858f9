"""The chat's part of the plan: plain data, as in `flexi.plan.model.site`."""

from __future__ import annotations

from typing import Literal

from flexi.catalog.frozen import Frozen
from flexi.catalog.ports import CHAT_BEHIND
from flexi.plan.model.courses import CoursePlan, VisibleModel

PERSON_HEADER = "X-Flexi-Person"
"""In which the chat tells the gateway whose a request is, by the account's id. Nobody else is believed."""


class SecretPlan(Frozen):
    """Where a secret is on the admin's machine; it is read when it is brought, so no plan that is printed holds it."""

    file: str | None
    """Absolute."""
    command: str | None
    folder: str
    """Where `command` is run."""


class AgreementPlan(Frozen):
    version: str
    de: str | None
    """Absolute paths on the admin's machine, of Markdown; one of the two is there."""
    en: str | None


class LdapPlan(Frozen):
    host: str
    port: int
    tls: bool
    ca: str | None
    """A file on the admin's machine, absolute."""
    bind_dn: str
    bind_password: SecretPlan
    base: str
    filter: str | None
    user: str
    mail: str
    groups: str | None


class OidcPlan(Frozen):
    discovery: str
    client_id: str
    client_secret: SecretPlan
    name: str
    scopes: str
    groups: str | None


class TrustedHeadersPlan(Frozen):
    apache: str
    """A file on the admin's machine, absolute."""
    mail: str
    name: str
    groups: str | None


class SignInPlan(Frozen):
    local: bool
    ldap: LdapPlan | None
    oidc: OidcPlan | None
    trusted_headers: TrustedHeadersPlan | None


class ChatPlan(Frozen):
    """The chat as the whole site knows it."""

    host: str
    address: str
    """Where it listens on that host: loopback where the only gateway is the same host."""
    listen_port: int
    name: str
    """The public host name."""
    port: int
    """The port that users reach: its own, or the gateway's."""
    own_port: bool
    """Whether nothing but the chat is behind `port`."""
    scheme: Literal["http", "https"]
    version: str
    title: str
    logo: str | None
    """A file on the admin's machine, absolute."""
    language: Literal["de", "en"]
    models: tuple[str, ...]
    """What every user may choose, as the groups spell them."""
    default_model: str
    task_model: str
    embedding_model: str | None
    """None where no group has one."""
    admins: tuple[str, ...]
    admins_read_chats: bool
    workers: int
    database: Literal["sqlite", "postgresql"]
    database_url: SecretPlan | None
    """None where the database is on the chat's host."""
    redis_url: SecretPlan | None
    retention_days: int | None
    agreement: AgreementPlan | None
    sign_in: SignInPlan
    courses: tuple[CoursePlan, ...]
    visible: tuple[VisibleModel, ...]
    """Every model that some user may reach."""
    recipients: tuple[str, ...]
    """Public keys of age that backups are for."""

    @property
    def inside(self) -> tuple[str, int]:
        """Where Open WebUI itself listens: programs on its host find it there."""
        return (self.address, self.listen_port) if self.sign_in.trusted_headers is None else ("127.0.0.1", CHAT_BEHIND)

    @property
    def inside_url(self) -> str:
        return "http://{}:{}".format(*self.inside)

    @property
    def url(self) -> str:
        """As users type it."""
        own = {"http": 80, "https": 443}[self.scheme]
        return f"{self.scheme}://{self.name}" + ("" if self.port == own else f":{self.port}")


class ChatEdgePlan(Frozen):
    """What the gateway does for the chat's users."""

    name: str
    """The public host name, which tells the chat's requests from the API's."""
    url: str
    own_port: int | None
    """A port with nothing but the chat behind it, besides the gateway's."""
    title: str
    language: Literal["de", "en"]
    address: str
    """Where the gateway reaches it, with `port`."""
    port: int
    api_port: int | None
    """Loopback port of the API, over plain HTTP, for a chat on the same host."""
    stripped_headers: tuple[str, ...]
    """What a client may not say of itself, because the chat would believe it."""
    connections: int
    """Browsers that are connected at once; each holds a connection, and one to the chat."""
    consumer: str
    """The chat's name among the consumers."""
    person_header: str
    person_at_once: int
    """Requests of one person at the same time, those that wait included."""

    @property
    def authority(self) -> str:
        """Name and port, as in the header Host."""
        return self.url.partition("://")[2]


class ChatDatabasePlan(Frozen):
    """PostgreSQL for the chat, as its host needs it."""

    name: str
    """Of the database, its owner, and the user that PostgreSQL knows the owner by."""
    server: bool
    """Whether it is on this host; one of the site's own needs the client alone, for backups."""
    packages: tuple[str, ...]
    redis_package: str | None
    """None where one process needs no Redis, or uses one of the site's own."""


class ChatHostPlan(Frozen):
    """What the chat's host needs for it."""

    packages: tuple[str, ...]
    python: str
    """Path of the interpreter that runs it: 3.11 or 3.12."""
    index: str | None
    """The package index (simple repository API, PEP 503); None: the one that pip and uv know."""
    version: str
    release: str
    """Name of its directory: the version, and the beginning of its lock's digest."""
    gateway_url: str
    """Where it reaches the models."""
    environment: tuple[tuple[str, str], ...]
    """Settings of Open WebUI, and `FLEXI_…` of our own; no secrets."""
    front_packages: tuple[str, ...] = ()
    """Apache, where it says who comes."""
    database: ChatDatabasePlan | None = None
    """None where SQLite will do."""
