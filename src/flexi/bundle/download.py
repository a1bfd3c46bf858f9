"""Downloads that survive being cut and killed: what is there is continued; nothing counts before its digest fits."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from flexi.errors import FlexiError
from flexi.terminal.bars import Bar

PIECE = 1024 * 1024
TIMEOUT_S = 60
FRUITLESS_TRIES = 6
"""So many in a row that brought nothing, as Ollama's own client (`maxRetries` in server/download.go)."""
_PAUSE_S = 0.5
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class MissingError(FlexiError):
    """The server does not have it."""


def part_of(target: Path) -> Path:
    """Where a download lies until it is whole."""
    return target.with_name(target.name + ".part")


def read(url: str, headers: Mapping[str, str] | None = None, limit: int = 16 * 1024 * 1024) -> bytes:
    """A small document as a whole. FlexiError in words where it cannot be had, `MissingError` where it is not there."""
    for attempt in range(FRUITLESS_TRIES):
        try:
            with _open(url, headers or {}) as answer:
                data = answer.read(limit + 1)
        except (OSError, http.client.HTTPException) as error:
            _give_up(url, error, attempt)
            continue
        if len(data) > limit:
            raise FlexiError(f"{url} is larger than {limit} bytes: that is not what was asked for")
        return data
    raise AssertionError("the last attempt raises")


def size(url: str) -> int | None:
    """Bytes of a file, as far as its server says them."""
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            announced = answer.headers.get("Content-Length")
    except (OSError, http.client.HTTPException):
        return None
    return int(announced) if announced and announced.isdigit() else None


def fetch(url: str, target: Path, *, sha256: str | None, bar: Bar, size: int | None = None) -> str:
    """Bring `url` to `target`, continuing what an earlier call left; returns the SHA-256.

    The file takes its name only when it is whole and its digest is `sha256` (None: whatever it is).

    Raises:
        MissingError: the server does not have it.
        FlexiError: it cannot be had, or is not what it should be; then nothing is left to be continued.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(target)
    continued = part.exists()
    while True:
        digest = _complete(url, part, size, bar)
        if sha256 is None or digest == sha256:
            part.replace(target)
            return digest
        part.unlink()
        if not continued:
            raise FlexiError(f"{url} came with the SHA-256 {digest}, wanted {sha256}: it was thrown away")
        # The beginning came from an earlier day; perhaps only that was wrong.
        continued = False


def _complete(url: str, part: Path, size: int | None, bar: Bar) -> str:
    """Append to `part` until it is whole; the SHA-256 of all of it."""
    digest = hashlib.sha256()
    with part.open("a+b") as file:
        file.seek(0)
        while piece := file.read(PIECE):
            digest.update(piece)
        have = file.tell()
        bar.restart(have)
        attempt = 0
        while size is None or have < size:
            before = have
            try:
                with _open(url, {"Range": f"bytes={have}-"}) as answer:
                    start = _start(answer)
                    if start not in (have, 0):
                        raise FlexiError(f"{url}: asked for the bytes from {have} on, got those from {start} on")
                    if start != have:  # a server that cannot continue sends everything
                        file.truncate(0)
                        digest, have = hashlib.sha256(), 0
                        bar.restart()
                    whole = _copy(answer, file, digest, bar)
                    have = file.tell()
                    if whole:
                        break
                error: Exception = OSError("the connection was cut")
            except urllib.error.HTTPError as refused:
                if refused.code == 416:  # there is nothing behind what we have
                    break
                error = refused
            except (OSError, http.client.HTTPException) as cut:
                error = cut
            have = file.tell()
            attempt = 0 if have > before else attempt
            _give_up(url, error, attempt)
            attempt += 1
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _open(url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
    parts = urlsplit(url)
    if parts.scheme == "file":
        return _local(Path(unquote(parts.path)))
    answer: http.client.HTTPResponse = urllib.request.urlopen(
        urllib.request.Request(url, headers=dict(headers)), timeout=TIMEOUT_S
    )
    return answer


def _local(path: Path) -> http.client.HTTPResponse:
    try:
        return path.open("rb")  # type: ignore[return-value]
    except FileNotFoundError:
        raise MissingError(f"{path} is not there") from None
    except OSError as error:
        raise FlexiError(f"{path} cannot be read: {error.strerror}") from None


def _start(answer: http.client.HTTPResponse) -> int:
    """Where in the file the answer begins."""
    if getattr(answer, "status", 200) != 206:
        return 0
    found = _CONTENT_RANGE.match(answer.headers.get("Content-Range") or "")
    return int(found.group(1)) if found else 0


def _copy(answer: http.client.HTTPResponse, file: IO[bytes], digest: hashlib._Hash, bar: Bar) -> bool:
    """Append what comes; whether it was all that the server announced."""
    announced = answer.headers.get("Content-Length") if hasattr(answer, "headers") else None
    count = 0
    while True:
        piece = answer.read1(PIECE)
        if not piece:
            return announced is None or count >= int(announced)
        file.write(piece)
        digest.update(piece)
        count += len(piece)
        bar.advance(len(piece))


def _give_up(url: str, error: Exception, attempt: int) -> None:
    """Wait before the next try, or raise what a person can act on."""
    if isinstance(error, urllib.error.HTTPError):
        if error.code == 404:
            raise MissingError(f"{url}: the server does not have it (404)") from None
        if error.code in (401, 403):
            raise FlexiError(
                f"{url}: the server wants a login ({error.code}), which flexi bundle does not have"
            ) from None
        if error.code < 500 and error.code not in (408, 429):
            raise FlexiError(f"{url}: the server answers {error.code} {error.reason}") from None
    if attempt + 1 >= FRUITLESS_TRIES:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise FlexiError(f"{url} cannot be had: {reason}. What is there stays: run it again to continue") from None
    time.sleep(_PAUSE_S * 2**attempt)
