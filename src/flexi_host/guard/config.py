"""What the guard lets through and where it goes: /etc/flexi/guard.json, written by the deploy from the plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from flexi_host.common.fields import ConfigError, Fields, as_text, load_config

Item = TypeVar("Item")

EVERYTHING = "*"
MOST_ANSWER_TOKENS = 2**31 - 1
"""The largest bound that every runner can hold (llama.cpp counts in 32 bits)."""


@dataclass(frozen=True)
class Model:
    """A model of the site. Clients reach it by each of its spellings and aliases."""

    name: str
    """Full name with tag: what the instance is asked for."""
    backend: str
    """The section of HAProxy that queues for it."""
    show: str
    """The section for what needs no place at an instance."""
    context: int
    """Tokens for each request; the smallest where groups differ."""
    embedding: bool


@dataclass(frozen=True)
class ConsumerClass:
    models: frozenset[str] | None
    """Names of the models it may use; None for all."""
    options: frozenset[str] | None
    """What it may set of guard_policy.HELD; None for all."""
    max_answer_tokens: int | None = None
    """Most tokens of an answer; None for the site's own."""


@dataclass(frozen=True)
class GuardConfig:
    inner: str
    """Unix socket of HAProxy's inner front end."""
    ledger: str
    """Unix datagram socket that finished requests are told to."""
    body_limit_bytes: int
    body_timeout_s: int
    """A body must have come within this time."""
    bodies_limit_bytes: int
    """Of all bodies that a worker holds: those that come in, and those whose answer has not begun."""
    retries: int
    """Attempts after the first one, while the client has had nothing."""
    paths: frozenset[str]
    models: Mapping[str, Model]
    """By lower-case spelling, aliases among them."""
    classes: Mapping[str, ConsumerClass]
    hosts: Mapping[str, str]
    """The host of each group."""
    max_answer_tokens: int | None = None
    """Most tokens of an answer; None, as in files that an earlier flexi wrote, leaves them to the client."""

    @classmethod
    def load(cls, path: Path) -> GuardConfig:
        """Read `path`; ConfigError with the file, the field and the value where it is wrong."""
        return load_config(path, cls.from_json)

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> GuardConfig:
        fields = Fields(value, "guard")
        config = cls(
            inner=fields.text("inner"),
            ledger=fields.text("ledger"),
            body_limit_bytes=fields.whole("body_limit_bytes", 1, 2**32),
            body_timeout_s=fields.whole("body_timeout_s", 1, 86_400),
            bodies_limit_bytes=fields.whole("bodies_limit_bytes", 1, 2**40),
            retries=fields.whole("retries", 0, 10),
            paths=frozenset(as_text(item, where) for item, where in fields.items("paths")),
            models=_table(fields, "models", _model),
            classes=_table(fields, "classes", _class),
            hosts=_table(fields, "hosts", as_text),
            max_answer_tokens=fields.whole_or_none("max_answer_tokens", 1, MOST_ANSWER_TOKENS),
        )
        fields.done()
        return config


def _table(fields: Fields, key: str, read: Callable[[object, str], Item]) -> dict[str, Item]:
    return {name: read(value, where) for name, value, where in fields.entries(key)}


def _model(value: object, where: str) -> Model:
    fields = Fields(value, where)
    model = Model(
        name=fields.text("name"),
        backend=fields.text("backend"),
        show=fields.text("show"),
        context=fields.whole("context", 1, 2**31),
        embedding=fields.flag("embedding", False),
    )
    fields.done()
    return model


def _class(value: object, where: str) -> ConsumerClass:
    fields = Fields(value, where)
    found = ConsumerClass(
        models=_names(fields, "models"),
        options=_names(fields, "options"),
        max_answer_tokens=fields.whole_or_none("max_answer_tokens", 1, MOST_ANSWER_TOKENS),
    )
    fields.done()
    return found


def _names(fields: Fields, key: str) -> frozenset[str] | None:
    names = [as_text(item, where) for item, where in fields.items(key)]
    if EVERYTHING not in names:
        return frozenset(names)
    if len(names) > 1:
        raise ConfigError(f"{key}: {EVERYTHING} stands for all, so it stands alone")
    return None
