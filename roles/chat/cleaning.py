"""Once a day: what the chat need not keep any longer goes (`flexi_chat.cleaning`)."""

from pyinfra.api import deploy

from roles.services import UNIT_DIRECTORY, UnitFile, managed_service

TIMER = "flexi-chat-cleaning.timer"
UNITS = ("flexi-chat-cleaning.service", TIMER)


@deploy("Cleaning")
def clean() -> None:
    """Run the timer that deletes what the chat need not keep."""
    managed_service(
        TIMER,
        unit_files=[UnitFile(f"Write {unit}", f"templates/chat/{unit}", f"{UNIT_DIRECTORY}/{unit}") for unit in UNITS],
        restart_name="Follow the cleaning's units",
        start_name="Clean the chat once a day",
    )
