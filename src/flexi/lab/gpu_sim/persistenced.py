"""The simulated `nvidia-persistenced`: needs a working driver, then stays.

Like Ubuntu's unit it leaves persistence mode alone unless it is told `--persistence-mode`.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from .driver import Driver, DriverError
from .smi import set_persistence

KNOWN = ("--verbose", "--no-persistence-mode", "--persistence-mode")


def main(arguments: list[str]) -> int:
    for argument in arguments:
        if argument not in KNOWN:
            print(f"nvidia-persistenced: unrecognized option '{argument}'", file=sys.stderr)
            return 1
    driver = Driver(Path("/"))
    try:
        driver.version()
    except DriverError:
        print("nvidia-persistenced failed to initialize. Check syslog for more details.", file=sys.stderr)
        return 1
    if "--no-persistence-mode" not in arguments:
        set_persistence(driver, enabled=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    return 0
