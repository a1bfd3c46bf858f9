"""Once a day: what the chat need not keep any longer goes (`flexi_chat.cleaning`)."""

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.operations import files, systemd

from flexi.operations.applying import applied

TIMER = "flexi-chat-cleaning.timer"
UNITS = ("flexi-chat-cleaning.service", TIMER)


@deploy("Cleaning")
def clean() -> None:
    written = []
    for unit in host.loop(UNITS):
        dest = f"/etc/systemd/system/{unit}"
        written.append(files.put(name=f"Write {unit}", src=f"templates/chat/{unit}", dest=dest, mode="0644"))
    applied(
        name="Follow the cleaning's units",
        what=TIMER,
        inputs=tuple(f"/etc/systemd/system/{unit}" for unit in UNITS),
        command=f"systemctl restart {TIMER}",
        after=written,
    )
    systemd.service(name="Clean the chat once a day", service=TIMER, running=True, enabled=True)
