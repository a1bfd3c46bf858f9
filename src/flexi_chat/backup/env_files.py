"""Files of assignments, as systemd reads them (systemd.exec(5), EnvironmentFile=) and as the deploy writes them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path


def read(paths: Iterable[Path]) -> dict[str, str]:
    """All assignments of `paths`; a later one wins. A file that is not there has none."""
    found: dict[str, str] = {}
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
        for line in text.splitlines():
            name, separator, value = line.strip().partition("=")
            if separator and not name.startswith(("#", ";")):
                found[name.strip()] = _unquoted(value.strip())
    return found


def with_values(text: str, values: Mapping[str, str]) -> str:
    """The file's `text` with other values for the names that it has; what it does not have is put at its end."""
    left = dict(values)
    lines = []
    for line in text.splitlines():
        name = line.partition("=")[0].strip()
        lines.append(_line(name, left.pop(name)) if name in left else line)
    return "".join(f"{line}\n" for line in (*lines, *(_line(name, value) for name, value in left.items())))


def _line(name: str, value: str) -> str:
    if "\n" in value or "\0" in value:
        raise ValueError(f"{name} is no single line")
    plain = value and all(character.isalnum() or character in "-_.:/@+=," for character in value)
    quoted = re.sub(r'(["\\`$])', r"\\\1", value)
    return f"{name}={value}" if plain else f'{name}="{quoted}"'


def _unquoted(value: str) -> str:
    """In double quotes a backslash takes the meaning from `"`, `\\`, `` ` `` and `$`; in single ones it is itself."""
    if len(value) >= 2 and value[0] == value[-1] == "'":
        return value[1:-1]
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return re.sub(r'\\(["\\`$])', r"\1", value[1:-1])
    return value
