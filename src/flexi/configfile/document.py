"""YAML as plain data that remembers its lines.

Only what a site file needs: mappings with text keys, sequences, and plain values. Aliases, merge keys and tags are
refused, so that a file says what it seems to say and a small file cannot become a large one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from flexi.configfile.findings import Finding, SiteError, shown

Path = tuple[str | int, ...]

MAX_BYTES = 256 * 1024
"""A site file of a hundred hosts has about 40 kB; far more than that is something else."""

_MAX_DEPTH = 20
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Mark:
    """Where something stands; both count from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Document:
    """A YAML file: its data, and where each key and each value stands."""

    file: str
    data: object
    keys: Mapping[Path, Mark]
    values: Mapping[Path, Mark]

    def is_empty(self, path: Path) -> bool:
        """Whether a key has nothing behind it, not even `null`: the reader then places its value at the key."""
        return path in self.keys and self.values.get(path) == self.keys[path]

    def mark(self, path: Path, at_key: bool = False) -> Mark:
        """Where `path` stands, or the nearest place above it that exists."""
        for end in range(len(path), 0, -1):
            part = path[:end]
            first, second = (self.keys, self.values) if at_key or end < len(path) else (self.values, self.keys)
            found = first.get(part) or second.get(part)
            if found:
                return found
        return Mark(1, 1)


EXAMPLE = "inventory/example.yaml"


def read_document(path: FilePath, shown_as: str, example: str = EXAMPLE) -> Document:
    """Parse the YAML file at `path`. SiteError where it cannot be read or is no plain YAML.

    `example` is a file to start from, for the remedies.
    """
    return parse_document(read_text(path, shown_as, MAX_BYTES), shown_as, example)


def read_text(path: FilePath, shown_as: str, limit: int) -> str:
    """The file's text, UTF-8 and at most `limit` bytes; SiteError where it is anything else."""

    def refuse(reason: str, remedy: str, line: int = 0) -> SiteError:
        return SiteError([Finding(shown_as, line, 1 if line else 0, "", None, reason, remedy)])

    try:
        if path.is_dir():
            raise refuse("is a directory", "name a file")
        if path.exists() and not path.is_file():
            raise refuse("is no regular file", "name a file")
        with path.open("rb") as stream:
            raw = stream.read(limit + 1)
    except FileNotFoundError:
        raise refuse("does not exist", "check the spelling") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise refuse(f"cannot be read ({reason})", "check its name and permissions") from None
    if len(raw) > limit:
        raise refuse(f"has more than {limit // 1024} KiB", "name a site file, which is far smaller")
    nul = raw.find(b"\0")
    if nul >= 0:
        raise refuse("holds a NUL byte", "name a text file in UTF-8", raw.count(b"\n", 0, nul) + 1)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise refuse(f"is not UTF-8 (byte 0x{raw[error.start]:02x})", "save it as UTF-8", line) from None


def parse_document(text: str, shown_as: str, example: str = EXAMPLE) -> Document:
    """Parse YAML text. SiteError with every finding."""

    def refuse(line: int, column: int, reason: str, remedy: str) -> SiteError:
        return SiteError([Finding(shown_as, line, column, "", None, reason, remedy)])

    try:
        node = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        problem = " ".join((error.problem or error.context or "cannot be parsed").split())
        raise refuse(line, column, f"is no valid YAML ({problem})", "mend the line or the one above") from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else 1
        raise refuse(line, 1, "holds a character that YAML forbids", "remove it") from None
    except RecursionError:
        raise refuse(1, 1, "is nested too deeply", "write a site file, which has six levels") from None
    except (YAMLError, ValueError, TypeError, AttributeError, IndexError, KeyError, AssertionError) as error:
        # ruamel.yaml is not always tidy about broken input; whatever it is, the file is at fault.
        reason = f"is no valid YAML ({type(error).__name__})"
        raise refuse(1, 1, reason, f"compare it with {example}") from None
    if node is None:
        raise refuse(1, 1, "is empty", f"start from {example}")
    if not isinstance(node, MappingNode):
        raise refuse(1, 1, "is no mapping of keys to values", f"start from {example}")
    reader = _Reader(shown_as)
    data = reader.read(node, ())
    if reader.findings:
        raise SiteError(reader.findings)
    return Document(shown_as, data, reader.keys, reader.values)


class _Reader:
    """Turns YAML nodes into plain data and collects what a site file may not use."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.findings: list[Finding] = []
        self.keys: dict[Path, Mark] = {}
        self.values: dict[Path, Mark] = {}
        self._seen: set[int] = set()

    def read(self, node: Node, path: Path) -> object:
        mark = _mark(node)
        self.values[path] = mark
        if id(node) in self._seen:
            self._refuse(mark, path, "is an alias of another part of the file", "write it out")
            return None
        self._seen.add(id(node))
        if len(path) > _MAX_DEPTH:
            self._refuse(mark, path, "is nested too deeply", "write a site file, which has six levels")
            return None
        tag = str(node.tag)
        if isinstance(node, MappingNode) and tag == _TAG + "map":
            return self._mapping(node, path)
        if isinstance(node, SequenceNode) and tag == _TAG + "seq":
            return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, ScalarNode) and (value := _scalar(tag, node.value)) is not _NO_VALUE:
            return value
        self._refuse(mark, path, f"has the tag {shown(tag.removeprefix(_TAG))}", "write a plain value without a tag")
        return None

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, object]:
        result: dict[str, object] = {}
        for key_node, value_node in node.value:
            mark = _mark(key_node)
            if not isinstance(key_node, ScalarNode):
                self._refuse(mark, path, "has a key that is no text", "write the key as plain text")
                continue
            key = str(key_node.value)
            if str(key_node.tag) == _TAG + "merge":
                self._refuse(mark, (*path, key), "merges another mapping", "write it out")
                continue
            if key in result:
                first = self.keys[(*path, key)].line
                self._refuse(mark, (*path, key), f"stands here twice (first in line {first})", "remove one of the two")
                continue
            self.keys[(*path, key)] = mark
            result[key] = self.read(value_node, (*path, key))
            if isinstance(value_node, ScalarNode) and not value_node.value and value_node.style is None:
                # Nothing stands there; the parser places it at the next token, which is another key's.
                self.values[(*path, key)] = mark
        return result

    def _refuse(self, mark: Mark, path: Path, reason: str, remedy: str) -> None:
        self.findings.append(Finding(self.file, mark.line, mark.column, dotted(path), None, reason, remedy))


_NO_VALUE = object()


def _scalar(tag: str, text: str) -> object:
    """The value of a scalar; dates stay text, numbers that Python cannot hold stay text too."""
    kind = tag.removeprefix(_TAG)
    try:
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() in ("true", "yes", "on")
        if kind == "int":
            digits = text.replace("_", "").lower()
            return int(digits, 0) if digits.lstrip("+-").startswith(("0x", "0o", "0b")) else int(digits)
        if kind == "float":
            special = text.lower().replace(".inf", "inf").replace(".nan", "nan")
            return float(special.replace("_", ""))
    except ValueError:
        return text
    return text if kind in ("str", "timestamp", "value") else _NO_VALUE


def _mark(node: Node) -> Mark:
    return Mark(node.start_mark.line + 1, node.start_mark.column + 1)


def dotted(path: Path) -> str:
    """`hosts.server-a.groups.a.models[0]`"""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return "".join(c if c.isprintable() else "?" for c in text)[:200]
