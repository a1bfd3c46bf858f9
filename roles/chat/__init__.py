"""The chat: Open WebUI from its own venv, which reaches the models through the gateway alone.

Prepared beside what runs: the gateway learns its key before the chat starts with it.
"""

from io import BytesIO, StringIO

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.api.operation import OperationMeta
from pyinfra.operations import files, systemd

from flexi.configs.chat_package import build
from flexi.operations.applying import applied
from flexi.operations.chat import (
    CURRENT_DIGEST,
    SECRETS,
    chat_release,
    chat_releases_kept,
    chat_secrets,
    current_chat,
    previous_chat,
)
from flexi.operations.packages import installed
from flexi.plan.build.chat_settings import DATA, PROGRAMS, environment_file
from flexi.plan.build.chat_sign_in import AGREEMENT
from flexi.plan.model.chat import AgreementPlan, ChatHostPlan, ChatPlan
from flexi.plan.model.site import Plan
from roles.chat import cleaning, database, sign_in
from roles.users import service_user

USER = "flexi-chat"
SETTINGS = "/etc/flexi/chat.env"
SERVICE = "flexi-chat.service"
UNIT = f"/etc/systemd/system/{SERVICE}"
LOGO = "/etc/flexi/chat-logo.png"
AGREEMENT_FILES = tuple(f"{AGREEMENT}/{name}" for name in ("version", "de.md", "en.md"))


@deploy("Chat")
def permit(chat: ChatPlan) -> None:
    """Before anything else."""
    database.permit(chat)


@deploy("Chat")
def prepare(plan: ChatHostPlan) -> None:
    """What takes long and interrupts nobody."""
    service_user(USER, "the chat's", home=DATA)
    files.directory(name="Make the chat's data directory", path=DATA, user=USER, group=USER, mode="0700")
    installed(name="Install the Python that runs the chat", packages=plan.packages)
    chat_release(name=f"Install Open WebUI {plan.version}, each package checked by its hash", plan=plan)
    database.prepare(plan.database)
    chat_secrets(name="Make the chat's secrets, which never leave this host")


@deploy("Chat")
def install(site: Plan, plan: ChatHostPlan) -> None:
    """Switch to the planned release and settings."""
    package = files.put(name="Write the chat's programs", src=BytesIO(build()), dest=PROGRAMS, mode="0644")
    settings = files.put(
        name="Write the chat's settings",
        src=StringIO(environment_file(plan.environment)),
        dest=SETTINGS,
        group=USER,
        mode="0640",
        create_remote_dir=False,
    )
    agreement = _agreement(site.chat.agreement)
    given = sign_in.bring(site.chat)
    logo = _logo(site.chat.logo)
    unit = files.put(name="Write the chat's unit", src=f"templates/chat/{SERVICE}", dest=UNIT, mode="0644")
    switch = current_chat(name=f"Make Open WebUI {plan.version} the current release", release=plan.release)
    _restart([package, settings, *agreement, *given, logo, unit, switch])
    systemd.service(name="Start the chat", service=SERVICE, running=True, enabled=True)
    database.note(site.chat)
    database.retire(plan.database)
    sign_in.front(site.chat, plan.front_packages)
    cleaning.clean()
    chat_releases_kept(name="Remove releases that nobody goes back to", release=plan.release, after=[switch])


@deploy("Chat")
def roll_back(plan: ChatHostPlan) -> None:
    """Switch to the release before, with the same chats."""
    _restart([previous_chat(name="Make the previous release current, the database with it", plan=plan)])


def _restart(after: list[OperationMeta]) -> None:
    applied(
        name="Restart the chat with what is new",
        what=SERVICE,
        inputs=(CURRENT_DIGEST, PROGRAMS, SETTINGS, SECRETS, UNIT, LOGO, *AGREEMENT_FILES, *sign_in.INPUTS),
        command=f"systemctl restart {SERVICE}",
        after=after,
    )


def _logo(path: str | None) -> OperationMeta:
    if path is None:
        return files.file(name="Show no logo of the site", path=LOGO, present=False)
    return files.put(name="Bring the site's logo", src=path, dest=LOGO, group=USER, mode="0640")


def _agreement(plan: AgreementPlan | None) -> list[OperationMeta]:
    """What users agree to; without an agreement its files go."""
    if plan is not None:
        files.directory(name="Make the directory of the agreement", path=AGREEMENT, group=USER, mode="0750")
    sources = (StringIO(f"{plan.version}\n"), plan.de, plan.en) if plan else (None, None, None)
    written = []
    for source, dest in host.loop(zip(sources, AGREEMENT_FILES, strict=True)):
        name = f"Write what users agree to ({dest.rsplit('/', 1)[1]})"
        if source is None:
            written.append(files.file(name=name, path=dest, present=False))
        else:
            written.append(files.put(name=name, src=source, dest=dest, group=USER, mode="0640"))
    return written
