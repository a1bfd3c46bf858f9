"""Who comes in: secrets that others gave, a directory's certificate, and Apache where it says who somebody is."""

from collections.abc import Sequence
from io import StringIO

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.api.operation import OperationMeta
from pyinfra.operations import files, systemd

from flexi.components import chat as chat_files
from flexi.configs.rendering import render
from flexi.local_files import chat as chat_supplies
from flexi.operations.applying import applied
from flexi.operations.certificate import secret_file
from flexi.operations.chat import chat_proof
from flexi.operations.chat_front import front_checked
from flexi.operations.packages import installed
from flexi.operations.retiring import retired
from flexi.plan.build.chat_settings import environment_file
from flexi.plan.build.chat_sign_in import LDAP_CA
from flexi.plan.model.chat import ChatPlan, TrustedHeadersPlan

FRONT = "flexi-chat-front.service"
FRONT_UNIT = f"/etc/systemd/system/{FRONT}"
FRONT_CONFIG = "/etc/flexi/chat-front.conf"
FRONT_ADMIN = "/etc/flexi/chat-front-admin.conf"
DEBIANS = "/etc/systemd/system/apache2.service"
"""Masks the unit of Apache's package, which would take the gateway's port 80."""
INPUTS = (chat_files.GIVEN, chat_files.PROOF, LDAP_CA)
"""What the chat reads of it."""


@deploy("Sign-in")
def bring(chat: ChatPlan) -> list[OperationMeta]:
    """What the chat itself needs before it starts; without trusted headers its port, too."""
    ldap = chat.sign_in.ldap
    if ldap and ldap.ca:
        ca = files.put(name="Bring the directory's authority", src=ldap.ca, dest=LDAP_CA, mode="0644")
    else:
        ca = files.file(name="Bring the directory's authority", path=LDAP_CA, present=False)
    given = chat_supplies.given_secrets(chat)
    if given:
        secrets = secret_file(
            name="Bring the secrets that others gave", dest=chat_files.GIVEN, content=environment_file(given)
        )
    else:
        secrets = files.file(name="Bring the secrets that others gave", path=chat_files.GIVEN, present=False)
    if chat.sign_in.trusted_headers:
        proof = chat_proof(name="Make what Apache and the chat know each other by")
    else:
        proof = files.file(
            name="Make what Apache and the chat know each other by", path=chat_files.PROOF, present=False
        )
        _no_front()
    return [ca, secrets, proof]


@deploy("Sign-in")
def front(chat: ChatPlan, packages: Sequence[str]) -> None:
    """Apache between HAProxy and the chat, which an admin's own directives tell who may come in."""
    if chat.sign_in.trusted_headers:
        _front(chat, chat.sign_in.trusted_headers, packages)


def _no_front() -> None:
    retired(name="Stop Apache in front of the chat", pattern=FRONT, keep=())
    for path in host.loop((FRONT_UNIT, FRONT_CONFIG, FRONT_ADMIN)):
        files.file(name=f"Remove {path}", path=path, present=False)


def _front(chat: ChatPlan, headers: TrustedHeadersPlan, packages: Sequence[str]) -> None:
    files.link(name="Leave the ports to others: only flexi starts Apache", path=DEBIANS, target="/dev/null")
    apache = installed(name="Install Apache", packages=packages)
    config = files.put(
        name="Write Apache's settings",
        src=StringIO(render("chat/front.conf.j2", chat=chat, headers=headers, inside="{}:{}".format(*chat.inside))),
        dest=FRONT_CONFIG,
        mode="0644",
    )
    # It may hold the secret of an Apache module.
    admin = secret_file(
        name="Bring the admin's directives",
        dest=FRONT_ADMIN,
        content=chat_supplies.text(headers.apache, "chat.sign_in.trusted_headers.apache"),
    )
    unit = files.put(name="Write Apache's unit", src=f"templates/chat/{FRONT}", dest=FRONT_UNIT, mode="0644")
    applied(
        name="Restart Apache with what is new",
        what=FRONT,
        inputs=(FRONT_UNIT, FRONT_CONFIG, FRONT_ADMIN, chat_files.PROOF),
        command=f"{front_checked(FRONT_CONFIG, FRONT_ADMIN)}\nsystemctl restart {FRONT}",
        after=[apache, config, admin, unit],
    )
    systemd.service(name="Start Apache", service=FRONT, running=True, enabled=True)
