"""All instances' lists as one: what is asked of them in the background, and how it is merged.

Shapes and orders after Ollama 0.24.0: ListHandler and PsHandler in server/routes.go, openai/openai.go.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from flexi_host.common.names import full_name, namespace
from flexi_host.common.ollama import Ollama, OllamaError
from flexi_host.common.timestamps import unix_seconds

POLL_S = 2.0

Entry = Mapping[str, object]


@dataclass(frozen=True)
class Snapshot:
    """What one instance said last. While it is away its store and version are remembered; its memory is not."""

    reachable: bool = False
    version: str | None = None
    tags: tuple[Entry, ...] = ()
    ps: tuple[Entry, ...] = ()


def look(client: Ollama, before: Snapshot) -> Snapshot:
    """Ask an instance anew; what it does not answer stays as in `before`."""
    try:
        version = client.version()
        ps = tuple(client.ps())
    except OllamaError:
        return replace(before, reachable=False, ps=())
    try:
        tags = tuple(client.tags())
    except OllamaError:
        tags = before.tags
    return Snapshot(True, version, tags, ps)


def merged_tags(snapshots: Sequence[Snapshot], models: Iterable[str]) -> list[Entry]:
    """Each model of the site once, newest first; of several copies the newest is shown."""
    entries = _once((entry for seen in snapshots for entry in seen.tags), models, "modified_at")
    return sorted(entries, key=lambda entry: (-unix_seconds(entry.get("modified_at")), str(entry["name"])))


def merged_ps(snapshots: Sequence[Snapshot], models: Iterable[str]) -> list[Entry]:
    """Each loaded model of the site once, the one that stays longest first."""
    entries = _once((entry for seen in snapshots for entry in seen.ps), models, "expires_at")
    return sorted(entries, key=lambda entry: (-unix_seconds(entry.get("expires_at")), str(entry["name"])))


def lowest_version(snapshots: Sequence[Snapshot]) -> str | None:
    """The version that every instance has at least: what a client may rely on. None while nobody has answered."""
    versions = [seen.version for seen in snapshots if seen.version]
    return min(versions, key=_version_key) if versions else None


def openai_model(entry: Entry, name: str | None = None) -> dict[str, object]:
    """An entry of /api/tags in OpenAI's shape; `name` is the client's own spelling, where it asked for one model."""
    called = name or str(entry["name"])
    return {
        "id": called,
        "object": "model",
        "created": unix_seconds(entry.get("modified_at")),
        "owned_by": namespace(called),
    }


class Collector:
    """Asks every instance in a thread of its own, so that a slow one delays nobody."""

    def __init__(
        self, clients: Sequence[Ollama], poll_s: float = POLL_S, ask: Callable[[Ollama, Snapshot], Snapshot] = look
    ) -> None:
        self._poll_s = poll_s
        self._ask = ask
        self._snapshots = [Snapshot() for _ in clients]
        self._asked = [threading.Event() for _ in clients]
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number, client), name=f"instance {number}", daemon=True)
            for number, client in enumerate(clients)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads)

    def wait_for_all(self, timeout_s: float) -> bool:
        """Block until every instance was asked once; False as soon as one of them takes longer than `timeout_s`."""
        return all(asked.wait(timeout_s) for asked in self._asked)

    def snapshots(self) -> list[Snapshot]:
        return list(self._snapshots)

    def _run(self, number: int, client: Ollama) -> None:
        while not self._stopping.is_set():
            self._snapshots[number] = self._ask(client, self._snapshots[number])
            self._asked[number].set()
            self._stopping.wait(self._poll_s)


def _once(entries: Iterable[Entry], models: Iterable[str], newest_by: str) -> list[Entry]:
    shown = {full_name(model) for model in models}
    best: dict[str, Entry] = {}
    for entry in entries:
        name = full_name(str(entry.get("name", "")))
        if name not in shown:
            continue
        known = best.get(name)
        if known is None or unix_seconds(entry.get(newest_by)) > unix_seconds(known.get(newest_by)):
            best[name] = entry
    return list(best.values())


def _version_key(version: str) -> tuple[tuple[int, ...], bool, str]:
    number, _, label = version.partition("-")
    digits = tuple(int(part) if part.isdigit() else 0 for part in number.split("."))
    # A candidate (0.24.0-rc1) comes before its release.
    return digits, not label, label
