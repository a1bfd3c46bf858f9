"""The chat's shared services, for several processes of it: PostgreSQL with pgvector, and a Redis for messages."""

from io import StringIO

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.operations import files

from flexi.components import chat as chat_files
from flexi.local_files.chat_place import place
from flexi.operations import chat_database, packages, units
from flexi.plan.model.chat import ChatDatabasePlan, ChatPlan
from roles.services import UnitFile, managed_service

HEALING = "/etc/systemd/system/postgresql@.service.d/flexi.conf"
REDIS = "flexi-chat-redis.service"
REDIS_UNIT = f"/etc/systemd/system/{REDIS}"


@deploy("Chat's database")
def permit(chat: ChatPlan) -> None:
    """Fail the host before anything else where nobody would see its chats any more."""
    chat_database.fail_if_chats_hidden(
        name="See that no chats would be hidden", wanted=place(chat), left=str(host.data.get("leave_chats") or "")
    )


@deploy("Chat's database")
def note(chat: ChatPlan) -> None:
    """Note where the chats are, once the chat runs with it."""
    files.put(name="Note where the chats are", src=StringIO(f"{place(chat)}\n"), dest=chat_files.PLACE, mode="0644")


@deploy("Chat's database")
def prepare(database: ChatDatabasePlan | None) -> None:
    """Install all that the chat needs of its database before it starts; nothing where SQLite will do."""
    if database is None:
        return
    packages.present(name="Install what the chat's database needs", names=database.packages)
    if database.server:
        _server(database.name)
    if database.redis_package:
        _redis(database.redis_package)


@deploy("Chat's database")
def retire(database: ChatDatabasePlan | None) -> None:
    """Stop what the chat no longer uses once it runs without. PostgreSQL stays: it has what people wrote."""
    keep = [REDIS] if database and database.redis_package else []
    units.absent(name="Stop a Redis that the chat no longer uses", pattern=REDIS, keep=keep)


def _server(database: str) -> None:
    managed_service(
        "postgresql.service",
        unit_files=[
            UnitFile("Have PostgreSQL start again when it was killed", "templates/chat/postgresql.conf", HEALING)
        ],
        restart_name="Let systemd know",
        start_name="Start PostgreSQL",
        stamp="postgresql@.service",
        command="true",
    )
    chat_database.create(name="Make the chat's database", database=database)


def _redis(package: str) -> None:
    chat_database.install_redis(name="Install Redis", package=package, service="redis-server.service")
    managed_service(
        REDIS,
        unit_files=[UnitFile("Write the unit of the chat's Redis", f"templates/chat/{REDIS}", REDIS_UNIT)],
        restart_name="Restart the chat's Redis with a new unit",
        start_name="Start the chat's Redis",
    )
