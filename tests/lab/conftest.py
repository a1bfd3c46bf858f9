"""End to end: a lab of its own for the whole session, made from nothing and taken down whatever happens."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest
from lab_site import UP_TIMEOUT_S, Site, flexi, parse_env

from flexi.lab.lab import Lab


@pytest.fixture(scope="session")
def machines() -> Iterator[Lab]:
    """Bare machines: booted, reachable, nothing deployed."""
    lab = Lab(f"test{os.getpid()}")
    try:
        lab.up()
        yield lab
    finally:
        with contextlib.suppress(KeyboardInterrupt):
            lab.down()


@pytest.fixture(scope="session")
def site(machines: Lab) -> Site:
    """The lab after `./flexi lab up`: deployed and verified."""
    done = flexi("lab", "up", "--name", machines.name, timeout_s=UP_TIMEOUT_S)
    assert done.status == 0, done.text[-6000:]
    assert "is well" in done.stdout, done.text[-6000:]
    env = flexi("lab", "env", "--name", machines.name)
    assert env.status == 0, env.text
    return Site(machines, parse_env(env.stdout))
