"""The lab's test account in its chat: `flexi lab env` prints it."""

from __future__ import annotations

from flexi.accounts.host import ask
from flexi.errors import FlexiError
from flexi.lab.lifecycle import Lab
from flexi.lab.topology import STUDENT
from flexi.plan import build_plan
from flexi.site import load_site
from flexi.ssh import remote

NAME = "Kim Beispiel"
_BOTS = "sudo -n systemctl start flexi-courses.service"


def provide(lab: Lab) -> None:
    """Make the account where it is not there or nobody knows its password, and let it into its courses.

    Nothing where the lab's site file has no chat. FlexiError where the chat does not do it.
    """
    plan = build_plan(load_site(lab.site_file))
    if plan.chat is None:
        return
    there = STUDENT in {row["mail"] for row in ask(plan, "list")["accounts"]}
    if there and lab.chat_password.exists():
        return
    said = ask(plan, "reset", STUDENT) if there else ask(plan, "add", "--", STUDENT, NAME)
    # Otherwise it would wait for the timer of the course bots.
    done = remote.run(plan.host(plan.chat.host), _BOTS, 120)
    if not done.reached or done.status:
        raise FlexiError(f"the course bots do not know the lab's test account: {done.stderr.strip()}")
    draft = lab.chat_password.with_suffix(".new")
    draft.touch(mode=0o600)
    draft.write_text(said["password"] + "\n", encoding="ascii")
    draft.rename(lab.chat_password)
