"""From a document to its pydantic model, every error turned into a finding with its line."""

from __future__ import annotations

import types
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from flexi.configfile.document import Document, Path, dotted
from flexi.configfile.findings import Finding, Problem, SiteError, shown, suggestion

Content = TypeVar("Content", bound=BaseModel)

_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
}


def validate(model: type[Content], document: Document) -> Content:
    """The document's content as `model`. SiteError with every finding."""
    # As good as commented out, and nobody means that by `tls:`. Who does can write `tls: null`.
    empty = [path for path in document.keys if document.is_empty(path)]
    problems = [Problem(path, "is empty", _fill(model, path), at_key=True) for path in empty]
    try:
        content = model.model_validate(document.data)
    except ValidationError as error:
        found = [_problem(model, document, detail) for detail in error.errors(include_url=False)]
        problems += [problem for problem in found if problem.path not in empty]
    if problems:
        raise SiteError(findings(problems, document))
    return content


def findings(problems: Iterable[Problem], document: Document) -> list[Finding]:
    """Findings of the document for what is known by path."""
    found = []
    for problem in problems:
        mark = document.mark(problem.path, problem.at_key)
        found.append(
            Finding(
                document.file,
                mark.line,
                mark.column,
                dotted(problem.path),
                problem.value,
                problem.reason,
                problem.remedy,
            )
        )
    return found


def _problem(model: type[BaseModel], document: Document, detail: ErrorDetails) -> Problem:
    kind, location = detail["type"], detail["loc"]
    context: dict[str, Any] = detail.get("ctx") or {}
    path = _in_document(document, location)
    value = shown(detail["input"])
    if location and location[-1] == "[key]":
        return Problem(
            path, str(context.get("reason", "is no key")), str(context.get("remedy", "rename it")), at_key=True
        )
    if kind == "extra_forbidden":
        return Problem(path, "is no key that flexi knows", suggestion(path[-1], _keys(model, path[:-1])), at_key=True)
    if kind == "missing":
        # Missing from the mapping above it: point to that one, and name the key.
        owner, key = path, str(location[-1])
        return Problem((*owner, key), "is missing", _add(model, owner, key), at_key=True)
    if kind == "refused":
        return Problem(path, context["reason"], context["remedy"], value)
    if kind == "literal_error":
        options = _options(_annotation(model, path))
        return Problem(path, "is none of the values that are allowed", suggestion(detail["input"], options), value)
    if kind in _TYPES:
        return Problem(path, f"is not {_TYPES[kind]}", _instead(model, path, kind, detail["input"]), value)
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        (limit,) = context.values()
        above = kind.startswith("greater")
        remedy = f"write {'more' if above else 'less'} than {limit}"
        if kind.endswith("equal"):
            remedy = f"write {limit} or {'more' if above else 'less'}"
        return Problem(path, "is too small" if above else "is too large", remedy, value)
    if kind in ("too_short", "dict_too_short"):
        return Problem(path, "is empty", _instead(model, path, kind, None), at_key=True)
    message = detail["msg"][:1].lower() + detail["msg"][1:]
    return Problem(path, f"cannot be used ({message})", "see docs/reference/site-file.md", value)


def _in_document(document: Document, location: Sequence[str | int]) -> Path:
    """pydantic's location without the parts that name a branch of a type and nothing in the file."""
    path: Path = ()
    for part in location:
        step = (*path, part)
        if step in document.values or step in document.keys:
            path = step
    return path


def _annotation(model: type[BaseModel], path: Path) -> Any:
    """The type that stands at `path` of the model; Any where it has no such place."""
    current: Any = model
    for part in path:
        current = _strip(current)
        if isinstance(current, type) and issubclass(current, BaseModel):
            field = _fields(current).get(str(part))
            if field is None:
                return Any
            current = field.annotation
        elif get_origin(current) is dict:
            current = get_args(current)[1]
        elif get_origin(current) in (tuple, list):
            current = get_args(current)[0]
        else:
            return Any
    return _strip(current)


def _strip(annotation: Any) -> Any:
    """Without Annotated and None."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in (Union, types.UnionType):
            rest = [item for item in get_args(annotation) if item is not type(None)]
            if len(rest) != 1:
                return annotation
            annotation = rest[0]
        else:
            return annotation


def _keys(model: type[BaseModel], path: Path) -> list[str]:
    annotation = _annotation(model, path)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return list(_fields(annotation))
    return []


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a section by the keys that the file uses for them."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _options(annotation: Any) -> list[str]:
    return [str(item) for item in get_args(annotation)] if get_origin(annotation) is Literal else []


def _example(model: type[BaseModel], owner: Path, key: str) -> str | None:
    field = _field(model, owner, key)
    if field is None or not field.examples:
        return None
    example = field.examples[0]
    return f'"{example}"' if isinstance(example, str) and example[:1].isdigit() else _flow(example)


def _field(model: type[BaseModel], owner: Path, key: str) -> FieldInfo | None:
    annotation = _annotation(model, owner)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _fields(annotation).get(key)
    return None


def _flow(value: object) -> str:
    """As YAML's flow style writes it."""
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    return str(value)


def _add(model: type[BaseModel], owner: Path, key: str) -> str:
    example = _example(model, owner, key)
    if example is not None:
        return f"add it, e.g. {key}: {example}"
    return "add it, see docs/reference/site-file.md"


def _fill(model: type[BaseModel], path: Path) -> str:
    field = _field(model, path[:-1], str(path[-1]))
    example = _example(model, path[:-1], str(path[-1]))
    write = f"write e.g. {path[-1]}: {example}" if example is not None else "write what it shall be"
    return write if field is not None and field.is_required() else f"{write}, or remove it"


def _instead(model: type[BaseModel], path: Path, kind: str, given: object) -> str:
    if kind == "string_type" and isinstance(given, int | float) and not isinstance(given, bool):
        return f'write it in quotes: "{given}"'
    owner, key = path[:-1], path[-1] if path else ""
    if isinstance(key, int):
        owner, key = path[:-2], path[-2]
    example = _example(model, owner, str(key))
    return f"write e.g. {key}: {example}" if example is not None else "see docs/reference/site-file.md"
