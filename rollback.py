"""Ollama's release before the present one, host by host. The stores, the driver and all settings stay."""

from pyinfra import host

from roles import ollama, turn

site = host.data.flexi_plan
plan = host.data.flexi_host


def change() -> None:
    turn.end(plan, ollama.roll_back(plan, _sudo=True), _sudo=True)


mine = turn.number(site, plan.name)
for number in host.loop(turn.numbers(site)):
    turn.begin(number, mine, _sudo=True)
    if number == mine and plan.ollama:
        change()
