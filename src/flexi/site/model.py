"""A site that was read and found fine: the file's content, and what belongs to it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from flexi.catalog import CATALOGUE, GPU_MEMORY_MIB, ModelFacts, fit, ports
from flexi.catalog.platforms import OLLAMA_NEEDS_550, version_tuple
from flexi.configfile.document import Mark
from flexi.site.consumers import Consumer
from flexi.site.keys import ConsumerEntry, consumers
from flexi.site.schema.gateway import BUILT_IN_CLASSES, ConsumerClass
from flexi.site.schema.site_file import Group, Host, SiteFile

if TYPE_CHECKING:
    from flexi.courses import Course


@dataclass(frozen=True)
class Site:
    """Everything that the plan follows from. Build it with `load_site`; tests may build it by hand."""

    path: Path
    """Absolute path of the file."""
    shown_as: str
    """How messages call the file."""
    content: SiteFile
    entries: tuple[ConsumerEntry, ...] = ()
    """Of the keys file."""
    catalogue: Mapping[str, ModelFacts] = field(default_factory=lambda: CATALOGUE)
    """Models that flexi knows, before the site file's own."""
    gpu_memory_mib: Mapping[str, int] = field(default_factory=lambda: GPU_MEMORY_MIB)
    courses: tuple[Course, ...] = ()
    """Of the courses folder, by id."""
    lines: Mapping[tuple[str | int, ...], Mark] = field(default_factory=lambda: MappingProxyType({}))
    """Where each key of the file stands."""

    @property
    def consumers(self) -> tuple[Consumer, ...]:
        return consumers(self.entries)

    @property
    def classes(self) -> Mapping[str, ConsumerClass]:
        """Classes of consumers: the two that are always there, changed and followed by those of the file."""
        return {**BUILT_IN_CLASSES, **self.content.gateway.classes}

    @property
    def gateway(self) -> Host:
        return self.content.hosts[self.content.gateway.host]

    @property
    def gateways(self) -> dict[str, Host]:
        """The hosts that are gateways, by name: the first one, and its standby."""
        gateway = self.content.gateway
        names = (gateway.host, gateway.standby) if gateway.standby else (gateway.host,)
        return {name: self.content.hosts[name] for name in names if name in self.content.hosts}

    def has_chat(self, name: str) -> bool:
        """Whether the host called `name` has the chat."""
        return self.content.chat is not None and self.content.chat.host == name

    @property
    def users_address(self) -> str:
        """The address that users reach."""
        return self.content.gateway.floating_address or self.gateway.address

    @property
    def users_port(self) -> int:
        """The port that users reach."""
        gateway = self.content.gateway
        return gateway.port or (ports.HTTPS if gateway.tls else ports.HTTP)

    @property
    def http_port(self) -> int | None:
        """The port for plain HTTP beside HTTPS; None where there is none."""
        tls = self.content.gateway.tls
        return ports.HTTP if tls and tls.http != "closed" else None

    def from_its_makers(self) -> Site:
        """The site as it would download: what a bundle is made from."""
        mirrors = self.content.mirrors.model_copy(update={"bundle": None})
        return replace(self, content=self.content.model_copy(update={"mirrors": mirrors}))

    def model(self, name: str) -> ModelFacts | None:
        """Figures of a model: the site file's own, then the catalogue's; names compare as Ollama does, without case."""
        for source in (self.content.models, self.catalogue):
            for known, facts in source.items():
                if known.lower() == name.lower():
                    return facts
        return None

    def gpu_bytes(self, host: Host) -> int | None:
        """Memory of one card of `host`; None where flexi does not know the card and the file does not say."""
        if host.gpus is None:
            return None
        mib = host.gpus.memory_mib or self.gpu_memory_mib.get(host.gpus.model)
        return mib * 1024 * 1024 if mib else None

    def groups(self) -> Iterable[tuple[str, Host, str, Group]]:
        """(host name, host, group name, group) in the file's order."""
        for host_name, host in self.content.hosts.items():
            for group_name, group in host.groups.items():
                yield host_name, host, group_name, group

    def loads(self, group: Group) -> list[fit.Load]:
        """The models of a group with their figures; KeyError names one that has none."""
        loads = []
        for name in group.models:
            facts = self.model(name)
            if facts is None:
                raise KeyError(name)
            loads.append(fit.load(name, facts, group.context, group.parallel, group.kv_cache))
        return loads

    def order_that_fits(self, host: Host, group: Group) -> tuple[fit.Load, ...] | None:
        """Another order of the group's models in which they fit, where that of the file does not; None without one."""
        return fit.order_that_fits(self.loads(group), self._cards(host, group), packs=self._packs)

    def fit(self, host: Host, loads: list[fit.Load], group: Group) -> fit.Fit:
        """Whether `loads` fit onto the cards of `group`; ValueError where the size of a card is not known."""
        return fit.fit(loads, self._cards(host, group), packs=self._packs)

    def _cards(self, host: Host, group: Group) -> list[int]:
        card = self.gpu_bytes(host)
        if card is None:
            raise ValueError("the size of the cards is not known")
        return [card] * group.card_count(host)

    @property
    def _packs(self) -> bool:
        return version_tuple(self.content.ollama.version) < OLLAMA_NEEDS_550

    def where(self, *path: str | int) -> str:
        """`file:line` of a key."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return f"{self.shown_as}:{self.lines[path[:end]].line}"
        return self.shown_as

    def beside(self, path: str | None) -> str | None:
        """An absolute path for one that the file gives relative to itself."""
        if path is None:
            return None
        expanded = os.path.expanduser(path)
        return os.path.normpath(os.path.join(self.path.parent, expanded))
