"""What the gateway's catalogue shows: /etc/flexi/catalogue.json, written by the deploy from the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flexi_host.common.fields import Fields, as_text, load_config


@dataclass(frozen=True)
class Source:
    """An instance whose lists are merged."""

    group: str
    url: str


@dataclass(frozen=True)
class CatalogueConfig:
    port: int
    """On the loopback interface; 0 takes any free one."""
    instances: tuple[Source, ...]
    models: tuple[str, ...]
    """Names that are shown; what else an instance stores stays its own affair."""
    aliases: Mapping[str, str]
    """Lower-case names that clients may ask for in place of a model's own, which is what lists show."""

    @classmethod
    def load(cls, path: Path) -> CatalogueConfig:
        """Read `path`; ConfigError with the file, the field and the value where it is wrong."""
        return load_config(path, cls.from_json)

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> CatalogueConfig:
        fields = Fields(value, "catalogue")
        config = cls(
            port=fields.port("port"),
            instances=tuple(_source(item, where) for item, where in fields.items("instances")),
            models=tuple(as_text(item, where) for item, where in fields.items("models")),
            aliases={name: as_text(item, where) for name, item, where in fields.entries("aliases")},
        )
        fields.done()
        return config


def _source(value: object, where: str) -> Source:
    fields = Fields(value, where)
    source = Source(group=fields.text("group"), url=fields.url("url"))
    fields.done()
    return source
