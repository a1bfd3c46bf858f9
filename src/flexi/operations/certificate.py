"""The gateway's certificate: brought from the admin's machine, made on the host, or ordered by certbot.

Private keys and the authority's secret travel over standard input, so that they are in no argument, no log and no file
that others may read, not even for a moment: what SFTP uploads lies in /tmp first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence

from pyinfra import host
from pyinfra.api import QuoteString, StringCommand, operation
from pyinfra.api.operation import OperationMeta

from flexi.components.stamps import stamping
from flexi.facts.gateway import GatewayCertificate
from flexi.facts.stamps import Stamp
from flexi.operations.prediction import changed

Commands = Generator[StringCommand, None, None]

PROGRAM = "/opt/flexi/flexi-certificate"
LINEAGE = "/etc/letsencrypt/live/flexi"
"""Directory in which certbot keeps the newest certificate of the name `flexi` (certbot(1), --cert-name)."""


@operation()
def upload(pem: str, dest: str) -> Commands:
    """Make `pem` (certificate, chain and key) the gateway's, once HAProxy accepts it."""
    if host.get_fact(GatewayCertificate, path=dest).sha256 == _digest(pem):
        host.noop("it is the one in use")
        return
    yield StringCommand(PROGRAM, "install", _stdin=pem)


@operation()
def self_sign(names: Sequence[str], dest: str, only_first: bool = False) -> Commands:
    """Make a self-signed certificate for `names` (`DNS:host`, `IP:address`) where there is none of that kind, or it
    ends within 30 days. With `only_first` any certificate will do: it is there so that HAProxy can start."""
    present = host.get_fact(GatewayCertificate, path=dest)
    right = present.self_signed and present.names == frozenset(names) and present.lasts
    if present.sha256 and (only_first or right):
        host.noop("there is one")
        return
    yield StringCommand(PROGRAM, "self-signed", *(QuoteString(name) for name in names))


@operation()
def order(settings: str, dest: str, after: Sequence[OperationMeta] = ()) -> Commands:
    """Have certbot order a certificate with the file `settings` where it never did, or did with others; its deploy hook
    brings what comes to HAProxy. Renewals are the business of certbot's own timer."""
    stamp = host.get_fact(Stamp, what="certificate", inputs=(settings,))
    present = host.get_fact(GatewayCertificate, path=dest)
    if stamp.stamped != stamp.present or not present.ordered_sha256 or changed(after):
        # On standard error, because that is shown of a command that fails: the authority says what it missed.
        script = f"certbot certonly --config {settings} >&2; {stamping('certificate', (settings,))}"
        yield StringCommand("sh", "-c", QuoteString(f"set -e; {script}"))
    elif present.ordered_sha256 != present.sha256:
        yield StringCommand(f"RENEWED_LINEAGE={LINEAGE}", PROGRAM, "renewed")
    else:
        host.noop("it is there, and renews itself")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
