"""`flexi_host share`: gives a group a model that lies on this host already. The agent may not look into the stores, so
this runs as their owner, for one request each, behind a socket that only the agent can open (flexi-share.socket).

A request is one line, `{"group": …, "model": …}`. Answered are lines with `completed` and `total` while bytes move, and
then one of `{"from": label}`, `{"from": null}` (no store has it) and `{"error": words}`.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from flexi_host.agent.config import AgentConfig
from flexi_host.agent.store import Source, StoreError, obtain
from flexi_host.common.names import full_name

MAX_REQUEST_BYTES = 4096
MAX_ANSWER_BYTES = 4096
TELL_EVERY_S = 0.5
PATIENCE_S = 1800.0
"""Silence after which the agent gives up: a link of 80 GB takes no time, and a copy tells its progress."""


class ShareError(Exception):
    """The model was not given, though it may be there; the message says why in words."""


def serve(config: AgentConfig, request: BinaryIO, answer: BinaryIO) -> None:
    """Read one request, do it, and answer. Only what the plan gives to a group is put into its store."""

    def say(value: object) -> None:
        answer.write(json.dumps(value).encode() + b"\n")
        answer.flush()

    told_at = float("-inf")

    def tell(completed: int, total: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= TELL_EVERY_S:
            told_at = time.monotonic()
            say({"completed": completed, "total": total})

    try:
        group, model = _asked(request.readline(MAX_REQUEST_BYTES))
        store, sources = _places(config, group, model)
        say({"from": obtain(model, store, sources, tell)})
    except BrokenPipeError:
        return  # the agent has ended; the next one asks again
    except StoreError as error:
        say({"error": str(error)})
    except OSError as error:
        say({"error": f"{error.filename}: {error.strerror}" if error.filename else error.strerror})


def _asked(line: bytes) -> tuple[str, str]:
    try:
        value = json.loads(line)
        return str(value["group"]), str(value["model"])
    except (ValueError, KeyError, TypeError):
        raise StoreError("the request is not understood") from None


def _places(config: AgentConfig, group: str, model: str) -> tuple[Path, list[Source]]:
    """The group's store and all others, the bundle last; StoreError for what the plan does not give to the group."""
    for instance in config.instances:
        if instance.group == group:
            break
    else:
        raise StoreError(f"unknown group {group}")
    planned = next((known.name for known in instance.models if full_name(known.name) == full_name(model)), None)
    if planned != model:
        raise StoreError(f"group {group} does not have {model}")
    own = instance.store
    stores = {other.store: other.group for other in config.instances if other is not instance}
    for directory in sorted(config.homes_dir.glob("*/models")):
        # Stores of groups that the plan no longer has: a model that moves comes from there.
        stores.setdefault(directory, directory.parent.name)
    sources = [Source(f"group {name}", path, verified=True) for path, name in stores.items() if path != own]
    return own, [*sources, Source("the bundle", config.bundle_dir, verified=False)]


class Sharer:
    """The agent's side. `say` gets a line for the journal for each model that came."""

    def __init__(self, path: Path, say: Callable[[str], None], patience_s: float = PATIENCE_S) -> None:
        self._path = path
        self._say = say
        self._patience_s = patience_s

    def obtain(self, group: str, model: str, tell: Callable[[int, int], None]) -> bool:
        """Whether a store of this host had the model, and the group's has it now. `tell` is called with (bytes done,
        bytes in all) while they move. ShareError where nobody could be asked, or it could not be given."""
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(self._patience_s)
                sock.connect(str(self._path))
                sock.sendall(json.dumps({"group": group, "model": model}).encode() + b"\n")
                with sock.makefile("rb") as answers:
                    while line := answers.readline(MAX_ANSWER_BYTES):
                        value = json.loads(line)
                        if "completed" in value:
                            tell(int(value["completed"]), int(value["total"]))
                        elif "error" in value:
                            raise ShareError(str(value["error"]))
                        else:
                            if value["from"] is not None:
                                self._say(f"{group} {model}: from {value['from']}, no download")
                            return value["from"] is not None
        except OSError as error:
            raise ShareError(f"{self._path}: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError):
            raise ShareError(f"{self._path} answers with something that is not understood") from None
        raise ShareError(f"{self._path}: no answer; see journalctl -u 'flexi-share@*'")
