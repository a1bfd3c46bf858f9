"""What several processes of the chat share: PostgreSQL with pgvector, and a Redis for what one tells the other."""

from io import StringIO

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.operations import files, systemd

from flexi.components import chat as chat_files
from flexi.local_files.chat_place import place
from flexi.operations.applying import applied
from flexi.operations.chat_database import chats_stay_seen, database_made, redis_installed
from flexi.operations.packages import installed
from flexi.operations.retiring import retired
from flexi.plan.model.chat import ChatDatabasePlan, ChatPlan

HEALING = "/etc/systemd/system/postgresql@.service.d/flexi.conf"
REDIS = "flexi-chat-redis.service"
REDIS_UNIT = f"/etc/systemd/system/{REDIS}"


@deploy("Chat's database")
def permit(chat: ChatPlan) -> None:
    """Before anything else: a host whose chats nobody would see any more is left as it is."""
    chats_stay_seen(
        name="See that no chats would be hidden", wanted=place(chat), left=str(host.data.get("leave_chats") or "")
    )


@deploy("Chat's database")
def note(chat: ChatPlan) -> None:
    """Once the chat runs with it."""
    files.put(name="Note where the chats are", src=StringIO(f"{place(chat)}\n"), dest=chat_files.PLACE, mode="0644")


@deploy("Chat's database")
def prepare(plan: ChatDatabasePlan | None) -> None:
    """Everything that the chat needs before it starts with it. Nothing where SQLite will do."""
    if plan is None:
        return
    installed(name="Install what the chat's database needs", packages=plan.packages)
    if plan.server:
        _server(plan.name)
    if plan.redis_package:
        _redis(plan.redis_package)


@deploy("Chat's database")
def retire(plan: ChatDatabasePlan | None) -> None:
    """What the chat no longer uses is stopped once it runs without. PostgreSQL stays: it has what people wrote."""
    keep = [REDIS] if plan and plan.redis_package else []
    retired(name="Stop a Redis that the chat no longer uses", pattern=REDIS, keep=keep)


def _server(database: str) -> None:
    healing = files.put(
        name="Have PostgreSQL start again when it was killed",
        src="templates/chat/postgresql.conf",
        dest=HEALING,
        mode="0644",
    )
    applied(
        name="Let systemd know",
        what="postgresql@.service",
        inputs=(HEALING,),
        command="true",
        after=[healing],
    )
    systemd.service(name="Start PostgreSQL", service="postgresql.service", running=True, enabled=True)
    database_made(name="Make the chat's database", database=database)


def _redis(package: str) -> None:
    redis_installed(name="Install Redis", package=package, service="redis-server.service")
    unit = files.put(
        name="Write the unit of the chat's Redis",
        src=f"templates/chat/{REDIS}",
        dest=REDIS_UNIT,
        mode="0644",
    )
    applied(
        name="Restart the chat's Redis with a new unit",
        what=REDIS,
        inputs=(REDIS_UNIT,),
        command=f"systemctl restart {REDIS}",
        after=[unit],
    )
    systemd.service(name="Start the chat's Redis", service=REDIS, running=True, enabled=True)
