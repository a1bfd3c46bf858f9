"""The registry client: manifests and blobs, resumed after a cut, verified, written to the store.

Sources: server/images.go (PullModel), server/download.go.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from . import log
from .goformat import human_bytes
from .names import Name
from .runner import Caller, ClientGoneError
from .store import Store

TRIES = 6
TICK_SECONDS = 0.06
STALL_SECONDS = 30.0
CHUNK = 32 * 1024

Progress = Callable[[dict[str, Any]], None]


class PullError(Exception):
    """The pull failed; the text is what goes into the stream."""


class _NotFoundError(Exception):
    pass


class _CutError(Exception):
    """The connection ended early; what has come is kept."""


class Puller:
    """Pulls models into one store. Blobs that two pulls want at once are downloaded once."""

    def __init__(self, store: Store, version: str, speed: float, prune: bool) -> None:
        self._store = store
        self._version = version
        self._speed = speed
        self._prune = prune
        self._lock = threading.Lock()
        self._downloads: dict[str, _Download] = {}

    def pull(self, name: Name, insecure: bool, caller: Caller, progress: Progress) -> None:
        """Pull `name`, reporting status objects; PullError, OSError (a full disk) or ClientGoneError."""
        old: set[str] = set()
        try:
            previous = self._store.read_manifest(name)
            old = {layer.digest for layer in (*previous.layers, previous.config)}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warn("pulling model with bad existing manifest", name=name, error=error)
        progress({"status": "pulling manifest"})
        base = f"{'http' if insecure else name.scheme}://{name.host}/v2/{name.repository()}"
        try:
            data = self._get(f"{base}/manifests/{name.tag}")
            document = json.loads(data)
            digests = [str(layer["digest"]) for layer in document["layers"] or ()]
            if document["config"].get("digest"):
                digests.append(str(document["config"]["digest"]))
        except _NotFoundError:
            raise PullError("pull model manifest: file does not exist") from None
        except (PullError, ValueError, KeyError, TypeError) as error:
            raise PullError(f"pull model manifest: {error}") from error

        fresh = []
        for digest in digests:
            if self._fetch(digest, f"{base}/blobs/{digest}", caller, progress):
                fresh.append(digest)
        progress({"status": "verifying sha256 digest"})
        for digest in fresh:
            self._verify(digest)
        progress({"status": "writing manifest"})
        self._store.write_manifest(name, data)
        if self._prune and old - set(digests):
            progress({"status": "removing unused layers"})
            self._store.remove_unused(old - set(digests))
        progress({"status": "success"})

    def _fetch(self, digest: str, url: str, caller: Caller, progress: Progress) -> bool:
        """Get one blob; whether it had to be downloaded."""
        path = self._store.blob_path(digest)
        status = f"pulling {digest[7:19]}"
        if path.exists():
            size = path.stat().st_size
            progress({"status": status, "digest": digest, "total": size, "completed": size})
            return False
        with self._lock:
            download = self._downloads.get(digest)
            if download is None:
                download = self._downloads[digest] = _Download(digest, url, path)
                threading.Thread(target=self._run, args=(download,), daemon=True).start()
            download.waiters += 1
        try:
            while not download.done.wait(TICK_SECONDS):
                caller.check()
                if download.total:
                    line = {"status": status, "digest": digest, "total": download.total}
                    progress({**line, "completed": download.completed} if download.completed else line)
        finally:
            with self._lock:
                download.waiters -= 1
                if download.waiters == 0:
                    download.cancelled.set()
        if download.error is not None:
            raise download.error
        return True

    def _run(self, download: _Download) -> None:
        try:
            self._download(download)
        except _NotFoundError:
            download.error = PullError("file does not exist")
        except (PullError, OSError, ClientGoneError) as error:
            download.error = error
        finally:
            with self._lock:
                self._downloads.pop(download.digest, None)
            download.done.set()

    def _download(self, download: _Download) -> None:
        partial = download.path.with_name(download.path.name + "-partial")
        note = partial.with_name(partial.name + "-0")
        if note.exists():
            state = json.loads(note.read_text())
            download.total, download.completed = int(state["Size"]), int(state["Completed"])
        else:
            download.total = self._size(download.url)
            _write_note(note, download)
        log.info(f"downloading {download.digest[7:19]} in 1 {human_bytes(download.total)} part(s)")
        with open(os.open(partial, os.O_CREAT | os.O_RDWR, 0o644), "r+b", buffering=0) as file:
            file.truncate(download.total)
            source = self._direct_url(download)
            failure: Exception | None = None
            for attempt in range(TRIES):
                if download.completed == download.total:
                    break
                try:
                    self._chunk(download, source, file.fileno(), note)
                    break
                except (_CutError, PullError, OSError, http.client.HTTPException) as error:
                    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                        text = f"write {partial}: no space left on device"
                        raise OSError(errno.ENOSPC, text) from error
                    failure = error
                    delay = 2.0**attempt
                    log.info(
                        f"{download.digest[7:19]} part 0 attempt {attempt} failed: {error}, retrying in {delay:g}s"
                    )
                    if download.cancelled.wait(delay / self._speed):
                        raise ClientGoneError from None
            else:
                raise PullError(f"max retries exceeded: {failure}")
        note.unlink()
        os.replace(partial, download.path)

    def _chunk(self, download: _Download, url: str, file: int, note: Path) -> None:
        """Ask for what is missing and write it; _CutError when the connection ends early."""
        start = download.completed
        headers = {"Range": f"bytes={start}-{download.total - 1}"}
        connection, response = self._open("GET", url, headers)
        try:
            while download.completed < download.total:
                if download.cancelled.is_set():
                    raise ClientGoneError
                try:
                    data = response.read1(min(CHUNK, download.total - download.completed))
                except (http.client.IncompleteRead, ConnectionError, TimeoutError) as error:
                    raise _CutError("unexpected EOF") from error
                if not data:
                    raise _CutError("unexpected EOF")
                os.pwrite(file, data, download.completed)
                download.completed += len(data)
            _write_note(note, download)
        except (_CutError, ClientGoneError):
            _write_note(note, download)
            raise
        except OSError:
            download.completed = start
            raise
        finally:
            connection.close()

    def _size(self, url: str) -> int:
        connection, response = self._open("HEAD", url, {})
        connection.close()
        return int(response.getheader("Content-Length") or 0)

    def _direct_url(self, download: _Download) -> str:
        """Where the blob really lies. The real client insists on a Location header, also with status 200."""
        connection, response = self._open("GET", download.url, {})
        location = response.getheader("Location")
        connection.close()
        if location is None:
            raise PullError("http: no Location response header")
        return urljoin(download.url, location)

    def _get(self, url: str) -> bytes:
        connection, response = self._open(
            "GET", url, {"Accept": "application/vnd.docker.distribution.manifest.v2+json"}
        )
        try:
            return response.read()
        except (OSError, http.client.HTTPException) as error:
            raise PullError("unexpected EOF") from error
        finally:
            connection.close()

    def _open(
        self, method: str, url: str, headers: dict[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=STALL_SECONDS)
        verb = method.capitalize()
        try:
            connection.request(method, parts.path, headers={"User-Agent": f"ollama/{self._version}", **headers})
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise PullError(f'{verb} "{url}": {_dial_message(error, parts.hostname, parts.port)}') from error
        if response.status == 404:
            connection.close()
            raise _NotFoundError
        if response.status >= 400:
            body = response.read().decode("utf-8", "replace")
            connection.close()
            raise PullError(f"{response.status}: {body}")
        return connection, response

    def _verify(self, digest: str) -> None:
        path = self._store.blob_path(digest)
        actual = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
        if actual != digest:
            path.unlink()
            raise PullError(f"digest mismatch, file must be downloaded again: want {digest}, got {actual}")


@dataclass(eq=False)
class _Download:
    """One blob on its way; shared by every pull that waits for it."""

    digest: str
    url: str
    path: Path
    total: int = 0
    completed: int = 0
    waiters: int = 0
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.done = threading.Event()
        self.cancelled = threading.Event()


def _write_note(note: Path, download: _Download) -> None:
    """How far a part has come, in the real one's format, so that the next attempt goes on from there."""
    state = {"N": 0, "Offset": 0, "Size": download.total, "Completed": download.completed}
    note.write_text(json.dumps(state))


def _dial_message(error: Exception, host: str | None, port: int | None) -> str:
    text = str(error)
    if isinstance(error, ConnectionRefusedError):
        return f"dial tcp {host}:{port}: connect: connection refused"
    if "WRONG_VERSION_NUMBER" in text or "HTTP_REQUEST" in text or "record layer" in text:
        return "http: server gave HTTP response to HTTPS client"
    if isinstance(error, OSError) and error.errno is not None and error.errno < 0:
        return f"dial tcp: lookup {host}: no such host"
    if isinstance(error, (ConnectionError, http.client.RemoteDisconnected)):
        return "EOF"
    return text
