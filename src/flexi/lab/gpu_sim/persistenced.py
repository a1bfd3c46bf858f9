"""The simulated `nvidia-persistenced`: needs a working driver, then stays in the background.

It switches persistence mode on, as `man nvidia-persistenced` says, unless it is told `--no-persistence-mode`; Ubuntu's
unit tells it.
"""

from __future__ import annotations

import os
import pwd
import signal
import sys
from pathlib import Path

from .driver import Driver, DriverError
from .smi import set_persistence

KNOWN = ("--verbose", "--no-persistence-mode", "--persistence-mode")


def main(arguments: list[str]) -> int:
    rest = list(arguments)
    user = None
    while rest:
        argument = rest.pop(0)
        if argument == "--user" and rest:
            user = rest.pop(0)
        elif argument not in KNOWN:
            print(f"nvidia-persistenced: unrecognized option '{argument}'", file=sys.stderr)
            return 1
    driver = Driver(Path("/"))
    try:
        driver.version()
        number = pwd.getpwnam(user).pw_uid if user else None
    except (DriverError, KeyError):
        print("nvidia-persistenced failed to initialize. Check syslog for more details.", file=sys.stderr)
        return 1
    if "--no-persistence-mode" not in arguments:
        set_persistence(driver, enabled=True)
    if os.fork():
        return 0
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    if number is not None:
        os.setuid(number)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    return 0
