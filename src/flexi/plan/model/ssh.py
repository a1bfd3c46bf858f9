"""How the admin's machine reaches a machine, of the site or beside it."""

from __future__ import annotations

from flexi.catalog.frozen import Frozen


class SshPlan(Frozen):
    """How the admin's machine reaches a host. `config` is an absolute path to an OpenSSH client config."""

    address: str
    user: str
    port: int = 22
    config: str | None = None
    identity: str | None = None
