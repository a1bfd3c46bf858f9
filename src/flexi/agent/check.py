"""The answers to HAProxy's agent-check, after its src/tcpcheck.c (2.4 and 2.6).

A line has two independent words: `up` or `down` (whether the model serves) and `ready` or `drain` (whether it shall).
HAProxy keeps each word until the opposite one is said, so both are said every time. A blank must stand before the
`#` of the reason: HAProxy splits words at blanks only, and would take `down#...` for one unknown word.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from .names import full_name
from .state import Board, InstanceView, Phase

MAX_REQUEST_BYTES = 256
REQUEST_TIMEOUT_S = 2.0
MAX_REASON = 120
STALE_S = 30.0
"""A state that nobody has confirmed for so long is not a state: the agent itself hangs."""


class Checker:
    """Answers for the instances in `groups` from what stands on the board."""

    def __init__(self, board: Board, groups: list[str], drain_dir: Path) -> None:
        self._board = board
        self._groups = groups
        self._drain_dir = drain_dir

    def answer(self, request: str) -> str:
        """The line (without its end) for `<group> <model>`, or for `<group>`: the instance as a whole."""
        words = request.split()
        if len(words) not in (1, 2):
            return line(down="the agent wants <group> <model> (agent-send)")
        group = words[0]
        if group not in self._groups:
            return line(down=f"unknown group {group}")
        drained = drain_reason(self._drain_dir / group)
        if self._board.age_s(group) > STALE_S:
            return line(down=f"the agent has not looked at {group} for {STALE_S:g} s", drain=drained)
        view = self._board.view(group)
        return line(down=_why_down(view, words[1:]), drain=drained)


def line(down: str | None = None, drain: str | None = None) -> str:
    """`down` and `drain` are reasons; None means up, and ready."""
    reason = down or drain
    words = f"{'down' if down else 'up'} {'drain' if drain else 'ready'}"
    return f"{words} #{printable(reason)}" if reason else words


def printable(reason: str) -> str:
    """`reason` as HAProxy's log and statistics take it: one line of ASCII without commas, 120 characters at most."""
    text = reason.replace("…", "...").replace(",", ";").encode("ascii", "replace").decode("ascii")
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= MAX_REASON else text[: MAX_REASON - 3] + "..."


def drain_reason(switch: Path) -> str | None:
    """The first line of the drain switch, a sentence of ours where it is empty, None where there is none."""
    try:
        with switch.open(encoding="utf-8", errors="replace") as file:
            return file.readline(MAX_REASON).strip() or "drained by an administrator"
    except FileNotFoundError:
        return None
    except OSError:
        # It is there, though it cannot be read: somebody wants no new requests here.
        return "drained by an administrator"


async def serve(answer: Callable[[str], str], host: str, port: int) -> asyncio.Server:
    """Listen; one request a connection. The port that was taken is in the server's sockets."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(f"{answer(await _request(reader))}\n".encode("ascii", "replace"))
            await asyncio.wait_for(writer.drain(), REQUEST_TIMEOUT_S)
        except (OSError, asyncio.TimeoutError):
            pass  # the other side is gone, or does not read: nobody to tell
        finally:
            writer.close()

    return await asyncio.start_server(talk, host, port, limit=MAX_REQUEST_BYTES)


async def _request(reader: asyncio.StreamReader) -> str:
    """The first line; empty where there is none in time, or no end of it within the limit."""
    try:
        data = await asyncio.wait_for(reader.readuntil(b"\n"), REQUEST_TIMEOUT_S)
    except asyncio.IncompleteReadError as error:
        data = error.partial
    except (asyncio.LimitOverrunError, asyncio.TimeoutError):
        return ""
    return data.decode("utf-8", "replace")


def _why_down(view: InstanceView | None, model: list[str]) -> str | None:
    if view is None:
        return "not looked at yet"
    if not model:
        return None if view.phase is Phase.READY else f"{view.phase.value}: {view.reason}"
    for known in view.models:
        if full_name(known.name) == full_name(model[0]):
            if known.phase is Phase.READY:
                return None
            if known.phase is Phase.DOWNLOADING and known.total:
                return f"downloading: {100 * (known.completed or 0) // known.total} %"
            return f"{known.phase.value}: {known.reason}" if known.reason else known.phase.value
    return f"unknown model {model[0]} in group {view.group}"
