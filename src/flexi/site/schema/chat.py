"""`chat:` in a site file: the page on which people talk to the models, and who may."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from flexi.configfile import names
from flexi.configfile.section import FilePath, HostName, Line, ModelName, Port, Secret, Section
from flexi.site.schema.gateway import ModelSelection
from flexi.site.schema.sign_in import SignIn


class Agreement(Section):
    """What users agree to before they can send anything; asked again when `version` changes."""

    version: Line = Field(description="Changes with the text.", examples=["2026-10"])
    de: FilePath | None = Field(
        default=None,
        description="German text, Markdown; relative paths start at the site file.",
        examples=["agreement.de.md"],
    )
    en: FilePath | None = Field(
        default=None,
        description="English text, Markdown; relative paths start at the site file.",
        examples=["agreement.en.md"],
    )


class Backup(Section):
    """Who can read the chat's backups."""

    recipients: tuple[Annotated[str, AfterValidator(names.age_recipient)], ...] = Field(
        min_length=1,
        strict=False,
        description="Public keys of age; the private ones belong on no host of the site.",
        examples=[["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"]],
    )


class Chat(Section):
    """The chat: Open WebUI, which reaches the models through the gateway alone."""

    host: HostName = Field(description="Which of `hosts` it runs on; the gateway's will do.", examples=["gateway"])
    name: Annotated[str, AfterValidator(names.gateway_name)] = Field(
        description="Public name, as users type it; another one than `gateway.name`, and leading to the gateway.",
        examples=["chat.example.edu"],
    )
    port: Port | None = Field(
        default=None,
        description="A port of its own at the gateway, beside the gateway's own port.",
        examples=[8080],
    )
    version: Annotated[str, AfterValidator(names.chat_version)] = Field(
        default="0.12.4", description="Release of Open WebUI.", examples=["0.12.4"]
    )
    title: Line = Field(
        default="FLEXI",
        description="What the page calls itself; Open WebUI adds its own name in brackets.",
        examples=["FLEXI"],
    )
    logo: FilePath | None = Field(
        default=None,
        description="PNG for the page where people sign in; Open WebUI's own marks stay. Relative paths start at the "
        "site file.",
        examples=["logo.png"],
    )
    language: Literal["de", "en"] = Field(
        default="de",
        description="Language of the agreement where a browser asks for neither, and of bots that name none. The page "
        "itself speaks the browser's.",
        examples=["de"],
    )
    models: ModelSelection = Field(
        default="all",
        description="`all`, or the models that every user may choose. Course bots may use any.",
        examples=[["llama3:8b"]],
    )
    default_model: ModelName | None = Field(
        default=None, description="The one that is chosen at first; default: the first.", examples=["llama3:8b"]
    )
    task_model: ModelName | None = Field(
        default=None,
        description="Finds titles and search words; default: `default_model`.",
        examples=["phi3:3.8b"],
    )
    embedding_model: ModelName | None = Field(
        default=None,
        description="Indexes course material and files; default: the site's first embedding model.",
        examples=["nomic-embed-text"],
    )
    admins: tuple[Annotated[str, AfterValidator(names.mail_address)], ...] = Field(
        default=(),
        strict=False,
        description="Mail addresses of users who may manage the chat on its page.",
        examples=[["flexi@example.edu"]],
    )
    admins_read_chats: bool = Field(default=False, description="Whether those may read other people's chats.")
    at_once: int = Field(
        default=8,
        ge=1,
        le=1000,
        description="Requests of one person at the same time, those that wait included. A question is one, and up to "
        "three more find its title and the like.",
        examples=[8],
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=16,
        description="Processes; more than one need `database: postgresql`, and get a Redis.",
        examples=[2],
    )
    database: Literal["sqlite", "postgresql"] = Field(
        default="sqlite", description="Where chats are kept.", examples=["postgresql"]
    )
    database_url: Secret | None = Field(
        default=None,
        description="A PostgreSQL with pgvector of your own, `postgresql://…`; default: one on the chat's host.",
    )
    redis_url: Secret | None = Field(
        default=None, description="A Redis of your own, `redis://…`; default: one on the chat's host."
    )
    retention_days: int | None = Field(
        default=None,
        ge=1,
        le=3650,
        description="Days after its last message that a chat is deleted; default: users delete theirs.",
        examples=[180],
    )
    agreement: Agreement | None = Field(
        default=None, description="What users agree to before they can send anything; default: nothing."
    )
    sign_in: SignIn = SignIn()
    courses: FilePath | None = Field(
        default=None,
        description="Folder with a folder for each course bot; relative paths start at the site file.",
        examples=["courses"],
    )
    backup: Backup | None = None
