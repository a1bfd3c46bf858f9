"""A reload counts once another worker answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flexi_host.common.broken import Broken
from flexi_host.haproxy.reload import reload

SOCKET = Path("/nowhere")
FINE = ("true",)


def saying(*answers: str | None) -> Callable[[Path, str], str]:
    """HAProxy's socket: these worker ids one after the other, the last for ever; None where nobody answers."""
    left = list(answers)

    def ask(_: Path, command: str) -> str:
        assert command == "show info"
        answer = left.pop(0) if len(left) > 1 else left[0]
        if answer is None:
            raise ConnectionRefusedError
        return f"Name: HAProxy\nPid: {answer}\nUptime_sec: 7\n"

    return ask


def test_it_ends_when_the_new_worker_answers() -> None:
    reload(SOCKET, saying("10", "10", "10", None, "11"), FINE)


def test_a_haproxy_that_did_not_run_is_started() -> None:
    reload(SOCKET, saying(None, None, "11"), FINE)


@pytest.mark.parametrize(
    ("answers", "words"),
    [(("10", "10"), "runs on with its old configuration"), (("10", None), "does not answer")],
)
def test_a_worker_that_did_not_come_up_is_a_failure(answers: tuple[str | None, ...], words: str) -> None:
    with pytest.raises(Broken, match=words):
        reload(SOCKET, saying(*answers), FINE, patience_s=0.1)


def test_systemds_own_failure_is_one_too() -> None:
    with pytest.raises(Broken, match="does not start"):
        reload(SOCKET, saying("10", "11"), ("false",))
