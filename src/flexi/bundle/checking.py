"""Whether what a plan needs of this machine is here, a whole bundle above all: said before any host is touched.

Reading hundreds of gigabytes takes minutes, so what was read once is believed while its size and time stay.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

from flexi.errors import FlexiError, InputError
from flexi.local_files import certificates, chat, chat_place
from flexi.plan.model.site import HostPlan, Plan
from flexi.terminal.bars import Bars

from . import manifest as manifests
from . import release
from .manifest import File

CHECKED = ".checked.json"
PIECE = 1024 * 1024
_LISTED = 8


class SupplyError(InputError):
    """What a site is to be deployed from is not there, or is not what it should be."""

    def __init__(self, path: str, reason: str, remedy: str) -> None:
        super().__init__(f"{path}: {reason}; {remedy}")
        self.path = path
        """Of the setting in the site file, dotted."""
        self.reason = reason
        self.remedy = remedy


class Checked:
    """Files whose digest was computed, by size and time of their last change in nanoseconds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, list[object]] = {}
        with contextlib.suppress(OSError, ValueError):
            known = json.loads((folder / CHECKED).read_text(encoding="utf-8"))
            self._known = known if isinstance(known, dict) else {}

    def remember(self, path: str, sha256: str) -> None:
        self._known[path] = [sha256, *_state(self._folder / path)]

    def digest(self, path: str, bars: Bars, *, anew: bool) -> str | None:
        """SHA-256 of a file; None where it cannot be read. Without `anew`, of one that has not changed as known."""
        file = self._folder / path
        try:
            state = _state(file)
            known = self._known.get(path)
            if not anew and isinstance(known, list) and known[1:] == state:
                return str(known[0])
            digest = hashlib.sha256()
            bar = bars.bar(path, file.stat().st_size)
            with file.open("rb") as opened:
                while piece := opened.read(PIECE):
                    digest.update(piece)
                    bar.advance(len(piece))
            bar.finished()
        except OSError:
            return None
        self._known[path] = [digest.hexdigest(), *state]
        return digest.hexdigest()

    def save(self) -> None:
        """For the next time; a folder that may not be written to is read anew each time."""
        with contextlib.suppress(OSError):
            draft = self._folder / f"{CHECKED}.new"
            draft.write_text(json.dumps(self._known), encoding="utf-8")
            draft.replace(self._folder / CHECKED)


def _state(file: Path) -> list[object]:
    found = file.stat()
    return [found.st_size, found.st_mtime_ns]


def wrong_files(folder: Path, files: dict[str, File], bars: Bars, *, anew: bool) -> dict[str, str]:
    """Path to what is wrong with it, of the files that are not what the manifest says."""
    checked = Checked(folder)
    wrong = {}
    for path, file in files.items():
        place = folder / path
        if not place.is_file():
            wrong[path] = "is missing"
        elif place.stat().st_size != file.size:
            wrong[path] = f"has {place.stat().st_size} bytes instead of {file.size}"
        else:
            digest = checked.digest(path, bars, anew=anew)
            if digest != file.sha256:
                wrong[path] = f"has the SHA-256 {digest}, wanted {file.sha256}" if digest else "cannot be read"
    checked.save()
    return wrong


def check(plan: Plan, site: str, bars: Bars) -> None:
    """SupplyError that names what the plan's files here or its bundle lack, and the remedy. Fine without any."""
    certificates.check(plan)
    chat.check(plan)
    if plan.chat:
        chat_place.place(plan.chat)
    for host in plan.hosts:
        _check_archive(host)
    folders = {host.bundle.folder for host in plan.hosts if host.bundle}
    for folder in sorted(folders):
        remedy = f"where there is internet: ./flexi bundle {site} --to {folder}"
        try:
            problems = _problems(Path(folder), plan, bars)
        except FlexiError as error:
            raise SupplyError("mirrors.bundle", str(error), remedy) from None
        if problems:
            more = len(problems) - _LISTED
            listed = "; ".join(problems[:_LISTED]) + (f"; and {more} more" if more > 0 else "")
            raise SupplyError("mirrors.bundle", f"the bundle {folder} cannot serve this site: {listed}", remedy)


def _check_archive(host: HostPlan) -> None:
    """SupplyError where Ollama's archive should be on this machine, beside no bundle, and is not or has no digest."""
    archive = release.local_archive(host.ollama) if host.ollama and not host.bundle else None
    if host.ollama is None or archive is None:
        return
    if not archive.is_file():
        raise SupplyError("mirrors.ollama", f"there is no {archive}", "put the archive there")
    try:
        release.digest(host.ollama)
    except FlexiError as error:
        reason, _, remedy = str(error).partition(": ")
        raise SupplyError("mirrors.ollama", reason, remedy) from None


def _problems(folder: Path, plan: Plan, bars: Bars) -> list[str]:
    if not (folder / manifests.NAME).is_file():
        return [f"there is no {manifests.NAME} in it"]
    manifest = manifests.read(folder)
    lacking = [f"it was not made for {what}" for what in manifest.lacks(plan)]
    needed = {path: file for host in plan.hosts for path, file in manifest.of_host(host).items()}
    wrong = wrong_files(folder, needed, bars, anew=False)
    return lacking + [f"{path} {what}" for path, what in wrong.items()]
