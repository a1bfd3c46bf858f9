"""The chat: Open WebUI from its own venv, which reaches the models through the gateway alone.

Prepared beside what runs: the gateway learns its key before the chat starts with it.
"""

from io import BytesIO, StringIO

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.api.operation import OperationMeta
from pyinfra.operations import files, systemd

from flexi.configs.chat_package import build
from flexi.operations import chat, packages, restart
from flexi.plan.build.chat_settings import DATA, PROGRAMS, environment_file
from flexi.plan.build.chat_sign_in import AGREEMENT
from flexi.plan.model.chat import AgreementPlan, ChatHostPlan
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
def permit(plan: Plan) -> None:
    """Fail the host before anything else where its chats would be hidden."""
    database.permit(plan.chat)


@deploy("Chat")
def prepare(chat_host: ChatHostPlan) -> None:
    """Do what takes long and interrupts nobody."""
    service_user(USER, "the chat's", home=DATA)
    files.directory(name="Make the chat's data directory", path=DATA, user=USER, group=USER, mode="0700")
    packages.present(name="Install the Python that runs the chat", names=chat_host.packages)
    chat.install_release(
        name=f"Install Open WebUI {chat_host.version}, each package checked by its hash", chat_host=chat_host
    )
    database.prepare(chat_host.database)
    chat.make_secrets(name="Make the chat's secrets, which never leave this host")


@deploy("Chat")
def install(plan: Plan, chat_host: ChatHostPlan) -> None:
    """Switch to the planned release and settings."""
    package = files.put(name="Write the chat's programs", src=BytesIO(build()), dest=PROGRAMS, mode="0644")
    settings = files.put(
        name="Write the chat's settings",
        src=StringIO(environment_file(chat_host.environment)),
        dest=SETTINGS,
        group=USER,
        mode="0640",
        create_remote_dir=False,
    )
    agreement = _agreement(plan.chat.agreement)
    given = sign_in.bring(plan.chat)
    logo = _logo(plan.chat.logo)
    unit = files.put(name="Write the chat's unit", src=f"templates/chat/{SERVICE}", dest=UNIT, mode="0644")
    switch = chat.switch_release(
        name=f"Make Open WebUI {chat_host.version} the current release", release=chat_host.release
    )
    _restart([package, settings, *agreement, *given, logo, unit, switch])
    systemd.service(name="Start the chat", service=SERVICE, running=True, enabled=True)
    database.note(plan.chat)
    database.retire(chat_host.database)
    sign_in.front(plan.chat, chat_host.front_packages)
    cleaning.clean()
    chat.remove_old_releases(name="Remove releases that nobody goes back to", release=chat_host.release, after=[switch])


@deploy("Chat")
def roll_back(chat_host: ChatHostPlan) -> None:
    """Switch to the release before, with the same chats."""
    _restart([chat.roll_back(name="Make the previous release current, the database with it", chat_host=chat_host)])


def _restart(after: list[OperationMeta]) -> None:
    restart.on_change(
        name="Restart the chat with what is new",
        service=SERVICE,
        watch=(
            chat.CURRENT_DIGEST,
            PROGRAMS,
            SETTINGS,
            chat.SECRETS,
            UNIT,
            LOGO,
            *AGREEMENT_FILES,
            *sign_in.WATCHED_FILES,
        ),
        after=after,
    )


def _logo(path: str | None) -> OperationMeta:
    if path is None:
        return files.file(name="Show no logo of the site", path=LOGO, present=False)
    return files.put(name="Bring the site's logo", src=path, dest=LOGO, group=USER, mode="0640")


def _agreement(agreement: AgreementPlan | None) -> list[OperationMeta]:
    """Write what users agree to; without an agreement remove its files."""
    if agreement is not None:
        files.directory(name="Make the directory of the agreement", path=AGREEMENT, group=USER, mode="0750")
    sources = (StringIO(f"{agreement.version}\n"), agreement.de, agreement.en) if agreement else (None, None, None)
    written = []
    for source, dest in host.loop(zip(sources, AGREEMENT_FILES, strict=True)):
        name = f"Write what users agree to ({dest.rsplit('/', 1)[1]})"
        if source is None:
            written.append(files.file(name=name, path=dest, present=False))
        else:
            written.append(files.put(name=name, src=source, dest=dest, group=USER, mode="0640"))
    return written
