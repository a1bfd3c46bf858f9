"""The keys file beside the site file, changed whole or not at all, by one process at a time."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from flexi.catalog.consumers import DEFAULT_CLASS
from flexi.configfile.findings import nearest, suggestion
from flexi.errors import FlexiError, InputError
from flexi.site.keys import ConsumerEntry, PreviousKey, keys_path, read_entries, seconds
from flexi.site.model import Site

KEY_PREFIX = "flexi-"


class KeysStore:
    """The consumers of a site, for as long as the `with` lasts; nobody else changes them meanwhile.

    Each change is written before its method returns. InputError where something cannot be; SiteError where the file
    is broken, which is then left alone.
    """

    def __init__(self, site: Site, now: datetime | None = None) -> None:
        self._site = site
        self._now = (now or datetime.now(UTC)).replace(microsecond=0)
        self._path = keys_path(site.path).resolve()
        self._lock: int | None = None
        self.entries: tuple[ConsumerEntry, ...] = ()

    def __enter__(self) -> Self:
        # The directory: a lock file of its own would lie about in the admin's repository.
        self._lock = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.entries = read_entries(self._site.path, str(keys_path(self._site.path)), self._site.classes)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._lock is not None
        os.close(self._lock)

    def add(
        self,
        name: str,
        class_name: str = DEFAULT_CLASS,
        *,
        owner: str | None = None,
        purpose: str | None = None,
        expires: datetime | None = None,
    ) -> str:
        """Make a key for a new consumer and return it; only its digest is written.

        A key has 256 bits of chance, so a plain digest of it cannot be turned back.
        """
        if any(entry.name == name for entry in self.entries):
            raise InputError(f"there is a consumer '{name}' already: rotate its key, or take another name")
        if class_name not in self._site.classes:
            raise InputError(
                f"'{class_name}' is no class of the site (gateway.classes); "
                + suggestion(class_name, list(self._site.classes))
            )
        key = _new_key()
        entry = _entry(
            {
                "name": name,
                "class": class_name,
                "owner": owner,
                "purpose": purpose,
                "created": self._now.isoformat(),
                "expires": self._end(expires),
                "sha256": _digest(key),
            }
        )
        self._write([*self.entries, entry])
        return key

    def rotate(self, name: str, *, keep_old: timedelta = timedelta(), expires: datetime | None = None) -> str:
        """Make another key for a consumer and return it. The one before stays good for `keep_old`; `expires` is the
        new one's end, otherwise it is that of the consumer as before."""
        entry = self.entry(name)
        end = self._end(expires) or entry.expires
        if end is not None and seconds(end) <= self._now.timestamp():
            raise InputError(f"the key of '{name}' has ended on {end[:10]}: say with --expires when the next one does")
        until = self._now + keep_old
        if entry.expires is not None:
            until = min(until, datetime.fromisoformat(entry.expires))
        previous = PreviousKey(sha256=entry.sha256, expires=until.isoformat()) if until > self._now else None
        key = _new_key()
        change = {"sha256": _digest(key), "created": self._now.isoformat(), "expires": end, "previous": previous}
        self._write([old if old is not entry else entry.model_copy(update=change) for old in self.entries])
        return key

    def adopt(self, name: str, sha256: str, class_name: str, *, purpose: str, keep_old: timedelta) -> bool:
        """Make the key with this digest, which another machine made for itself, that of the consumer `name`, which is
        added where there is none. Returns whether that changed anything. The one before stays good for `keep_old`."""
        if class_name not in self._site.classes:
            raise InputError(f"'{class_name}' is no class of the site (gateway.classes)")
        known = next((entry for entry in self.entries if entry.name == name), None)
        if known is None:
            created = self._now.isoformat()
            values: dict[str, object] = {
                "name": name,
                "class": class_name,
                "purpose": purpose,
                "created": created,
                "sha256": sha256,
            }
            self._write([*self.entries, _entry(values)])
            return True
        change: dict[str, object] = {"class_name": class_name}
        if known.sha256 != sha256:
            until = (self._now + keep_old).isoformat()
            previous = PreviousKey(sha256=known.sha256, expires=until)
            change |= {"sha256": sha256, "created": self._now.isoformat(), "expires": None, "previous": previous}
        changed = known.model_copy(update=change)
        if changed == known:
            return False
        self._write([entry if entry is not known else changed for entry in self.entries])
        return True

    def revoke(self, names: Sequence[str]) -> None:
        """Take consumers out, with all their keys; all of them or none."""
        gone = [self.entry(name) for name in names]
        self._write([entry for entry in self.entries if entry not in gone])

    def entry(self, name: str) -> ConsumerEntry:
        """The consumer `name`; InputError where there is none."""
        for entry in self.entries:
            if entry.name == name:
                return entry
        close = nearest(name, [entry.name for entry in self.entries])
        hint = f"did you mean '{close}'?" if close else f"./flexi keys list {self._site.shown_as} shows all"
        raise InputError(f"there is no consumer '{name}'; {hint}")

    def _end(self, expires: datetime | None) -> str | None:
        if expires is None:
            return None
        end = expires.replace(microsecond=0)
        if end <= self._now:
            raise InputError(f"{end.isoformat()} has passed: a key that ends then is none")
        return end.isoformat()

    def _write(self, entries: Sequence[ConsumerEntry]) -> None:
        """Whole or not at all: an interrupted write must not lose the other keys."""
        kept = tuple(_without_what_ended(entry, self._now) for entry in entries)
        content = [entry.model_dump(mode="json", by_alias=True, exclude_none=True) for entry in kept]
        text = json.dumps({"consumers": content}, indent=2, ensure_ascii=False) + "\n"
        try:
            _replace(self._path, text)
        except OSError as error:
            raise FlexiError(f"{self._path}: cannot be written ({error.strerror}): nothing has changed") from None
        self.entries = kept


def _replace(path: Path, text: str) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, text=True)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _without_what_ended(entry: ConsumerEntry, now: datetime) -> ConsumerEntry:
    ended = entry.previous is not None and seconds(entry.previous.expires) <= now.timestamp()
    return entry.model_copy(update={"previous": None}) if ended else entry


def _entry(values: dict[str, object]) -> ConsumerEntry:
    try:
        return ConsumerEntry.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(f"{first['loc'][0]}: {first['input']!r} {first['msg']}") from None


def _new_key() -> str:
    return KEY_PREFIX + secrets.token_urlsafe(32)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
