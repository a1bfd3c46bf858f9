"""Keys of `moodle` that do not go with the rest of the site."""

from __future__ import annotations

from collections.abc import Iterator

from flexi.configfile.document import Path
from flexi.configfile.findings import Problem, shown, suggestion
from flexi.site.model import Site

HERE = ("moodle",)


def moodle_problems(site: Site) -> Iterator[Problem]:
    moodle = site.content.moodle
    if moodle is None:
        return
    asked: list[tuple[Path, str]] = [((*HERE, "model"), moodle.model)]
    asked += [
        ((*HERE, "actions", name, "model"), action.model)
        for name, action in moodle.actions.items()
        if action.model is not None
    ]
    for path, model in asked:
        yield from _model(site, path, model)
    rules = site.classes.get(moodle.class_name)
    if rules is None:
        remedy = suggestion(moodle.class_name, list(site.classes))
        reason = "is no class of the site (gateway.classes)"
        yield Problem((*HERE, "class"), reason, remedy, shown(moodle.class_name))
    elif rules.models != "all":
        allowed = {name.lower() for name in rules.models}
        for path, model in asked:
            if model.lower() not in allowed:
                remedy = f"choose one of {', '.join(rules.models)}, or another class"
                yield Problem(path, f"may not be used by the class {moodle.class_name}", remedy, shown(model))


def _model(site: Site, path: Path, name: str) -> Iterator[Problem]:
    spelled = {model.lower(): model for _, _, _, group in site.groups() for model in group.models}
    writing = [model for model in spelled.values() if not ((facts := site.model(model)) and facts.embedding)]
    if name.lower() not in spelled:
        yield Problem(path, "is in no group", suggestion(name, writing), shown(name))
    elif spelled[name.lower()] not in writing:
        yield Problem(path, "makes embeddings only", suggestion(name, writing), shown(name))
