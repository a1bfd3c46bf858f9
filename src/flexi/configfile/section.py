"""What the parts of a site file are made of: the base of their classes, and values that several of them use."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from flexi.configfile import names

HostName = Annotated[str, AfterValidator(names.host_name)]
GroupName = Annotated[str, AfterValidator(names.group_name)]
ModelName = Annotated[str, AfterValidator(names.model_name)]
Network = Annotated[str, AfterValidator(names.network)]
Url = Annotated[str, AfterValidator(names.url)]
UrlOrPath = Annotated[str, AfterValidator(names.url_or_path)]
FilePath = Annotated[str, AfterValidator(names.plain_path)]
Line = Annotated[str, AfterValidator(names.one_line)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Section(BaseModel):
    """A mapping of the site file: no other keys than its own, no conversions, never changed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Secret(Section):
    """A secret that others gave: it stands in no site file, and is read when it is brought to its host."""

    file: FilePath | None = Field(
        default=None,
        description="File that holds it and nothing else, readable by you alone and in no repository; relative paths "
        "start at the site file.",
        examples=["ldap.secret"],
    )
    command: Line | None = Field(
        default=None,
        description="Command that prints it, run by `sh` beside the site file.",
        examples=["pass show flexi/ldap"],
    )
