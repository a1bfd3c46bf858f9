"""Finding and reading a site file. The only module here that reads the disk."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import flexi.courses.load as course_folders  # by module: the two packages need each other
from flexi.configfile.document import read_document
from flexi.configfile.findings import Finding, Problem, SiteError, nearest, shown
from flexi.configfile.validate import findings, validate
from flexi.paths import INVENTORY
from flexi.site.model import Site
from flexi.site.rules.chat import course_models
from flexi.site.rules.site_file import problems
from flexi.site.schema.site_file import SiteFile

from .keys import keys_path, read_entries

if TYPE_CHECKING:
    from flexi.courses import Course


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


def site_argument(path: Path) -> str:
    """What `find_site` takes for a site file, as commands that a person may copy name it."""
    return path.stem if path.absolute().parent == INVENTORY else str(path)


def load_site(path: Path) -> Site:
    """Read the site file at `path` and the keys file beside it. SiteError with all findings; nothing else is raised."""
    path = Path(path).absolute()
    shown_as = _shown(path)
    document = read_document(path, shown_as)
    content = validate(SiteFile, document)
    site = Site(path, shown_as, content, lines=MappingProxyType({**document.values, **document.keys}))
    found = findings([*problems(site), *_keys_of_mirrors(site)], document)
    try:
        entries = read_entries(path, _shown(keys_path(path)), site.classes)
    except SiteError as error:
        found += error.findings
        entries = ()
    courses: tuple[Course, ...] = ()
    try:
        courses = _courses(site)
    except SiteError as error:
        found += error.findings
    if found:
        raise SiteError(found)
    return replace(site, entries=entries, courses=courses)


def _courses(site: Site) -> tuple[Course, ...]:
    """The courses of the chat. SiteError where one is wrong, or asks a model that the site has not."""
    chat = site.content.chat
    folder = site.beside(chat.courses) if chat else None
    if folder is None:
        return ()
    courses = course_folders.load_courses(Path(folder), _shown(Path(folder)))
    wrong = list(course_models(site, courses))
    if wrong:
        raise SiteError(wrong)
    return courses


_ARMOUR = b"-----BEGIN PGP PUBLIC KEY BLOCK-----"


def _keys_of_mirrors(site: Site) -> list[Problem]:
    """Key files that are missing, or that apt would not read: the name tells the format (sources.list(5))."""
    found = []
    for index, source in enumerate(site.content.mirrors.apt):
        here = ("mirrors", "apt", index, "key")
        file = site.beside(source.key)
        if file is None:
            continue
        if not file.endswith((".asc", ".gpg")):
            found.append(
                Problem(here, "is no name of a key", "call it .asc (text) or .gpg (binary)", shown(source.key))
            )
            continue
        try:
            with open(file, "rb") as opened:
                start = opened.read(len(_ARMOUR))
        except OSError as error:
            reason = f"cannot be read ({(error.strerror or 'no file').lower()})"
            found.append(Problem(here, reason, "put the key's file there", shown(source.key)))
            continue
        # Without armour a public key packet comes first: 0x98 to 0x9a, or 0xc6 in the new format (RFC 9580, 4.2).
        fits = start == _ARMOUR if file.endswith(".asc") else start[:1] in (b"\x98", b"\x99", b"\x9a", b"\xc6")
        if not fits:
            remedy = "export it with gpg --export" + (" --armor" if file.endswith(".asc") else "")
            found.append(Problem(here, "holds no public key", remedy, shown(source.key)))
    return found


def _shown(path: Path) -> str:
    """The path as a person would type it: from the working directory where it is below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)
