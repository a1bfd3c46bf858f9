"""Course bots in the chat, and which models its users may reach: made what the plan says, and kept so by a timer."""

from pyinfra.api import deploy
from pyinfra.operations import files, systemd

from flexi.components import chat as chat_files
from flexi.operations.applying import applied
from flexi.operations.courses import TIMER, courses_converged, courses_file, material_brought
from flexi.plan.model.chat import ChatPlan
from flexi.plan.model.courses import COURSES_FILE, COURSES_STORE

UNITS = ("flexi-courses.service", TIMER)


@deploy("Course bots")
def install(chat: ChatPlan) -> None:
    """After the chat: it is asked what there is."""
    files.directory(
        name="Make the directory of course material", path=COURSES_STORE, group=chat_files.USER, mode="0750"
    )
    material_brought(name="Bring course material", courses=chat.courses)
    units = [
        files.put(
            name=f"Write {unit}", src=f"templates/courses/{unit}", dest=f"/etc/systemd/system/{unit}", mode="0644"
        )
        for unit in UNITS
    ]
    applied(
        name="Restart the timer of course bots with what is new",
        what=TIMER,
        inputs=[f"/etc/systemd/system/{unit}" for unit in UNITS],
        command=f"systemctl restart {TIMER}",
        after=units,
    )
    systemd.service(name="Start the timer of course bots", service=TIMER, running=True, enabled=True)
    courses_file(name="Write what course bots there should be", chat=chat, dest=COURSES_FILE, group=chat_files.USER)
    # Last: what it cannot do now the timer does later.
    courses_converged(name="Make the course bots so", chat=chat)
