"""Finding and reading a site file. The only module here that reads the disk."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from flexi.paths import INVENTORY

from .document import read_document
from .findings import Finding, SiteError, nearest, shown
from .keys import keys_path, load_consumers
from .rules import problems
from .schema import SiteFile
from .site import Site
from .validate import findings, validate


def find_site(arg: str) -> Path:
    """The site file for a site's name (`lab`: inventory/lab.yaml) or a path. SiteError lists the sites there are."""
    if Path(arg).suffix in (".yaml", ".yml") or os.sep in arg:
        return Path(arg)
    named = INVENTORY / f"{arg}.yaml"
    if os.path.isfile(named):  # unlike Path.is_file it takes any text
        return named
    known = sorted(path.stem for path in INVENTORY.glob("*.yaml"))
    close = nearest(arg, known)
    remedy = f"did you mean '{close}'? " if close else ""
    remedy += f"Known are {', '.join(known)}; or give the path of a site file"
    raise SiteError([Finding(_shown(INVENTORY), 0, 0, "", shown(arg), "is no site", remedy)])


def load_site(path: Path) -> Site:
    """Read the site file at `path` and the keys file beside it. SiteError with all findings; nothing else is raised."""
    path = Path(path).absolute()
    shown_as = _shown(path)
    document = read_document(path, shown_as)
    content = validate(SiteFile, document)
    site = Site(path, shown_as, content, lines=MappingProxyType({**document.values, **document.keys}))
    found = findings(problems(site), document)
    try:
        consumers = load_consumers(path, _shown(keys_path(path)))
    except SiteError as error:
        found += error.findings
        consumers = ()
    if found:
        raise SiteError(found)
    return replace(site, consumers=consumers)


def _shown(path: Path) -> str:
    """The path as a person would type it: from the working directory where it is below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)
