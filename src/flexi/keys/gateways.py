"""A changed keys file to the gateways, over SSH: in force within seconds, and no stream notices."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from flexi.components.stamps import stamping
from flexi.configs.gateway import FOLLOW_KEYS, KEYS_MAP, KEYS_STAMP, keys_map
from flexi.plan.model.site import HostPlan, Plan
from flexi.site.consumers import Consumer
from flexi.ssh import remote

_NOT_DEPLOYED = 3
_CUT = 4
_TIMEOUT_S = 60.0

# As the deploy leaves it: same content, owner, mode and stamp, so that the next one changes nothing. Digests come over
# standard input, whole or not at all.
_SCRIPT = """
set -eu
umask 077
[ -e {keys_map} ] || exit {not_deployed}
cat >{keys_map}.new
[ "$(sha256sum <{keys_map}.new | cut -d' ' -f1)" = {digest} ] || {{ rm -f {keys_map}.new; exit {cut}; }}
chown root:haproxy {keys_map}.new
chmod 0640 {keys_map}.new
mv -f {keys_map}.new {keys_map}
{follow}
{stamping}
"""


@dataclass(frozen=True)
class Told:
    """What became of one gateway: `problem` says why it does not know the keys yet, `known` whether it does.

    A gateway that was never deployed has neither: its first deploy brings the keys.
    """

    host: str
    known: bool
    problem: str | None = None


def tell(plan: Plan, consumers: tuple[Consumer, ...]) -> list[Told]:
    """Make all gateways of the site know exactly these consumers."""
    text = keys_map(consumers)

    def one(host: HostPlan) -> Told:
        return _told(host.name, remote.run(host, _command(text), _TIMEOUT_S, text))

    return list(remote.for_each(gateways(plan), one).values())


def gateways(plan: Plan) -> Sequence[HostPlan]:
    return [host for host in plan.hosts if "gateway" in host.roles]


def _command(text: str) -> str:
    script = _SCRIPT.format(
        keys_map=KEYS_MAP,
        not_deployed=_NOT_DEPLOYED,
        cut=_CUT,
        digest=hashlib.sha256(text.encode()).hexdigest(),
        follow=FOLLOW_KEYS,
        stamping=stamping(KEYS_STAMP, (KEYS_MAP,)),
    )
    return f"sudo -n sh -c {shlex.quote(script.strip())}"


def _told(host: str, answer: remote.Answer) -> Told:
    last = (answer.stderr.strip().splitlines() or ["no reason given"])[-1]
    if answer.status == 0:
        return Told(host, known=True)
    if not answer.reached:
        return Told(host, known=False, problem=answer.unreachable)
    if answer.status == _NOT_DEPLOYED:
        return Told(host, known=False)
    if answer.status == _CUT:
        return Told(host, known=False, problem="the transfer was cut")
    return Told(host, known=False, problem=last)
