"""The release before the present one, host by host: Ollama's, or with the data `chat` Open WebUI's on its host. Stores,
chats, the driver and all settings stay."""

from pyinfra import host

from roles import chat, ollama, turn

plan = host.data.flexi_plan
host_plan = host.data.flexi_host


def change() -> None:
    turn.end(host_plan, ollama.roll_back(host_plan, _sudo=True), _sudo=True)


if host.data.get("chat"):
    if host_plan.chat:
        chat.roll_back(host_plan.chat, _sudo=True)
else:
    own_turn = turn.number(plan, host_plan)
    for number in host.loop(turn.numbers(plan)):
        turn.begin(number, own_turn, _sudo=True)
        if number == own_turn and host_plan.ollama:
            change()
