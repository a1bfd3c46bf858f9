"""Reading JSON configuration with errors that name the field and the value."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

Config = TypeVar("Config")


class ConfigError(Exception):
    """The configuration cannot be used; the message names the file or field, the value and what is expected."""


def load_config(path: Path, from_json: Callable[[Mapping[str, object]], Config]) -> Config:
    """What `from_json` makes of the JSON object in `path`; ConfigError names the file, the field and the value."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ConfigError(f"expected an object, found {_shown(value)}")
        return from_json(value)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


class Fields:
    """One JSON object; `where` is its path in the file, for messages. Unknown keys are refused by `done`."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: expected an object, found {_shown(value)}")
        self._rest: dict[str, object] = dict(value)
        self._where = where

    def text(self, key: str, default: str | None = None) -> str:
        value = self._take(key, default)
        if not isinstance(value, str) or not value:
            raise self._wrong(key, value, "a text that is not empty")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self._take(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def whole(self, key: str, low: int, high: int) -> int:
        value = self._take(key, None)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self._wrong(key, value, f"a whole number from {low} to {high}")
        return value

    def whole_or_none(self, key: str, low: int, high: int) -> int | None:
        """Return the number at `key`, None where the key is missing."""
        return self.whole(key, low, high) if key in self._rest else None

    def port(self, key: str) -> int:
        return self.whole(key, 0, 65535)

    def url(self, key: str) -> str:
        value = self.text(key)
        if not value.startswith("http://"):
            raise self._wrong(key, value, "a URL that starts with http://")
        return value.rstrip("/")

    def items(self, key: str) -> list[tuple[object, str]]:
        """The list at `key` as (item, where) pairs."""
        value = self._take(key, None)
        if not isinstance(value, list):
            raise self._wrong(key, value, "a list")
        return [(item, f"{self._where}.{key}[{number}]") for number, item in enumerate(value)]

    def entries(self, key: str) -> list[tuple[str, object, str]]:
        """The object at `key` as (name, value, where) triples."""
        value = self._take(key, None)
        if not isinstance(value, Mapping):
            raise self._wrong(key, value, "an object")
        return [(name, item, f"{self._where}.{key}.{name}") for name, item in value.items()]

    def section(self, key: str) -> Fields | None:
        """The object at `key`; None where there is none."""
        if key not in self._rest:
            return None
        return Fields(self._take(key, None), f"{self._where}.{key}")

    def done(self) -> None:
        """Refuse what nobody has read: a misspelt key must not be ignored."""
        for key in self._rest:
            raise ConfigError(f"{self._where}.{key}: unknown key")

    def _take(self, key: str, default: object) -> object:
        if key not in self._rest and default is None:
            raise ConfigError(f"{self._where}.{key}: missing")
        return self._rest.pop(key, default)

    def _wrong(self, key: str, value: object, expected: str) -> ConfigError:
        return ConfigError(f"{self._where}.{key}: expected {expected}, found {_shown(value)}")


def as_text(value: object, where: str) -> str:
    """`value`, which must be a text; for the items of a list of names."""
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{where}: expected a text that is not empty, found {_shown(value)}")
    return value


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
