"""apt and dpkg beside a host's own upgrades, which take their locks when they like: after each boot (apt-daily.timer).

A host that is drained must not fail because of that.
"""

from __future__ import annotations

from pyinfra.api import QuoteString, StringCommand

WAIT_S = 600
"""A night's upgrades take minutes."""
POLL_S = 5

PATIENCE = ("-o", f"DPkg::Lock::Timeout={WAIT_S}")
"""apt-get waits for dpkg's locks by itself (apt 1.9.11 and later; Ubuntu 22.04 has 2.4). Never for that of its index:
`apt-get update` of apt 2.6 with this option fails at once."""

_RETRY = """
tries={tries}
until said=$(LC_ALL=C {command} 2>&1); do
  tries=$((tries - 1))
  case $said in *'get lock '*|*'lock was locked by '*) ;; *) tries=0 ;; esac
  [ "$tries" -gt 0 ] || {{ printf '%s\\n' "$said" >&2; exit 1; }}
  sleep {poll}
done
"""


def waiting(command: str) -> str:
    """Shell text that runs `command` again while another process has the lock of apt's index or of dpkg, for at most
    WAIT_S; ends the shell with 1 and the words of `command` where it fails. These must be apt-get's or dpkg's own."""
    return _RETRY.format(tries=WAIT_S // POLL_S, command=command, poll=POLL_S)


def fresh_index() -> StringCommand:
    """apt's index as the archives have it now."""
    return StringCommand("sh", "-c", QuoteString(waiting("apt-get -qq update")))
