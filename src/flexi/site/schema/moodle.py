"""`moodle:` in a site file: a Moodle that the university runs already, and what of it uses the models."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from flexi.catalog.consumers import DEFAULT_CLASS
from flexi.catalog.moodle import MoodleActionName, MoodlePlugin, MoodleProvider
from flexi.configfile import names
from flexi.configfile.section import Line, ModelName, Port, Section, Url

PerHour = Annotated[int, Field(ge=1, le=1_000_000)]


class MoodleSsh(Section):
    """Moodle's machine, for `flexi moodle deploy`. flexi installs nothing there: it runs Moodle's own PHP. The site's
    `ssh.config` and `ssh.identity` hold for it too."""

    address: Annotated[str, AfterValidator(names.address)] = Field(
        description="Address or name that SSH connects to.", examples=["192.0.2.40"]
    )
    user: Annotated[str, AfterValidator(names.unix_user)] | None = Field(
        default=None,
        description="The user to log in as, who may use sudo to become `web_user`; default: the site's `ssh.user`.",
        examples=["admin"],
    )
    port: Port = Field(default=22, description="Port of its SSH server.", examples=[22])
    web_user: Annotated[str, AfterValidator(names.unix_user)] = Field(
        default="www-data", description="The user that Moodle's web server runs as.", examples=["www-data"]
    )
    php: Annotated[str, AfterValidator(names.program)] = Field(
        default="php", description="PHP's command line, the version that Moodle runs on.", examples=["/usr/bin/php8.2"]
    )
    config: Annotated[str, AfterValidator(names.absolute_path)] = Field(
        description="Moodle's config.php on that machine.", examples=["/var/www/moodle/config.php"]
    )


class MoodleAction(Section):
    """One of the things that Moodle asks a model to do."""

    model: ModelName | None = Field(
        default=None, description="Which model does it; default: `moodle.model`.", examples=["llama3:8b"]
    )
    instruction: Annotated[str, AfterValidator(names.prompt)] | None = Field(
        default=None,
        description="What the model is told; default: Moodle's own text, or what its admin made of it.",
        examples=["Summarise the text in three sentences, in its language."],
    )


class Moodle(Section):
    """A Moodle (4.5 or later) whose AI provider is this site. `flexi moodle deploy` sets it up; `flexi moodle steps`
    says what to enter by hand. docs/chat/moodle.md"""

    url: Url = Field(description="Address of Moodle, as users know it.", examples=["https://moodle.example.edu"])
    model: ModelName = Field(description="The model that Moodle asks.", examples=["llama3:8b"])
    provider: MoodleProvider = Field(
        default="openai",
        description="Which of Moodle's providers: `openai` asks `/v1/chat/completions` with the key as Bearer; "
        "`ollama` (Moodle 5.0 or later) asks `/api/generate` with the key as a password.",
        examples=["openai"],
    )
    name: Line = Field(default="FLEXI", description="What Moodle calls the provider.", examples=["FLEXI"])
    consumer: Annotated[str, AfterValidator(names.consumer_name)] = Field(
        default="moodle", description="Moodle's name among the consumers.", examples=["moodle"]
    )
    class_name: Annotated[str, AfterValidator(names.class_name)] = Field(
        default=DEFAULT_CLASS, alias="class", description="Its class, one of `gateway.classes`.", examples=["default"]
    )
    actions: dict[MoodleActionName, MoodleAction] = Field(
        default={},
        description="What Moodle may ask for: generate_text, summarise_text, explain_text. Left out, all of them; "
        "named, these only.",
        examples=[{"summarise_text": {"model": "llama3:8b"}}],
    )
    per_user_hour: PerHour | None = Field(
        default=None, description="Moodle's own limit for each of its users; none is no limit.", examples=[30]
    )
    per_hour: PerHour | None = Field(
        default=None, description="Moodle's own limit for all of them together.", examples=[1000]
    )
    plugins: tuple[MoodlePlugin, ...] = Field(
        default=(),
        strict=False,
        description="Plugins that use the gateway by themselves. The first three get the aliases that they insist on; "
        "mod_openchat gets Moodle's origin in `gateway.cors` and what needs no key: tags, show.",
        examples=[["local_ai_manager"]],
    )
    ssh: MoodleSsh | None = Field(default=None, description="Moodle's machine; left out, a person enters everything.")
