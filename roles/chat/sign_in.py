"""Sign-in to the chat: secrets that others gave, a directory's certificate, and Apache where it names the user."""

from collections.abc import Sequence
from io import StringIO

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.api.operation import OperationMeta
from pyinfra.operations import files

from flexi.components import chat as chat_files
from flexi.configs.rendering import render
from flexi.local_files import chat as chat_supplies
from flexi.operations import chat as chat_operations
from flexi.operations import chat_front, host_files, packages, units
from flexi.plan.build.chat_settings import environment_file
from flexi.plan.build.chat_sign_in import LDAP_CA
from flexi.plan.model.chat import ChatPlan, TrustedHeadersPlan
from roles.services import UnitFile, managed_service

FRONT = "flexi-chat-front.service"
FRONT_UNIT = f"/etc/systemd/system/{FRONT}"
FRONT_CONFIG = "/etc/flexi/chat-front.conf"
FRONT_ADMIN = "/etc/flexi/chat-front-admin.conf"
APACHE_UNIT_MASK = "/etc/systemd/system/apache2.service"
"""Masks the unit of Apache's package, which would take the gateway's port 80."""
WATCHED_FILES = (chat_files.GIVEN, chat_files.PROOF, LDAP_CA)
"""Files of the sign-in that the chat reads."""


@deploy("Sign-in")
def bring(chat: ChatPlan) -> list[OperationMeta]:
    """Bring all that the chat itself needs before it starts; without trusted headers free its port, too."""
    ldap = chat.sign_in.ldap
    if ldap and ldap.ca:
        ca = files.put(name="Bring the directory's authority", src=ldap.ca, dest=LDAP_CA, mode="0644")
    else:
        ca = files.file(name="Bring the directory's authority", path=LDAP_CA, present=False)
    given = chat_supplies.given_secrets(chat)
    if given:
        secrets = host_files.secret(
            name="Bring the secrets that others gave", dest=chat_files.GIVEN, content=environment_file(given)
        )
    else:
        secrets = files.file(name="Bring the secrets that others gave", path=chat_files.GIVEN, present=False)
    if chat.sign_in.trusted_headers:
        proof = chat_operations.make_proxy_secret(name="Make what Apache and the chat know each other by")
    else:
        proof = files.file(
            name="Make what Apache and the chat know each other by", path=chat_files.PROOF, present=False
        )
        _no_front()
    return [ca, secrets, proof]


@deploy("Sign-in")
def front(chat: ChatPlan, apache_packages: Sequence[str]) -> None:
    """Put Apache between HAProxy and the chat, where an admin's own directives say who may come in."""
    if chat.sign_in.trusted_headers:
        _front(chat, chat.sign_in.trusted_headers, apache_packages)


def _no_front() -> None:
    units.absent(name="Stop Apache in front of the chat", pattern=FRONT, keep=())
    for path in host.loop((FRONT_UNIT, FRONT_CONFIG, FRONT_ADMIN)):
        files.file(name=f"Remove {path}", path=path, present=False)


def _front(chat: ChatPlan, headers: TrustedHeadersPlan, apache_packages: Sequence[str]) -> None:
    files.link(name="Leave the ports to others: only flexi starts Apache", path=APACHE_UNIT_MASK, target="/dev/null")
    apache = packages.present(name="Install Apache", names=apache_packages)
    config = files.put(
        name="Write Apache's settings",
        src=StringIO(render("chat/front.conf.j2", chat=chat, headers=headers, inside="{}:{}".format(*chat.inside))),
        dest=FRONT_CONFIG,
        mode="0644",
    )
    # It may hold the secret of an Apache module.
    admin = host_files.secret(
        name="Bring the admin's directives",
        dest=FRONT_ADMIN,
        content=chat_supplies.text(headers.apache, "chat.sign_in.trusted_headers.apache"),
    )
    managed_service(
        FRONT,
        unit_files=[UnitFile("Write Apache's unit", f"templates/chat/{FRONT}", FRONT_UNIT)],
        restart_name="Restart Apache with what is new",
        start_name="Start Apache",
        watch=(FRONT_UNIT, FRONT_CONFIG, FRONT_ADMIN, chat_files.PROOF),
        command=f"{chat_front.settings_checked(FRONT_CONFIG, FRONT_ADMIN)}\nsystemctl restart {FRONT}",
        after=[apache, config, admin],
    )
