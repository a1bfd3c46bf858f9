"""The answers to HAProxy's agent-check, after its src/tcpcheck.c (2.4 and 2.6).

A line has two independent words: `up` or `down` (whether the instance is there) and `ready` or `drain` (whether the
model shall get requests). The gateway breaks off what runs at a server that goes down, so that nobody waits for an
instance that hangs; answers of one that is only not ready for more go on.
HAProxy keeps each word until the opposite one is said, so both are said every time. A blank must stand before the
`#` of the reason: HAProxy splits words at blanks only, and would take `down#...` for one unknown word.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from flexi_host.agent.drain import MAX_REASON_CHARS, Check, Drain, Ledger, drain_reason
from flexi_host.agent.state import Board, InstanceView, Phase
from flexi_host.common.names import full_name

MAX_REQUEST_BYTES = 256
REQUEST_TIMEOUT_S = 2.0
STALE_S = 30.0
"""A state that nobody has confirmed for so long is not a state: the agent itself hangs."""


class Checker:
    """Answers for the instances in `groups` from what stands on the board."""

    def __init__(self, board: Board, groups: list[str], drain_dir: Path, ledger: Ledger | None = None) -> None:
        self._board = board
        self._groups = groups
        self._drain_dir = drain_dir
        self._ledger = ledger or Ledger()

    def answer(self, request: str) -> str:
        """The line (without its end) for `<group> <model>`, or for `<group>`: the instance as a whole."""
        check = _check(request)
        if check is None:
            return line(down="the agent wants <group> <model> (agent-send)")
        if check[0] not in self._groups:
            return line(down=f"unknown group {check[0]}")
        return self._line(check, drain_reason(self._drain_dir / check[0]))

    def sent(self, asker: str, request: str, said: str) -> None:
        """`said`, the answer to `request`, has reached the network on its way to `asker`."""
        check = _check(request)
        if check is not None and check[0] in self._groups:
            self._ledger.note(asker, check, _words(said))

    def heard_by_all(self) -> bool:
        """Whether the gateway has lately been answered for every model of the views on the board."""
        heard = {(group, full_name(model)) for group, model in self._ledger.heard() if model}
        return all(
            (view.group, full_name(model.name)) in heard for view in self._board.views() for model in view.models
        )

    def drains(self) -> dict[str, Drain]:
        """The present state of each group."""
        return {group: self._drain(group) for group in self._groups}

    def _drain(self, group: str) -> Drain:
        reason = drain_reason(self._drain_dir / group)
        return Drain(reason, self._ledger.told(group, lambda check: _words(self._line(check, reason))))

    def _line(self, check: Check, drained: str | None) -> str:
        group, model = check
        view = self._board.view(group)
        if view is None:
            return line(drain="not looked at yet")
        if self._board.age_s(group) > STALE_S:
            return line(drain=f"the agent has not looked at {group} for {STALE_S:g} s")
        if view.phase is not Phase.READY:
            return line(down=f"{view.phase.value}: {view.reason}", drain=drained)
        return line(drain=_why_not(view, model) or drained)


def line(down: str | None = None, drain: str | None = None) -> str:
    """`down` and `drain` are reasons; None means up, and ready."""
    reason = down or drain
    words = f"{'down' if down else 'up'} {'drain' if drain else 'ready'}"
    return f"{words} #{printable(reason)}" if reason else words


def printable(reason: str) -> str:
    """`reason` as HAProxy's log and statistics take it: one line of ASCII without commas, 120 characters at most."""
    text = reason.replace("…", "...").replace(",", ";").encode("ascii", "replace").decode("ascii")
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= MAX_REASON_CHARS else text[: MAX_REASON_CHARS - 3] + "..."


async def serve(checker: Checker, host: str, port: int) -> asyncio.Server:
    """Listen; one request a connection. The port that was taken is in the server's sockets."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await _request(reader)
            said = checker.answer(request)
            writer.write(f"{said}\n".encode("ascii", "replace"))
            await asyncio.wait_for(writer.drain(), REQUEST_TIMEOUT_S)
            checker.sent(str(writer.get_extra_info("peername", ("?",))[0]), request, said)
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


def _check(request: str) -> Check | None:
    words = request.split()
    return (words[0], "".join(words[1:])) if len(words) in (1, 2) else None


def _words(line: str) -> str:
    """The two words without the reason."""
    return line.partition(" #")[0]


def _why_not(view: InstanceView, model: str) -> str | None:
    """Why an instance that answers shall get no requests for `model`; None where it shall."""
    for known in view.models:
        if full_name(known.name) == full_name(model):
            if known.phase is Phase.READY:
                return None
            if known.phase is Phase.DOWNLOADING and known.total:
                return f"downloading: {100 * (known.completed or 0) // known.total} %"
            return f"{known.phase.value}: {known.reason}" if known.reason else known.phase.value
    return f"unknown model {model} in group {view.group}" if model else None
