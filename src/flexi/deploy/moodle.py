"""`flexi moodle deploy`: pyinfra sets Moodle up; then the gateway learns which key Moodle made for itself."""

from __future__ import annotations

import shlex
from datetime import timedelta

from rich.console import Console

from flexi.deploy.run import Wish, run_pyinfra
from flexi.errors import EXIT_FAILED, EXIT_OK, FlexiError, InputError
from flexi.keys.gateways import tell
from flexi.keys.store import KeysStore
from flexi.moodle import provider
from flexi.plan.model.moodle import MoodlePlan
from flexi.plan.model.site import Plan
from flexi.site import Site
from flexi.site.keys import consumers
from flexi.ssh import remote

KEEP_OLD = timedelta(days=1)
"""Time that a replaced key stays valid: for requests under way, and for a gateway that cannot acknowledge at once."""
_TIMEOUT_S = 120.0
"""Moodle's start takes a second or two; the first one after an upgrade fills its caches."""


def deploy(site: Site, plan: Plan, console: Console, *, dry: bool, new_key: bool) -> int:
    """Set Moodle up and give the gateways its key; returns the exit status.

    InputError where the site file names no machine; FlexiError where Moodle refuses.
    """
    moodle = plan.moodle
    assert moodle is not None
    if moodle.host is None:
        raise InputError(
            f"{site.shown_as}: names no machine (moodle.ssh); ./flexi moodle steps says what to enter by hand"
        )
    wish = Wish(limit=("moodle",), new_key=new_key)
    run_pyinfra(plan, site.path, console, wish, script="moodle.py", dry=dry)
    if dry:
        return EXIT_OK
    digest = key_digest(moodle)
    with KeysStore(site) as store:
        purpose = f"the provider {moodle.name} of {moodle.url}"
        store.adopt(moodle.consumer, digest, moodle.class_name, purpose=purpose, keep_old=KEEP_OLD)
        answers = tell(plan, consumers(store.entries))
    for one in answers:
        state = "knows Moodle's key" if one.known else one.problem or "is no gateway yet: the first deploy tells it"
        console.print(f"{one.host}: {state}", highlight=False, markup=False, soft_wrap=True)
    return EXIT_FAILED if any(one.problem for one in answers) else EXIT_OK


def key_digest(moodle: MoodlePlan) -> str:
    """Return the SHA-256 of the key in Moodle's database. FlexiError where there is none to be had."""
    assert moodle.host is not None
    become = f"sudo -n -u {shlex.quote(moodle.host.web_user)} sh -s"
    answer = remote.run_at(moodle.host.ssh, become, _TIMEOUT_S, provider.script(moodle, apply=False))
    if not answer.reached:
        raise FlexiError(f"Moodle's machine {answer.unreachable}")
    report = provider.read(answer.stdout.splitlines())
    if report.problems or report.key_sha256 is None:
        raise FlexiError("; ".join(report.problems) or answer.stderr or "Moodle has no key")
    return report.key_sha256
