"""apt and dpkg beside a host's own upgrades, which take their locks when they like: after each boot (apt-daily.timer).

A host that is drained must not fail because of that.
"""

from __future__ import annotations

from pyinfra.api import QuoteString, StringCommand

LOCK_TIMEOUT_S = 600
"""A night's upgrades take minutes."""
POLL_S = 5

APT_LOCK_OPTIONS = ("-o", f"DPkg::Lock::Timeout={LOCK_TIMEOUT_S}")
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


def retry_while_locked(command: str) -> str:
    """Return shell text that runs `command` again while another process has the lock of apt's index or of dpkg.

    For at most LOCK_TIMEOUT_S; it ends the shell with 1 and the message of `command` where it fails, which must be
    apt-get's or dpkg's own.
    """
    return _RETRY.format(tries=LOCK_TIMEOUT_S // POLL_S, command=command, poll=POLL_S)


def update_index() -> StringCommand:
    """Return the command that brings apt's index up to date."""
    return StringCommand("sh", "-c", QuoteString(retry_while_locked("apt-get -qq update")))
