"""Course bots in the chat, and which models its users may reach: made what the plan says, and kept so by a timer."""

from pyinfra.api import deploy
from pyinfra.operations import files

from flexi.components import chat as chat_files
from flexi.operations import courses
from flexi.plan.model.chat import ChatPlan
from flexi.plan.model.courses import COURSES_FILE, COURSES_STORE
from roles.services import UNIT_DIRECTORY, UnitFile, managed_service

UNITS = ("flexi-courses.service", courses.TIMER)


@deploy("Course bots")
def install(chat: ChatPlan) -> None:
    """Bring course material, write what bots there should be and make them so, after the chat, which is asked."""
    files.directory(
        name="Make the directory of course material", path=COURSES_STORE, group=chat_files.USER, mode="0750"
    )
    courses.upload_material(name="Bring course material", courses=chat.courses)
    managed_service(
        courses.TIMER,
        unit_files=[
            UnitFile(f"Write {unit}", f"templates/courses/{unit}", f"{UNIT_DIRECTORY}/{unit}") for unit in UNITS
        ],
        restart_name="Restart the timer of course bots with what is new",
        start_name="Start the timer of course bots",
    )
    courses.write_wanted(
        name="Write what course bots there should be", chat=chat, dest=COURSES_FILE, group=chat_files.USER
    )
    # Last: what it cannot do now the timer does later.
    courses.converge(name="Make the course bots so", chat=chat)
