"""The release before the present one, host by host: Ollama's, or with the data `chat` Open WebUI's on its host. Stores,
chats, the driver and all settings stay."""

from pyinfra import host

from roles import chat, ollama, turn

site = host.data.flexi_plan
plan = host.data.flexi_host


def change() -> None:
    turn.end(plan, ollama.roll_back(plan, _sudo=True), _sudo=True)


if host.data.get("chat"):
    if plan.chat:
        chat.roll_back(plan.chat, _sudo=True)
else:
    mine = turn.number(site, plan.name)
    for number in host.loop(turn.numbers(site)):
        turn.begin(number, mine, _sudo=True)
        if number == mine and plan.ollama:
            change()
